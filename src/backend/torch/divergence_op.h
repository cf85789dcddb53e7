// How far a student's distribution over the vocabulary is from a teacher's.
#pragma once

#include <ATen/core/Tensor.h>

#include "backend/train_backend.h"

namespace reprise {

// See TrainBackend::divergence_sum. teacher: without a graph.
at::Tensor divergence_op(const at::Tensor& teacher, const at::Tensor& student, Divergence kind,
                         double temperature);

// The sum over rows from log probabilities [rows, vocabulary] of both, a scalar. gradient: where it
// is defined, gets that by the student's logits (in as far as log_q is their log softmax).
at::Tensor divergence_of_rows(const at::Tensor& log_p, const at::Tensor& log_q, Divergence kind,
                              at::Tensor gradient);

// Rows of a vocabulary that operations one after the other find in a core's cache: each is a pass
// over memory, and [rows, vocabulary] of a whole batch is hundreds of megabytes.
inline int64_t cached_rows(int64_t vocab) {
  constexpr int64_t kValues = 1 << 18;
  return vocab < kValues ? kValues / vocab : 1;
}

}  // namespace reprise
