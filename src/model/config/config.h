// A model's shape, read from config.json or GGUF keys. Explicit: nothing is guessed from tensors
// and no key gets a silent default. Where an official release leaves constants to its code, a named
// preset supplies them and `presets` says so.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "base/json_fwd.h"
#include "model/config/exit_config.h"

namespace reprise {

// How rope's frequencies follow from the position and the length of the request.
struct RopeConfig {
  enum class Kind { Plain, Linear, Dynamic, LongRope, Llama3, Yarn };
  Kind kind = Kind::Plain;
  double theta = 0;
  int dim = 0;               // rotated components per head, even
  bool interleaved = false;  // pairs (2i, 2i+1): GGUF files of Llama-type models
  double factor = 1;         // Linear, Dynamic, Llama3, Yarn
  int64_t max_position = 0;
  int64_t original_max_position = 0;  // LongRope, Llama3, Yarn
  std::vector<double> short_factor;   // LongRope ("su"): [dim / 2]
  std::vector<double> long_factor;
  double attention_factor = 1;  // on cos and sin
  double low_freq_factor = 1;   // Llama3
  double high_freq_factor = 4;
  double beta_fast = 32;  // Yarn: rotations within the original context above which a frequency is
  double beta_slow = 1;   // kept, and below which it is divided by factor
  bool truncate = true;   // Yarn: the frequencies between begin and end at whole indices
};

struct NormConfig {
  NormKind kind = NormKind::Rms;
  bool bias = false;  // NormKind::Layer only
  float eps = 0;
  float offset = 0;   // added to the weight; NormKind::Rms only
  bool unit = false;  // x / sqrt(sum x^2 + eps), without weights; NormKind::Rms only
};

// Blocks of nGPT (arXiv 2410.01131): states of length 1, which attention and MLP move towards what
// they give. Learned scales are stored as if they were weights of this initial range.
struct NgptConfig {
  float range = 1;  // initial value of stored scales
  float alpha = 1;  // initial share that a state moves
};

// Norms behind attention and behind the MLP, each with weights of its own.
enum class PostNorm {
  None,
  Branch,  // of what is added to the state: x + norm(f(x))
  State,   // of the state behind it: norm(x + f(x))
};

// Norms of q and of k before rope.
enum class QkNorm {
  None,
  Head,  // of each head, all with the same weights: [head_dim]
  All,   // of all heads as one vector: [heads * head_dim], [kv_heads * head_dim]
};

inline constexpr int kNoRope = -1;

// What one block may have otherwise than its neighbours.
struct BlockConfig {
  NormConfig norm;       // of all its norms
  bool pre_norm = true;  // before attention and before the MLP
  PostNorm post_norm = PostNorm::None;
  QkNorm qk_norm = QkNorm::None;
  bool qk_bias = false;  // added to q and to k before rope: [2, 1, heads, head_dim]
  int rope = 0;          // of TextConfig::ropes; kNoRope: q and k stay as they are
  float scale = 0;       // on q.k, before the softmax
  int64_t window = 0;    // keys a token sees, itself included; 0: all before it
};

// Whose code says what a decoder's config means, where the two differ: that of transformers, or the
// one that TroL and Phantom were released with. There a window of W is one of W + 1 keys, Phi-3's
// "yarn" has another factor, and a head is tied only where the file holds none of its own (the
// wrappers don't tie what from_pretrained has read, whatever tie_word_embeddings says).
enum class Dialect { Transformers, Release };

struct Architecture;  // arch/architecture.h

struct TextConfig {
  const Architecture* kind = nullptr;
  std::string architecture;  // as the file calls it
  int layers = 0;            // blocks stored in the file
  int d = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;
  int64_t vocab = 0;       // rows of the head: what can be generated
  int64_t embed_rows = 0;  // rows of the embedding; may exceed vocab (TroL's image token)
  Unary activation = Unary::Silu;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  // How q, k and v are stored: as the architecture's files have them, or as the config's own key
  // "reprise": {"qkv": "separate" | "fused" | "grouped"} says.
  bool fused_qkv = false;          // one matrix: all q heads, all k heads, all v heads (Phi-3)
  bool grouped_qkv = false;        // fused, by KV head: its q heads, its k, its v (InternLM2)
  bool gated_mlp = true;           // down(act(gate(x)) * up(x)); false: down(act(up(x)))
  bool fused_gate_up = false;      // one matrix: gate half, up half (Phi-3)
  std::optional<NgptConfig> ngpt;  // blocks are nGPT's
  bool parallel_residual = false;  // attention and MLP both read a block's input (GPT-NeoX)
  bool tied_head = false;
  // The head is tied only where the file holds none of its own; else, where tied_head, a head of
  // other values than the embedding's counts all the same (Dialect).
  bool stored_head_counts = false;
  // What traces of Phantom show is repeated over the heads that share a KV head, as the released
  // classes repeat it before all else; InternLM2's doesn't.
  bool trace_repeats_kv = true;
  int image_lora_rank = 0;  // TroL on InternLM2: adapters at image tokens only; 0: none
  int64_t max_position = 0;
  float score_softcap = 0;  // of attention: AttentionSpec::softcap
  float logit_softcap = 0;  // the same of logits
  float embed_scale = 1;    // on a token's embedding; the head, where tied, has the table as it is
  NormConfig final_norm;
  // What the files call each layer, where they aren't numbered from 0 ("coda.1"); empty: they are.
  // Where the files have attention and MLP apart (NameTable::apart), both of each layer.
  std::vector<std::string> layer_names;
  std::vector<RopeConfig> ropes;    // those that blocks have
  std::vector<BlockConfig> blocks;  // [layers]
};

struct VisionConfig {
  enum class Kind { Clip, InternVit };
  Kind kind = Kind::InternVit;
  int d = 0;
  int layers = 0;
  int heads = 0;
  int ffn = 0;
  int patch = 0;
  int image_size = 0;  // side of one tile in pixels
  float norm_eps = 0;
  Unary activation = Unary::Gelu;
  bool qkv_bias = true;
  int shuffle = 1;  // pixel shuffle: shuffle x shuffle patches become one token (InternVit)
  int projector_hidden = 0;

  int patches_per_side() const { return image_size / patch; }
  int tokens_per_tile() const {
    const int side = patches_per_side() / shuffle;
    return side * side;
  }
  int projector_in() const { return d * shuffle * shuffle; }
};

// How pixels are made from a picture; the image module does it.
struct ImageConfig {
  enum class Kind { Clip490, Tiles, Square };
  Kind kind = Kind::Square;
  int size = 0;
  int max_tiles = 1;
  std::vector<float> mean, std;
};

struct ModelConfig {
  std::string where;        // file the config came from, for messages
  std::string scheme;       // a SchemeType's name
  JsonValue scheme_config;  // the scheme's own keys; an object
  TextConfig text;
  std::optional<VisionConfig> vision;
  ImageConfig image;
  // Id of the image placeholder; -1: none, or a vision tower whose config leaves it to the
  // tokenizer (Model::set_image_token).
  int64_t image_token = -1;
  std::vector<int64_t> eos_tokens;
  int64_t bos_token = -1;
  std::string chat_format;  // named in the file, or empty
  // The stored plan, in the short form that parse_plan reads: the plan of requests that name none.
  // Empty: there is none.
  std::string plan;
  // How to leave early, where the file has an opinion. What is wrong with it counts where it is used
  // alone: another rule may be asked for, or stored in its place.
  std::optional<ExitConfig> exit;
  std::string exit_problem;          // "FILE: key 'reprise.exit.kind': ..."; empty: nothing
  std::string tensor_prefix;         // of the language model's tensors: "", "language_model."
  std::vector<std::string> presets;  // names of presets that supplied constants
  JsonValue source;                  // config.json as read (kept for export)
};

// The most tokens a request may have; 0: nothing in the model bounds it (rope that stretches).
int64_t context_limit(const TextConfig& text);

// From config.json (as parsed) of a Hugging Face folder. Throws one Error that lists what is wrong,
// a line and a key each. With `problems` it is noted there instead and the config holds what could
// be read: harmless sizes where they are wrong, and 0 layers where it isn't known which tensors
// there are.
ModelConfig config_from_json(const Json& json, const std::string& where,
                             Problems* problems = nullptr);

}  // namespace reprise
