// Conformance cases of linear: weight types, tails in all three dimensions, biases, several weights
// that share an input, adapters by row, and a table that serves as the head.
#include "unit/backend/conformance_operations.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {
namespace {

// Of the quantized ones some of each kind; matmul_test.cc has all.
constexpr DType kTypes[] = {DType::F32,  DType::F16,  DType::BF16, DType::Q8_0, DType::Q4_0,
                            DType::Q4_1, DType::Q3_K, DType::Q4_K, DType::MXFP4};
// k, or the least that the type's blocks allow.
int64_t width(DType type, int64_t k) {
  return std::max(k / block_values(type), int64_t{1}) * block_values(type);
}

Operation plain() {
  Operation op = {"linear", 1e-5, {}};
  struct Dims {
    int64_t m, k, n;
  };
  for (const DType type : kTypes)
    for (const Dims& d : {Dims{1, 32, 1}, Dims{1, 64, 7}, Dims{2, 96, 16}, Dims{3, 160, 17},
                          Dims{4, 32, 33}, Dims{5, 576, 100}, Dims{7, 64, 48}, Dims{8, 96, 15},
                          Dims{13, 256, 31}, Dims{150, 64, 40}, Dims{1, 1536, 200}}) {
      const int64_t k = width(type, d.k);
      op.cases.push_back({fmt::format("{} [{}, {}] by [{}, {}]", dtype_name(type), d.m, k, d.n, k),
                          [=](Backend& be) -> Results {
                            Inputs in(20);
                            LinearWeight w = {.weight = in.matrix(be, type, {d.n, k})};
                            const Tensor x = in.tensor(be, {d.m, k});
                            const std::vector<float> without = be.to_host(be.linear(x, w));
                            w.bias = in.vector(be, {d.n});
                            return {without, be.to_host(be.linear(x, w)), be.to_host(w.weight)};
                          }});
    }
  for (const DType type : {DType::F32, DType::F16, DType::BF16})  // widths that aren't whole blocks
    for (const int64_t k : {1, 7, 17, 37, 63})
      op.cases.push_back({fmt::format("{} [3, {}] by [19, {}]", dtype_name(type), k, k),
                          [=](Backend& be) -> Results {
                            Inputs in(21);
                            const LinearWeight w = {.weight = in.matrix(be, type, {19, k})};
                            return {be.to_host(be.linear(in.tensor(be, {3, k}), w))};
                          }});
  return op;
}

Operation several() {
  Operation op = {"linear of several weights", 1e-5, {}};
  for (const DType type : kTypes)
    op.cases.push_back({std::string(dtype_name(type)), [=](Backend& be) -> Results {
                          Inputs in(22);
                          const int64_t columns = width(type, 64);
                          LinearWeight q = {.weight = in.matrix(be, type, {24, columns}),
                                            .bias = in.vector(be, {24})};
                          LinearWeight k = {.weight = in.matrix(be, DType::F32, {8, columns})};
                          LinearWeight v = {.weight = in.matrix(be, type, {9, columns})};
                          const LinearWeight* const all[] = {&q, &k, &v};
                          const Tensor x = in.tensor(be, {2, 3, columns});
                          Results results;
                          for (const Tensor& y : be.linear(x, all, {})) {
                            REPRISE_CHECK(y.rank() == 3 && y.dim(1) == 3);
                            results.push_back(be.to_host(y));
                          }
                          return results;
                        }});
  return op;
}

Operation adapted() {
  Operation op = {"linear with adapters", 1e-5, {}};
  for (const DType type : kTypes)
    for (const std::vector<int32_t>& of_row : {std::vector<int32_t>{1, 1, 1, 1, 1},
                                               {-1, 0, 1, -1, 1},
                                               {-1, -1, -1, -1, -1},
                                               {2, 0, 2, 1, 0}})
      op.cases.push_back(
          {fmt::format("{}, rows {} {} {} {} {}", dtype_name(type), of_row[0], of_row[1], of_row[2],
                       of_row[3], of_row[4]),
           [=](Backend& be) -> Results {
             Inputs in(23);
             const int64_t k = width(type, 64);
             LinearWeight w = {.weight = in.matrix(be, type, {21, k}), .bias = in.vector(be, {21})};
             w.adapters.push_back({.a = in.matrix(be, DType::F32, {4, k}),
                                   .b = in.matrix(be, DType::F32, {21, 4}),
                                   .scale = 0.5f});
             w.adapters.push_back({.a = in.matrix(be, DType::F16, {3, k}),
                                   .b = in.matrix(be, DType::BF16, {21, 3}),
                                   .scale = -2});
             w.adapters.push_back({});  // adds nothing
             const LinearWeight plain = {.weight = in.matrix(be, type, {5, k})};
             const LinearWeight* const both[] = {&w, &plain};
             Results results;
             for (const Tensor& y : be.linear(in.tensor(be, {5, k}), both, of_row))
               results.push_back(be.to_host(y));
             return results;
           }});
  return op;
}

Operation tied() {
  Operation op = {"linear on a table", 1e-5, {}};
  for (const DType type : kTypes)
    op.cases.push_back(
        {std::string(dtype_name(type)), [=](Backend& be) -> Results {
           Inputs in(24);
           const int64_t k = width(type, 64);
           const LinearWeight head = {.weight = be.bind(in.host(type, {301, k}), WeightUse::Table)};
           const int32_t ids[] = {300, 7};
           const Tensor x = be.embed(head.weight, ids);
           return {be.to_host(be.linear(x, head))};
         }});
  return op;
}

}  // namespace

std::vector<Operation> linear_operations() { return {plain(), several(), adapted(), tied()}; }

}  // namespace reprise::testing
