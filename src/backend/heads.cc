#include "backend/heads.h"

#include "base/error.h"

namespace reprise {

std::vector<Tensor> cross_heads(Backend& be, std::span<const HeadCross> parts, float scale,
                                std::span<const int32_t> source_of_row) {
  if (auto* fused = dynamic_cast<HeadOperations*>(&be))
    return fused->fused_cross_heads(parts, scale, source_of_row);
  return composed_cross_heads(be, parts, scale, source_of_row);
}

std::pair<Tensor, Tensor> gate_halves(Backend& be, const Tensor& x, float factor,
                                      const LinearWeight& first, const LinearWeight& second) {
  if (auto* fused = dynamic_cast<HeadOperations*>(&be))
    return fused->fused_gate_halves(x, factor, first, second);
  return composed_gate_halves(be, x, factor, first, second);
}

std::vector<Tensor> composed_cross_heads(Backend& be, std::span<const HeadCross> parts, float scale,
                                         std::span<const int32_t> source_of_row) {
  std::vector<Tensor> results;
  for (const HeadCross& part : parts) {
    const int64_t rows = part.x.dim(0), heads = part.x.dim(1), dim = part.x.dim(2);
    REPRISE_CHECK(!part.keys.empty() && part.keys.size() == part.values.size());
    const int64_t n = part.keys[0].dim(0), sources = static_cast<int64_t>(part.keys.size());
    // Heads take the place of tokens: one head of full_attention, `heads` queries, n keys.
    const Tensor keys = be.reshape(be.concat(part.keys, 0), {sources, n, 1, dim});
    const Tensor values = be.reshape(be.concat(part.values, 0), {sources, n, 1, dim});
    const Tensor queries =
        be.reshape(be.unary(be.linear(part.x, *part.q), Unary::Gelu), {rows, heads, 1, dim});
    const Tensor mixed = be.full_attention(queries, keys, values, scale, source_of_row);
    const Tensor y =
        be.unary(be.linear(be.reshape(mixed, {rows, heads, dim}), *part.o), Unary::Gelu);
    const Tensor halves[] = {part.x, be.scale(y, part.factor)};
    results.push_back(be.concat(halves, 2));
  }
  return results;
}

std::pair<Tensor, Tensor> composed_gate_halves(Backend& be, const Tensor& x, float factor,
                                               const LinearWeight& first,
                                               const LinearWeight& second) {
  REPRISE_CHECK(x.rank() == 3 && x.dim(2) % 2 == 0);
  const int64_t dim = x.dim(2) / 2;
  const Tensor o1 = be.slice(x, 2, 0, dim);
  const Tensor o2 = be.add(o1, be.slice(x, 2, dim, 2 * dim), factor);
  const Tensor w =
      be.unary(be.add(be.linear(o1, first), be.linear(o2, second), -1.0f), Unary::Sigmoid);
  return {be.lerp(o2, o1, w), w};
}

}  // namespace reprise
