// What writers of weight files take.
#pragma once

#include <functional>

#include "formats/tensor_view.h"

namespace reprise {

// One tensor of a file to be written: the values of `source` stored as `type`.
struct OutputTensor {
  TensorView source;
  DType type;
};

// How a file's writer gets at a tensor's bytes: streams all tensor_bytes(type, shape) of them to
// the sink. write_plainly is one; a converter's own may show progress, measure errors, use threads,
// or make the values only now: its sources then have no data.
using TensorWriter = std::function<void(const OutputTensor& tensor, const ByteSink& sink)>;

inline void write_plainly(const OutputTensor& tensor, const ByteSink& sink) {
  write_as(tensor.source, tensor.type, sink);
}

}  // namespace reprise
