// What the losses of language modelling are made of: cross entropy at the exits of a model, its
// divergence from a teacher, and that of earlier exits from the last one. Each is a sum over the
// predicted tokens of a batch. Objective `lm` weighs them for training, `reprise trace` shows each
// alone.
//
// An exit is the end of a loop: the state there goes through what follows the loops (nothing, or
// the layers of a model that has some there), the final norm and the head, one for all exits.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "train/objectives/objective.h"
#include "train/objectives/teacher.h"

namespace reprise {

inline constexpr int kFinalExit = -1;  // the model's output

struct LmTerm {
  enum class Kind {
    CrossEntropy,  // of the next token
    Teacher,       // divergence of the model's output from the teacher's
    Distill,       // KL(output, exit), the output as a constant: arXiv 2410.20672's distillation
    // Binary cross entropy of the exit gate with "this exit's likeliest token is the output's", of
    // the state as a constant: the gate learns, the model isn't disturbed.
    Gate
  };
  Kind kind = Kind::CrossEntropy;
  int exit = kFinalExit;
  Divergence divergence = Divergence::ForwardKl;
  double temperature = 1;
};

// forward_kl, reverse_kl, jsd, tvd
struct NamedDivergence {
  const char* name;
  Divergence kind;
};
inline constexpr NamedDivergence kDivergences[] = {{"forward_kl", Divergence::ForwardKl},
                                                   {"reverse_kl", Divergence::ReverseKl},
                                                   {"jsd", Divergence::Jsd},
                                                   {"tvd", Divergence::Tvd}};

// How much the exits of `loops` loops count, the last one included. Weighted: i / (1 + .. + loops),
// i from 1. Aggressive: alpha, the last one 1.
std::vector<double> weighted_exits(int loops);
std::vector<double> aggressive_exits(int loops, double alpha);

// A model's exits: the plans that lead from them to the output.
class LmExits {
 public:
  explicit LmExits(const Plan& plan);
  int count() const { return static_cast<int>(codas_.size()); }  // with the last one; 0: no loops
  // The state behind the loops' ends [rows, d], of a state at the end of loop `exit`.
  Tensor output_state(const Model& model, const Batch& batch, const Tensor& state, int exit) const;

 private:
  std::vector<Plan> codas_;  // without steps: there is nothing behind the loops
};

// The sum of a gate's binary cross entropies at one exit: state [rows, d] there, and the likeliest
// tokens [targets] there and of the output.
Tensor exit_gate_sum(Model& model, TrainBackend& backend, const Batch& batch, const Tensor& state,
                     std::span<const int32_t> tokens, std::span<const int32_t> output_tokens);

// One forward call's terms. Logits are computed when they are first asked for.
class LmSums {
 public:
  // teacher: null where no term needs one.
  LmSums(Model& model, TrainBackend& backend, const Batch& batch, const Model::Results& forward,
         const LmExits& exits, const Teacher* teacher);
  // [1]
  Tensor sum(const LmTerm& term);

 private:
  const Tensor& logits(int exit);
  Tensor gate_sum(int exit);

  Model& model_;
  TrainBackend& backend_;
  const Batch& batch_;
  const Model::Results& forward_;
  const LmExits& exits_;
  const Teacher* teacher_;
  Tensor output_, teacher_logits_;
  std::vector<Tensor> exit_logits_;
  std::vector<int32_t> output_tokens_;  // the likeliest ones
};

}  // namespace reprise
