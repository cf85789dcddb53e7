// An architecture: what a decoder's files call their keys and tensors, and what its own code makes
// of them. One file each in this folder, one line each in the registry (registry.cc); see
// docs/adding_an_architecture.md. What all decoders share is read by config/config_text.cc; a block
// part that none has yet belongs to model/block.h first.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "model/config/config.h"
#include "model/tensor_table.h"

namespace reprise {

// What a key means that config.json doesn't have: the defaults of the architecture's config class
// in transformers. They hold for absent keys only; null means what is said at each.
struct KeyDefaults {
  int kv_heads = 0;  // num_key_value_heads; 0, and null in the file: num_attention_heads
  int head_dim = 0;  // 0, and null in the file: hidden_size / num_attention_heads
  const char* activation = "silu";  // hidden_act
  double norm_eps = 1e-6;           // see norm_eps_key
  int64_t max_position = 0;         // max_position_embeddings
  double rope_theta = 10000;
  bool tied_head = false;  // tie_word_embeddings
};

// What its code makes of rope's keys.
struct RopeRules {
  // What rope_theta and partial_rotary_factor are called outside of rope_parameters. Null: its code
  // rotates whole heads.
  const char* theta_key = "rope_theta";
  const char* partial_key = nullptr;
  double partial = 1;  // of a head is rotated where the key is absent
  // "yarn" is its own name for LongRoPE with one set of factors for short and one for long
  // requests.
  bool yarn_is_long_rope = false;
  // original_max_position_embeddings where it is absent; 0: max_position_embeddings.
  int64_t original_max_position = 0;
  // Layers with a window have a plain rope of their own: its base's key outside of rope_parameters,
  // and what its absence means. Null: all layers have the same.
  const char* windowed_theta_key = nullptr;
  double windowed_theta = 0;
};

// What llama.cpp's files hold of it, and how their weights differ from a folder's.
struct GgufForm {
  const char* name = nullptr;      // general.architecture; null: such files aren't read
  bool interleaved = false;        // rows of q and k are permuted for rope on pairs (2i, 2i + 1)
  bool norm_offset_added = false;  // norms hold offset + weight
  bool optional_biases = false;    // attention_bias, mlp_bias: told by the tensors that are there
  const char* qkv = nullptr;       // "reprise.qkv", where not as in the architecture's folders
  std::vector<const char*> keys = {};  // flags and whole numbers of config.json that they may have
  // Their key of the base of windowed layers' rope, which it may lack.
  const char* windowed_theta = nullptr;
  // Puts in the keys of config.json that they leave out and that don't mean what their absence there
  // means; null: there are none.
  void (*complete)(Json& json) = nullptr;
  // Turns the keys that such a file has been read as into those that a folder's config.json has for
  // the architecture's own code. It may name another architecture whose code computes the same.
  // Null: they are those.
  void (*to_folder)(Json& json) = nullptr;
};

// The keys of one decoder.
struct DecoderKeys {
  const JsonObject& json;
  Dialect dialect;
};

struct Architecture {
  const char* name;                    // in config.json's "architectures"
  const char* model_type = nullptr;    // in config.json's "model_type"
  NormKind norm = NormKind::Rms;
  KeyDefaults defaults;
  RopeRules rope;
  // A looped model made of one stores q, k and v apart, each with adapters of its own; else fused
  // matrices stay fused, with one adapter.
  bool looped_apart = false;
  GgufForm gguf;
  // Flags that `read` reads and that mean nothing this program knows elsewhere. GGUF files have
  // them under the same name, and must have them.
  std::vector<const char*> own_flags;
  // Other keys that `read` reads and that are refused elsewhere.
  std::vector<const char*> own_keys;
  // Ends of names of tensors that old files hold and nothing reads.
  std::vector<const char*> unread;
  const NameTable* names = &hugging_face_names();  // of a folder's tensors
  // Reads the keys that are its own and says what its blocks are made of. Sizes, and blocks that
  // are all alike (norm, scale, no window), have been read before.
  void (*read)(const DecoderKeys& keys, TextConfig& text);
};

// In the registry's order.
const std::vector<Architecture>& architectures();
// By "architectures" / by general.architecture; null where it is unknown.
const Architecture* find_architecture(const std::string& name);
const Architecture* find_gguf_architecture(const std::string& name);
// For messages: "LlamaForCausalLM, ..." / "llama, ...".
std::string architecture_names();
std::string gguf_architecture_names();

// ---- For the readers.

// The key of norms' eps: rms_norm_eps or layer_norm_eps.
const char* norm_eps_key(const Architecture& kind);
// A flag; absent and null mean `absent`.
bool read_flag(const DecoderKeys& keys, const char* key, bool absent = false);
// Notes a problem where a flag is true that this program doesn't know in this architecture.
void refuse_flag(const DecoderKeys& keys, const char* key);
// Windows of sliding_window's number of keys (`absent` where the key is missing; null: no window).
// "layer_types" says on which layers; where it is absent, those from `first` on.
void read_windows(const DecoderKeys& keys, int64_t absent, int64_t first, TextConfig& text);
inline constexpr int64_t kNoLayer = INT64_MAX;
// The same where absent layer_types mean the layers that `has` says.
void read_windows(const DecoderKeys& keys, int64_t absent,
                  const std::function<bool(const BlockConfig& block, int64_t layer)>& has,
                  TextConfig& text);
// "use_sliding_window", off where absent. Notes a problem where it is off and layer_types have some.
bool windows_switched_on(const DecoderKeys& keys, const TextConfig& text);
// As Qwen has windows: where they are switched on, on layers from max_window_layers on.
void read_switched_windows(const DecoderKeys& keys, TextConfig& text);

// ---- For GgufForm::to_folder. Where windows are there, they are on all layers.

// As Qwen has them.
void write_switched_windows(Json& json);
// As Llama has them, which is not at all: a Llama with windows is a Mistral.
void write_llama_windows(Json& json);
// Takes away what says that there are none. Throws Error where there are some.
void write_no_windows(Json& json);

}  // namespace reprise
