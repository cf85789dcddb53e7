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

namespace reprise {

// How rope's frequencies follow from the position and the length of the request.
struct RopeConfig {
  enum class Kind { Plain, Linear, Dynamic, LongRope, Llama3 };
  Kind kind = Kind::Plain;
  double theta = 0;
  int dim = 0;               // rotated components per head, even
  bool interleaved = false;  // pairs (2i, 2i+1): GGUF files of Llama-type models
  double factor = 1;         // Linear, Dynamic, Llama3
  int64_t max_position = 0;
  int64_t original_max_position = 0;  // LongRope, Llama3
  std::vector<double> short_factor;   // LongRope ("su"): [dim / 2]
  std::vector<double> long_factor;
  double attention_factor = 1;  // on cos and sin
  double low_freq_factor = 1;   // Llama3
  double high_freq_factor = 4;
};

enum class TextFamily { Llama, Qwen2, Phi3, InternLm2 };

struct TextConfig {
  TextFamily family = TextFamily::Llama;
  std::string architecture;  // as the file calls it
  int layers = 0;            // blocks stored in the file
  int d = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;
  int64_t vocab = 0;       // rows of the head: what can be generated
  int64_t embed_rows = 0;  // rows of the embedding; may exceed vocab (TroL's image token)
  float norm_eps = 0;
  Unary activation = Unary::Silu;
  bool qkv_bias = false;
  bool fused_qkv = false;      // one matrix: all q heads, all k heads, all v heads (Phi-3)
  bool grouped_qkv = false;    // fused, by KV head: its q heads, its k, its v (InternLM2)
  bool fused_gate_up = false;  // one matrix: gate half, up half (Phi-3)
  bool tied_head = false;
  // The head is tied only where the file holds none of its own: the wrappers of TroL and Phantom
  // don't tie what from_pretrained has read, whatever tie_word_embeddings says.
  bool stored_head_counts = false;
  int image_lora_rank = 0;  // TroL on InternLM2: adapters at image tokens only; 0: none
  int64_t window = 0;       // 0: none. A token sees itself and `window` before it
  int64_t max_position = 0;
  RopeConfig rope;
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
  std::string where;   // file the config came from, for messages
  std::string scheme;  // a SchemeType's name
  JsonValue scheme_config;  // the scheme's own keys; an object
  TextConfig text;
  std::optional<VisionConfig> vision;
  ImageConfig image;
  // Id of the image placeholder; -1: none, or a vision tower whose config leaves it to the
  // tokenizer (Model::set_image_token).
  int64_t image_token = -1;
  std::vector<int64_t> eos_tokens;
  int64_t bos_token = -1;
  std::string chat_format;           // named in the file, or empty
  std::string tensor_prefix;         // of the language model's tensors: "", "language_model."
  std::vector<std::string> presets;  // names of presets that supplied constants
  JsonValue source;                  // config.json as read (kept for export)
};

// From config.json (as parsed) of a Hugging Face folder. Throws one Error that lists what is wrong,
// a line and a key each. With `problems` it is noted there instead and the config holds what could
// be read: harmless sizes where they are wrong, and 0 layers where it isn't known which tensors
// there are.
ModelConfig config_from_json(const Json& json, const std::string& where,
                             Problems* problems = nullptr);

}  // namespace reprise
