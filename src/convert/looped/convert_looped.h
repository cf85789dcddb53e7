// `reprise convert DENSE OUT --recursive`: a dense model into one whose layers are looped.
#pragma once

#include "convert/convert.h"
#include "convert/looped/looped_model.h"

namespace reprise {

struct LoopedResult {
  ConvertResult result;
  LoopLayout layout;
  LoopShape shape;                        // with the ranks that there are
  std::map<std::string, int64_t> capped;  // ranks asked for that are above what a matrix has
  std::vector<AdapterReport> adapters;
  std::vector<FitReport> fits;
  int64_t calibration_tokens = 0, refit_tokens = 0;  // 0: without
  std::map<std::string, int64_t> dropped;            // role and number of tensors
  int64_t dense_bytes = 0, dense_weights = 0;        // of the source's language model
  int64_t weights() const;                           // of the looped one
};

// `target` is a Hugging Face folder, or with `gguf` a GGUF file; of llama.cpp's GGUF files only the
// latter can be made. Memory: the mapped source, one block in F32 and what its decompositions take.
// options.progress counts matrices. Throws Error; then nothing is left of the target.
LoopedResult convert_looped(const ConversionSource& source, const std::filesystem::path& target,
                            bool gguf, const LoopOptions& loop, const ConvertOptions& options);

// {"L", "K", "B", "init", "blocks", "adapters": [{"block", "loop", "matrix", "weight", "residual",
// "missing"}], "ranks", "dropped", "dense_bytes"}, and "capped_ranks", asked for where that was
// more; with a calibration text "weighted_residual" and "weighted_missing" of each adapter and
// "calibration_tokens", of a fit "fits": [{"block", "matrix", "start", "end"}], and "refit_tokens"
Json looped_report(const LoopedResult& result);

}  // namespace reprise
