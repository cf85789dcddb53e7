// Writes one tensor in another type: streamed, on several threads, and measuring what is lost.
#pragma once

#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "formats/output_tensor.h"

namespace reprise {

// How far stored values are from the source's.
struct ConversionError {
  int64_t values = 0;
  double error_squares = 0;  // sum of (stored - source)^2
  double squares = 0;        // sum of source^2
  double largest = 0;        // largest |stored - source|

  // Root of error_squares / squares: relative to the size of the values. 0 where all are 0.
  double relative_rms() const;
  void add(const ConversionError& other);
};

class TensorConverter {
 public:
  explicit TensorConverter(int threads) : pool_(threads) {}

  // Streams all bytes of `tensor` to the sink, a few megabytes at a time, and gives the source's
  // mapped pages back behind it. Called with the number of source bytes done after each piece.
  // The result doesn't depend on the number of threads. Throws Error naming the tensor.
  ConversionError write(const OutputTensor& tensor, const ByteSink& sink,
                        const std::function<void(int64_t source_bytes)>& progress = {});

 private:
  ThreadPool pool_;
  std::vector<std::byte> packed_;
};

}  // namespace reprise
