// A decoder block: pre-norm attention and MLP, made of the parts that its architecture's file
// (arch/) names. Its weights don't know their index; KV rows and adapters come with the rows that
// visit it.
#pragma once

#include <span>
#include <vector>

#include "model/config/config.h"
#include "model/run/observer.h"
#include "model/run/rows.h"
#include "model/tensor_table.h"

namespace reprise {

struct AttentionWeights {
  LinearWeight q, k, v;  // [heads * head_dim, d], [kv_heads * head_dim, d] twice
  LinearWeight qkv;      // instead of the three where fused
  NormWeight q_norm;     // [head_dim], of every head; where BlockConfig::qk_norm
  NormWeight k_norm;
  Tensor qk_bias;  // [2, 1, heads, head_dim]: of q, of k; where BlockConfig::qk_bias
  LinearWeight o;  // [d, heads * head_dim]
};

struct MlpWeights {
  LinearWeight gate, up;  // [ffn, d]; no gate where TextConfig::gated_mlp is false
  LinearWeight gate_up;   // instead of the two where fused: [2 ffn, d]
  LinearWeight down;      // [d, ffn]
};

// Kind, eps and offset of a norm.
void set_norm(NormWeight& norm, const NormConfig& config);
// The weights of one that brings rows of this width to length 1 (NormConfig::unit).
void bind_unit_norm(Backend& be, const NormConfig& config, int64_t width, NormWeight& norm);
// Its weight, and its bias where it has one.
void visit_norm(const std::string& name, const NormConfig& config, int64_t width, NormWeight& norm,
                const TensorVisitor& visitor);

// What nGPT's blocks have beside, all as stored: see NgptConfig.
struct NgptWeights {
  LinearWeight g;           // [heads * head_dim, d]: gate of attention's result
  Tensor qk_scale;          // [heads * head_dim], of q
  Tensor gate_scale;        // [heads * head_dim]
  Tensor attn_alpha;        // [d]
  Tensor mlp_gate_scale;    // [ffn]
  Tensor mlp_up_scale;      // [ffn]
  Tensor mlp_alpha;         // [d]
  NormWeight mixed, inner;  // over what `o` and `down` are applied to
};

struct Block {
  NormWeight attn_norm;
  AttentionWeights attn;
  NormWeight attn_post_norm;  // where BlockConfig::post_norm
  NormWeight mlp_norm;
  MlpWeights mlp;
  NormWeight mlp_post_norm;
  NgptWeights ngpt;  // where TextConfig::ngpt

  void visit_tensors(const TextConfig& config, const TensorNames& names, int layer,
                     const TensorVisitor& visitor);
  // Kind, eps and offset of its norms; before anything runs.
  void set_norms(const NormConfig& config);
  // Norms without weights need those that make them what they are; once, by the model's backend.
  void bind_unit_norms(Backend& be, const TextConfig& config);
  // Every matrix with its key ("q", "down", ...), for adapters.
  std::vector<std::pair<std::string, LinearWeight*>> matrices(const TextConfig& config);
};

struct Qkv {
  Tensor q;  // [rows, heads, head_dim], after norm and rope
  Tensor k;  // [rows, kv_heads, head_dim], after norm and rope
  Tensor v;  // [rows, kv_heads, head_dim]
};

// Consecutive rows of a visit that belong to one request.
struct VisitSegment {
  Sequence* sequence = nullptr;  // null: functional (training)
  int64_t first_row = 0;
  int64_t rows = 0;
  int prefix = -1;             // functional only: the earlier segment it goes on from
  int32_t first_position = 0;  // of its first row
  int write = -1;              // the request's KV row that this visit writes
};

// A visit as its rows see it: rows of different requests, loops, chunks and plans.
struct VisitRows {
  std::vector<VisitSegment> segments;
  Tensor angles;                            // rope, [rows, 2 m]; none where the block has none
  std::vector<int32_t> adapters;            // per row, -1 for none; empty: none at all
  std::vector<AttentionSegment> attention;  // per segment: KV rows resolved
  // Rows [0, attending) have queries; those behind them only leave their keys and values.
  int64_t attending = 0;
  // Rows that go on behind attention, where not all do; others come back as they were.
  bool all_active = true;
  std::vector<int32_t> active;
  Watch watch;
};

// [out, in] of the matrix with this key.
std::pair<int64_t, int64_t> matrix_shape(const TextConfig& config, const std::string& key);

class Scheme;

// Queries, keys and values of block `index`'s rows h [rows, d] (normed), after norm and rope.
Qkv project_qkv(Backend& be, const TextConfig& config, int index, const AttentionWeights& w,
                const VisitRows& rows, const Tensor& h);

// What `down` is applied to, for the normed rows h: [rows, ffn].
Tensor mlp_inner(Backend& be, const TextConfig& config, const MlpWeights& w,
                 std::span<const int32_t> adapters, const Tensor& h);

// One visit of block `index`: x [rows, d] -> [rows, d]. Appends the rows' keys and values to their
// KV rows.
// nGPT's: see NgptConfig and reuse/; else
//   h = x + o(attention(norm(x))),  result = h + mlp(norm(h)),  parallel: h + mlp(norm(x))
// with norms around what is added, or around the sums, where BlockConfig::post_norm says so.
Tensor run_block(Backend& be, const TextConfig& config, const Scheme& scheme, int index,
                 const Block& block, const VisitRows& rows, const Tensor& x);

}  // namespace reprise
