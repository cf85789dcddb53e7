// Conformance cases of Phantom's operations on heads.
#include "backend/heads.h"
#include "unit/backend/conformance_operations.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

// Queries of `heads` heads, keys and values of `kv_heads`, as a layer has them.
struct Setup {
  int64_t rows, heads, kv_heads, dim, sources;
  DType type;  // of the matrices
};

Operation widening() {
  Operation op = {"cross_heads", 2e-5, {}};
  for (const Setup& s : {Setup{1, 1, 1, 1, 1, DType::F32}, Setup{3, 4, 2, 7, 2, DType::F32},
                         Setup{1, 14, 2, 64, 1, DType::BF16}, Setup{5, 32, 32, 96, 3, DType::F16},
                         Setup{40, 9, 3, 32, 2, DType::F32}, Setup{2, 18, 1, 128, 2, DType::Q8_0},
                         Setup{33, 8, 8, 32, 4, DType::Q4_1}})
    op.cases.push_back({fmt::format("{} rows, {} heads on {} of {}, {} sources, {}", s.rows,
                                    s.heads, s.kv_heads, s.dim, s.sources, dtype_name(s.type)),
                        [=](Backend& be) -> Results {
                          Inputs in(60);
                          LinearWeight q[2], o[2];
                          std::vector<Tensor> keys[2], values[2];
                          HeadCross parts[2];
                          for (size_t c = 0; c < 2; ++c) {
                            const int64_t heads = c == 0 ? s.heads : s.kv_heads;
                            q[c].weight = in.matrix(be, s.type, {s.dim, s.dim});
                            o[c].weight = in.matrix(be, s.type, {s.dim, s.dim});
                            for (int64_t i = 0; i < s.sources; ++i) {
                              keys[c].push_back(in.tensor(be, {heads, s.dim}));
                              values[c].push_back(in.tensor(be, {heads, s.dim}));
                            }
                            parts[c] = {in.tensor(be, {s.rows, heads, s.dim}),
                                        &q[c],
                                        &o[c],
                                        keys[c],
                                        values[c],
                                        c ? 1.0f : -0.3f};
                          }
                          std::vector<int32_t> of;
                          for (int64_t i = 0; i < s.rows; ++i)
                            of.push_back(
                                static_cast<int32_t>(in.below(static_cast<uint32_t>(s.sources))));
                          Results results;
                          for (const Tensor& y : cross_heads(be, parts, 0.2f, of))
                            results.push_back(be.to_host(y));
                          return results;
                        }});
  return op;
}

Operation gating() {
  Operation op = {"gate_halves", 1e-5, {}};
  for (const Setup& s : {Setup{1, 1, 1, 1, 1, DType::F32}, Setup{3, 5, 5, 7, 1, DType::F16},
                         Setup{70, 9, 9, 64, 1, DType::BF16}, Setup{2, 32, 32, 96, 1, DType::Q8_0}})
    op.cases.push_back(
        {fmt::format("{} rows, {} heads of {}, {}", s.rows, s.heads, s.dim, dtype_name(s.type)),
         [=](Backend& be) -> Results {
           Inputs in(61);
           LinearWeight gates[2];
           for (LinearWeight& w : gates) {
             w.weight = in.matrix(be, s.type, {1, s.dim});
             w.bias = in.vector(be, {1});
           }
           const Tensor x = in.tensor(be, {s.rows, s.heads, 2 * s.dim});
           const auto [out, w] = gate_halves(be, x, 0.7f, gates[0], gates[1]);
           return {be.to_host(out), be.to_host(w)};
         }});
  return op;
}

}  // namespace

std::vector<Operation> head_operations() { return {widening(), gating()}; }

}  // namespace reprise::testing
