// The stack machine behind open_pt: runs a pickle program of protocol 2 to 5 and gives the values
// it builds. Specification: CPython's Lib/pickletools.py. Not for other modules.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/dtype.h"

namespace reprise {

// What a tensor of the program refers to: values of a storage, by offset and strides in elements.
struct PickledTensor {
  DType type = DType::F32;
  std::string_view storage;    // key of the storage; points into the program
  int64_t storage_values = 0;  // number of values in the storage
  int64_t offset = 0;
  Shape shape;
  std::vector<int64_t> strides;  // not negative; every element lies inside the storage
};

// Runs `program` and returns its result, which must be a dict from strings to tensors, in order.
// `where` begins error messages.
std::vector<std::pair<std::string, PickledTensor>> run_pickle(std::span<const std::byte> program,
                                                              const std::string& where);

}  // namespace reprise
