// What a dense model's matrices are applied to on a text: second moments of their inputs, by which
// errors of converted matrices are weighed (weighted.h).
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "convert/source.h"

namespace reprise {

struct CalibrationOptions {
  std::filesystem::path text;  // a plain text file
  // In windows from all over it, evenly spaced; of a short text, its beginning or all of it.
  int64_t tokens = 24576;
  bool fold_norms = false;  // inputs of the model whose norm weights are in its matrices
};

// The input that a matrix ("q", "down", ...) shares with others, as run_block names it.
std::string input_of(const std::string& matrix);

class Calibration {
 public:
  // Reads as much of the text as is needed. Throws Error naming --calibrate, the file and what is
  // wrong: a model that isn't a plain decoder or has no tokenizer, a text shorter than one window.
  // The source must outlive it.
  Calibration(const ConversionSource& source, const CalibrationOptions& options);

  int64_t tokens() const;  // that are run
  const std::vector<std::vector<int32_t>>& windows() const { return windows_; }

  // Runs the model, F32 activations, layer by layer, on all windows at once: in memory there are
  // the states of all tokens, and the moments of layers [first, last). `progress` is called after
  // every window of a layer, and may throw to stop.
  void run(int first, int last, int threads,
           const std::function<void(int layer, int64_t window)>& progress);

  // C [in, in], the mean of x x^T over the inputs of that matrix ("q", "down", ...) of a layer, and
  // 1% of its mean diagonal added to the diagonal.
  const std::vector<float>& moments(int layer, const std::string& matrix) const;

 private:
  const ConversionSource& source_;
  CalibrationOptions options_;
  int64_t window_ = 0;
  std::vector<std::vector<int32_t>> windows_;
  std::map<std::pair<int, std::string>, std::vector<float>> moments_;  // by layer and input
};

}  // namespace reprise
