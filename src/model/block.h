// A decoder block: pre-norm attention and gated MLP, made of the parts that its architecture's file
// (arch/) names. Its weights don't know their index; KV rows and adapters come with the rows that
// visit it.
#pragma once

#include <span>
#include <vector>

#include "model/config/config.h"
#include "model/rows.h"
#include "model/tensor_table.h"

namespace reprise {

struct AttentionWeights {
  LinearWeight q, k, v;  // [heads * head_dim, d], [kv_heads * head_dim, d] twice
  LinearWeight qkv;      // instead of the three where fused
  NormWeight q_norm;     // [head_dim], of every head; where BlockConfig::qk_norm
  NormWeight k_norm;
  LinearWeight o;  // [d, heads * head_dim]
};

struct MlpWeights {
  LinearWeight gate, up;  // [ffn, d]
  LinearWeight gate_up;   // instead of the two where fused: [2 ffn, d]
  LinearWeight down;      // [d, ffn]
};

struct Block {
  NormWeight attn_norm;
  AttentionWeights attn;
  NormWeight mlp_norm;
  MlpWeights mlp;

  void visit_tensors(const TextConfig& config, const TensorNames& names, int layer,
                     const TensorVisitor& visitor);
  // Every matrix with its key ("q", "down", ...), for adapters.
  std::vector<std::pair<std::string, LinearWeight*>> matrices(const TextConfig& config);
};

struct Qkv {
  Tensor q;  // [rows, heads, head_dim], after norm and rope
  Tensor k;  // [rows, kv_heads, head_dim], after norm and rope
  Tensor v;  // [rows, kv_heads, head_dim]
};

// One visit as its rows see it: prepared once per step by the interpreter.
struct VisitRows {
  const Rows* rows = nullptr;
  Visit visit;
  Tensor angles;                            // of the block's rope, [rows, 2 * dim / 2]
  std::span<const int32_t> adapters;        // per row, or empty
  std::vector<AttentionSegment> attention;  // KV rows resolved
  Observer* observer = nullptr;
  std::string label;  // of the step without its last part: "layer.3"
};

// [out, in] of the matrix with this key.
std::pair<int64_t, int64_t> matrix_shape(const TextConfig& config, const std::string& key);

Qkv project_qkv(Backend& be, const TextConfig& config, const AttentionWeights& w,
                const VisitRows& rows, const Tensor& h);
Tensor mlp(Backend& be, const TextConfig& config, const MlpWeights& w,
           std::span<const int32_t> adapters, const Tensor& h);

}  // namespace reprise
