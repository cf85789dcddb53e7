// Conformance cases of norms, element-wise operations, rope and embed.
#include "unit/backend/conformance_operations.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

constexpr int64_t kWidths[] = {1, 5, 8, 16, 33, 63, 64, 576};

std::string unary_name(Unary kind) {
  switch (kind) {
    case Unary::Gelu:
      return "gelu";
    case Unary::GeluTanh:
      return "gelu_tanh";
    case Unary::QuickGelu:
      return "quick_gelu";
    case Unary::Silu:
      return "silu";
    case Unary::Sigmoid:
      return "sigmoid";
    case Unary::Tanh:
      return "tanh";
    case Unary::Relu:
      return "relu";
  }
  return "?";
}

constexpr Unary kUnaries[] = {Unary::Gelu,    Unary::GeluTanh, Unary::QuickGelu, Unary::Silu,
                              Unary::Sigmoid, Unary::Tanh,     Unary::Relu};

Operation norms() {
  Operation op = {"norm", 4e-6, {}};
  for (const int64_t d : kWidths) {
    if (d == 1) continue;  // a LayerNorm of one value divides rounding errors by eps
    for (const bool with_weight : {true, false})
      for (const NormKind kind : {NormKind::Rms, NormKind::Layer})
        op.cases.push_back({fmt::format("{}, {}, {}", kind == NormKind::Rms ? "rms" : "layer", d,
                                        with_weight ? "weights" : "no weights"),
                            [=](Backend& be) -> Results {
                              Inputs in(10);
                              NormWeight w;
                              w.kind = kind;
                              w.eps = kind == NormKind::Rms ? 1e-5f : 1e-6f;
                              if (with_weight) w.weight = in.vector(be, {d});
                              if (with_weight && kind == NormKind::Layer)
                                w.bias = in.vector(be, {d});
                              if (with_weight && kind == NormKind::Rms) w.offset = 1;
                              const Tensor x = in.tensor(be, {2, 3, d}, 3);
                              return {be.to_host(be.norm(x, w))};
                            }});
  }
  return op;
}

Operation additions() {
  Operation op = {"add", 1e-6, {}};
  for (const int64_t d : kWidths)
    for (const Shape& b : {Shape{3, 5, d}, Shape{5, d}, Shape{d}})
      for (const float scale : {1.0f, -0.37f})
        op.cases.push_back(
            {fmt::format("[3, 5, {}] + {} {}", d, scale, shape_string(b)),
             [=](Backend& be) -> Results {
               Inputs in(11);
               const Tensor x = in.tensor(be, {3, 5, d}), y = in.tensor(be, b);
               return {be.to_host(be.add(x, y, scale)), be.to_host(x), be.to_host(y)};
             }});
  return op;
}

Operation products() {
  Operation op = {"mul, scale, lerp", 1e-6, {}};
  for (const int64_t d : kWidths)
    op.cases.push_back({fmt::format("width {}", d), [=](Backend& be) -> Results {
                          Inputs in(12);
                          const Tensor x = in.tensor(be, {3, 5, d}), y = in.tensor(be, {3, 5, d});
                          const Tensor per_row = in.tensor(be, {3, 5, 1});
                          return {be.to_host(be.mul(x, y)),
                                  be.to_host(be.mul(x, in.tensor(be, {5, d}))),
                                  be.to_host(be.mul(x, in.vector(be, {d}))),
                                  be.to_host(be.mul(x, per_row)),
                                  be.to_host(be.scale(x, -1.7f)),
                                  be.to_host(be.lerp(x, y, per_row))};
                        }});
  return op;
}

Operation activations() {
  Operation op = {"unary, glu", 1e-6, {}};
  for (const Unary kind : kUnaries)
    for (const int64_t d : {1, 15, 16, 200})
      op.cases.push_back(
          {fmt::format("{} of {}", unary_name(kind), d), [=](Backend& be) -> Results {
             Inputs in(13);
             const Tensor x = in.tensor(be, {7, d}, 6);
             const Tensor far = in.tensor(be, {7, d}, 200);
             const Tensor small = in.tensor(be, {7, d}, 1e-3f);
             return {be.to_host(be.unary(x, kind)), be.to_host(be.unary(far, kind)),
                     be.to_host(be.unary(small, kind)),
                     be.to_host(be.glu(x, in.tensor(be, {7, d}), kind))};
           }});
  return op;
}

Operation ropes() {
  Operation op = {"rope", 1e-6, {}};
  for (const bool interleaved : {false, true})
    for (const auto& [dim, m] : {std::pair{64, 32}, {80, 20}, {6, 3}, {7, 2}, {96, 48}, {8, 1}})
      op.cases.push_back({fmt::format("{} angles of {}{}", m, dim, interleaved ? ", pairs" : ""),
                          [=, dim = dim, m = m](Backend& be) -> Results {
                            Inputs in(14);
                            const Tensor x = in.tensor(be, {5, 3, dim});
                            const Tensor angles = in.tensor(be, {5, 2 * m});
                            return {be.to_host(be.rope(x, angles, interleaved))};
                          }});
  return op;
}

Operation embeddings() {
  Operation op = {"embed", 1e-6, {}};
  std::vector<DType> types = quantized_types();
  types.insert(types.begin(), {DType::F32, DType::F16, DType::BF16});
  for (const DType type : types)
    op.cases.push_back({std::string(dtype_name(type)), [=](Backend& be) -> Results {
                          Inputs in(15);
                          const Tensor table = be.bind(
                              in.host(type, {37, std::max<int64_t>(96, block_values(type))}),
                              WeightUse::Table);
                          const int32_t ids[] = {36, 0, 5, 5, 17};
                          const Tensor x = be.embed(table, ids);
                          return {be.to_host(x), be.to_host(table)};
                        }});
  return op;
}

Operation vectors() {
  Operation op = {"bind as vector", 0, {}};
  for (const DType type : {DType::F32, DType::F16, DType::BF16, DType::F64, DType::I64})
    op.cases.push_back({std::string(dtype_name(type)), [=](Backend& be) -> Results {
                          Inputs in(16);
                          const Tensor v = be.bind(in.host(type, {3, 17}), WeightUse::Vector);
                          return {be.to_host(v), be.to_host(be.scale(v, 0.5f))};
                        }});
  return op;
}

}  // namespace

std::vector<Operation> arithmetic_operations() {
  return {norms(), additions(), products(), activations(), ropes(), embeddings(), vectors()};
}

}  // namespace reprise::testing
