// The losses of language modelling over a large vocabulary, some rows at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "backend/train_backend.h"

namespace reprise {

struct HeadLossInputs {
  at::Tensor states;  // [exits * n, d]: those of the exits behind each other, the output's last
  at::Tensor head;    // [vocabulary, d]
  at::Tensor labels;  // [n] int64
  std::vector<double> ce_weights, kd_weights;  // by exit
  at::Tensor teacher_states, teacher_head;     // without a graph; undefined: no teacher
  Divergence divergence = Divergence::ForwardKl;
  double temperature = 1;
  double teacher_weight = 0;
  bool tokens = false;  // the likeliest ones are asked for
  bool bf16 = false;
};

struct HeadLossSums {
  at::Tensor loss;             // [1], with a graph
  std::vector<double> ce, kd;  // by exit
  double divergence = 0;
  std::vector<std::vector<int32_t>> tokens;  // by exit [n]: the likeliest ones
};

HeadLossSums head_loss_op(const HeadLossInputs& inputs);

}  // namespace reprise
