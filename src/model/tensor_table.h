// One visit of a model's tensors serves loading, saving, converting, quantizing, counting and
// training: whoever holds weights tells a visitor the name, shape and role of each.
#pragma once

#include <functional>
#include <string>

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
};

using TensorVisitor = std::function<void(const TensorSlot&)>;

// Names of a decoder's tensors in one file style.
struct TensorNames {
  enum class Style { HuggingFace, InternLm2, Gguf };
  Style style = Style::HuggingFace;
  std::string prefix;         // before everything: "language_model."
  std::string matrix_suffix;  // behind a block's matrices: ".ffn" where TroL wraps them

  // key: "embed", "head", "final_norm" (no layer) or "attn_norm", "q", "k", "v", "qkv", "o",
  // "mlp_norm", "gate", "up", "gate_up", "down" of a layer. No ".weight" / ".bias" at the end.
  std::string of(const std::string& key) const;
  std::string of(const std::string& key, int layer) const;
  std::string layer_prefix(int layer) const;      // "model.layers.3."
  std::string attention_prefix(int layer) const;  // "model.layers.3.self_attn."
};

// For people: "attention", "norms".
std::string role_name(const TensorSlot& slot);

}  // namespace reprise
