// The numbers of a trace page, collected while a plan runs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "trace/page/trace_page.h"
#include "model/model.h"
#include "model/rows.h"

namespace reprise {

// Follows the interpreter step by step: what is observed is matched with the plan's steps in order,
// and states that are not shown (after Save and Combine) are computed from those that are.
//
// Beside the states it takes what Mix steps show, "<stem>.mix_w" [rows, 1], and of the visit under
// way "<stem>.gate_w" [rows, heads] (Phantom, after "<stem>.o1" and "<stem>.o2" [rows, heads, w]).
class TraceMeasures : public Observer {
 public:
  TraceMeasures(Model& model, const Plan& prefill, const Plan& decode, int64_t tokens);

  // The next call runs `plan` for the tokens from `first` on. Must be called before each.
  void begin_call(const Plan& plan, int64_t first);
  void observe(const std::string& name, const Tensor& value) override;
  // Logits of every place where a token may leave are costly and not shown.
  bool wants(const std::string& name) const override { return !name.starts_with("exit."); }

  // Those that the plans have something for; the one that a reader wants first is in front.
  std::vector<TraceMeasure> finish();

 private:
  struct Part {
    TraceMeasure measure;
    std::map<int, size_t> column_of;  // by the KV row that the visit (before it) writes
  };

  void add_columns(const Plan& plan);
  void add_column(Part& part, int kv_row, TraceColumn column);
  void skip_silent_steps();
  void step_done(const Step& step, const Tensor& state);
  void observe_gate(const Visit& visit, const Tensor& gate);
  // Where the call's values of this column begin.
  float* values_of(Part& part, int kv_row);

  Model& model_;
  int64_t tokens_;
  std::map<int, int> visits_of_block_;  // while columns are made
  Part mix_, second_look_, gate_, gate_effect_, update_;

  // The call under way.
  const Plan* plan_ = nullptr;
  int64_t first_ = 0;
  size_t step_ = 0;        // the next one of the plan
  Tensor state_, before_;  // the state now, and before the last visit
  int kv_row_ = -1;        // that the last visit wrote
  std::vector<Tensor> registers_;
  Tensor o1_, o2_;
};

}  // namespace reprise
