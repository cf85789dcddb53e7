// The numbers of a trace page, collected while a plan runs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/model.h"
#include "model/run/observer.h"
#include "trace/page/trace_page.h"

namespace reprise {

// What the steps of the plans show: states before and after, mixing weights ("mix_w" [rows, 1]), and
// of a visit "gate_w" [rows, heads] (Phantom, after "o1" and "o2" [rows, heads, w]).
class TraceMeasures : public Observer {
 public:
  TraceMeasures(Model& model, const Plan& prefill, const Plan& decode, int64_t tokens);

  // The next call runs the tokens from `first` on. Must be called before each.
  void begin_call(int64_t first);
  void on_step(const StepSeen& seen) override;
  void on_value(const ValueSeen& seen) override;

  // Those that the plans have something for; the one that a reader wants first is in front.
  std::vector<TraceMeasure> finish();

 private:
  struct Part {
    TraceMeasure measure;
    std::map<int, size_t> column_of;  // by the key of the visit (before it)
  };

  void add_columns(const Plan& plan);
  void add_column(Part& part, int kv_row, TraceColumn column);
  void observe_gate(int key, const Tensor& gate);  // of the visit with this key
  // Where the call's values of this column begin.
  float* values_of(Part& part, int kv_row);

  Model& model_;
  int64_t tokens_;
  std::map<int, int> visits_of_block_;  // while columns are made
  Part mix_, second_look_, gate_, gate_effect_, update_;

  // The call under way.
  int64_t first_ = 0;
  Tensor before_visit_;  // the state before the last visit
  int kv_row_ = -1;      // the last visit's key
  Tensor o1_, o2_;
};

}  // namespace reprise
