// Phantom's operations on heads (arXiv 2409.14713). They are defined by what they are put together
// from, the operations of Backend, and every backend computes them so: gradients come with those.
// In decode that would be some forty operations a layer on a few heads each, most of their time
// spent on waking threads and allocating; a backend may therefore offer them in one piece
// (HeadOperations).
#pragma once

#include "backend/backend.h"

namespace reprise {

// One of a layer's cross attentions: every head of a row looks at a short list of keys and values
// that belongs to the row's source (the heads of its request's first token).
struct HeadCross {
  Tensor x;                         // [rows, heads, dim]
  const LinearWeight* q = nullptr;  // [dim, dim], no bias, no adapters
  const LinearWeight* o = nullptr;  // [dim, dim], the same
  std::span<const Tensor> keys;     // per source: [n, dim]
  std::span<const Tensor> values;   // per source: [n, dim]
  float factor = 1;                 // on the second half of the result
};

// For each part [x, factor * y], [rows, heads, 2 dim], where
//   y = gelu(o softmax(scale * gelu(q x) . keys) values)
// and row i looks at the keys of source_of_row[i].
std::vector<Tensor> cross_heads(Backend& be, std::span<const HeadCross> parts, float scale,
                                std::span<const int32_t> source_of_row);

// The way back. x [rows, heads, 2 dim] holds o1 and z per head; with o2 = o1 + factor * z and
// w = sigmoid(first(o1) - second(o2)), where first and second are [1, dim] with biases:
// {w o1 + (1 - w) o2 [rows, heads, dim], w [rows, heads, 1]}.
std::pair<Tensor, Tensor> gate_halves(Backend& be, const Tensor& x, float factor,
                                      const LinearWeight& first, const LinearWeight& second);

// What a backend may offer beside Backend. The same contract: shapes are checked, a row depends on
// itself alone.
class HeadOperations {
 public:
  virtual ~HeadOperations() = default;
  virtual std::vector<Tensor> fused_cross_heads(std::span<const HeadCross> parts, float scale,
                                                std::span<const int32_t> source_of_row) = 0;
  virtual std::pair<Tensor, Tensor> fused_gate_halves(const Tensor& x, float factor,
                                                      const LinearWeight& first,
                                                      const LinearWeight& second) = 0;
};

// The definitions, on any backend: what the fused ones are tested against.
std::vector<Tensor> composed_cross_heads(Backend& be, std::span<const HeadCross> parts, float scale,
                                         std::span<const int32_t> source_of_row);
std::pair<Tensor, Tensor> composed_gate_halves(Backend& be, const Tensor& x, float factor,
                                               const LinearWeight& first,
                                               const LinearWeight& second);

}  // namespace reprise
