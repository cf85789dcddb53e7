// Conformance cases of the operations that only move values.
#include "unit/backend/conformance_operations.h"
#include "unit/backend/random_inputs.h"

namespace reprise::testing {

std::vector<Operation> shape_operations() {
  std::vector<Operation> list;

  Operation reshape = {"reshape", 0, {}};
  reshape.cases.push_back({"[3, 8] as [2, 3, 4]", [](Backend& be) -> Results {
                             const Tensor x = Inputs(1).tensor(be, {3, 8});
                             return {be.to_host(be.reshape(x, {2, 3, 4}))};
                           }});
  list.push_back(std::move(reshape));

  Operation slice = {"slice", 0, {}};
  for (int dim = -3; dim < 3; ++dim)
    for (const auto& [begin, end] : {std::pair{0, 1}, {1, 4}, {0, 5}, {2, 2}})
      slice.cases.push_back(
          {fmt::format("dim {} [{}, {})", dim, begin, end), [=](Backend& be) -> Results {
             const Tensor x = Inputs(2).tensor(be, {5, 6, 7});
             const Tensor y = be.slice(x, dim, begin, end);
             // Slices of slices, and a slice that is used as an operand.
             return {be.to_host(y), be.to_host(be.scale(y, 2)),
                     be.to_host(be.slice(y, -1, 0, y.dim(-1) / 2))};
           }});
  list.push_back(std::move(slice));

  Operation concat = {"concat", 0, {}};
  for (int dim = -1; dim < 3; ++dim)
    concat.cases.push_back({fmt::format("dim {}", dim), [=](Backend& be) -> Results {
                              Inputs in(3);
                              std::vector<Tensor> parts;
                              for (const int64_t width : {3, 1, 5}) {
                                Shape shape = {2, 3, 4};
                                shape[static_cast<size_t>(dim < 0 ? 2 : dim)] = width;
                                parts.push_back(in.tensor(be, shape));
                              }
                              return {be.to_host(be.concat(parts, dim)),
                                      be.to_host(be.concat({parts.data(), 1}, dim))};
                            }});
  list.push_back(std::move(concat));

  Operation rows = {"gather_rows and replace_rows", 0, {}};
  for (const Shape& shape : {Shape{7, 5}, Shape{7, 3, 4}, Shape{7}})
    rows.cases.push_back(
        {shape_string(shape), [=](Backend& be) -> Results {
           Inputs in(4);
           const Tensor x = in.tensor(be, shape);
           const int32_t picked[] = {6, 0, 0, 3, 6};
           const int32_t replaced[] = {5, 0, 2};
           Shape new_shape = shape;
           new_shape[0] = 3;
           const Tensor fresh = in.tensor(be, new_shape);
           return {be.to_host(be.gather_rows(x, picked)), be.to_host(be.gather_rows(x, {})),
                   be.to_host(be.replace_rows(x, replaced, fresh)), be.to_host(x)};  // unchanged
         }});
  list.push_back(std::move(rows));

  Operation patchify = {"patchify", 0, {}};
  for (const auto& [shape, patch] :
       {std::pair{Shape{1, 3, 28, 28}, 14}, {Shape{2, 3, 9, 11}, 4}, {Shape{3, 1, 2, 5}, 1}})
    patchify.cases.push_back({fmt::format("{} by {}", shape_string(shape), patch),
                              [shape = shape, patch = patch](Backend& be) -> Results {
                                const Tensor x = Inputs(5).tensor(be, shape);
                                return {be.to_host(be.patchify(x, patch))};
                              }});
  list.push_back(std::move(patchify));
  return list;
}

}  // namespace reprise::testing
