// One visit of a model's tensors serves loading, saving, converting, quantizing, counting and
// training: whoever holds weights tells a visitor the name, shape and role of each.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace reprise {

enum class Role {
  Embedding,
  Head,
  Norm,
  Attention,
  Mlp,
  Bias,
  Vision,
  Projector,
  Gate,
  Scheme,  // a scheme's own, small and sensitive as gates are; TensorSlot::scheme_role says what
  Adapter
};

struct TensorSlot {
  std::string name;  // in the file
  Shape shape;       // in the file
  WeightUse use;
  Role role;
  Tensor* tensor;  // where the bound weight goes
  // Matrices stored with more dimensions (patch convolutions): bound as [shape[0], rest].
  bool flatten = false;
  const char* scheme_role = "";  // Role::Scheme: in words, for people
  float offset = 0;              // added to the values where they are used: NormWeight::offset
  // Of a block's matrices, and of what has their rows (biases, B of adapters): which one (a key of
  // NameTable::names), and the layer's number in the file.
  std::string key;
  int layer = -1;
};

using TensorVisitor = std::function<void(const TensorSlot&)>;

// How one kind of file names a decoder's tensors, without ".weight" / ".bias" at the end.
struct NameTable {
  const char* layers;     // before a layer's number: "model.layers."
  const char* attention;  // between a layer and parts of its attention: "self_attn."
  // By key: "embed", "head", "final_norm"; of a layer "attn_norm", "q", "k", "v", "qkv", "q_norm",
  // "k_norm", "o", "mlp_norm", "gate", "up", "gate_up", "down", and where its blocks have them
  // "attn_post_norm" and "mlp_post_norm", "qk_bias".
  std::map<std::string, const char*> names;
  // Keys of the second of a layer's two names, where attention and MLP are layers of their own.
  std::set<std::string> apart = {};
};

// Llama's in a Hugging Face folder, which most architectures share, and llama.cpp's for all.
const NameTable& hugging_face_names();
const NameTable& gguf_names();

// Names of a decoder's tensors in one file.
struct TensorNames {
  const NameTable* table = &hugging_face_names();
  std::string prefix;               // before everything: "language_model."
  std::string matrix_suffix;        // behind a block's matrices: ".ffn" where TroL wraps them
  std::vector<std::string> layers;  // TextConfig::layer_names

  std::string of(const std::string& key) const;
  std::string of(const std::string& key, int layer) const;
  std::string layer_prefix(int layer) const;      // "model.layers.3."
  std::string attention_prefix(int layer) const;  // "model.layers.3.self_attn."
};

// For people: "attention", "norms".
std::string role_name(const TensorSlot& slot);

}  // namespace reprise
