// Who watches a forward pass: traces, measures, tests. Steps are typed; names are made by those who
// need them. Tensors are [rows, ...] of the cohort that runs.
#pragma once

#include <string>
#include <string_view>

#include "backend/tensor.h"
#include "model/plan/plan.h"

namespace reprise {

// A step of a plan that was carried out.
struct StepSeen {
  const Plan& plan;
  size_t index;          // of the step in the plan
  const Tensor& before;  // the state that the step was given
  const Tensor& after;   // the state after it
  const Step& step() const { return plan.steps[index]; }
};

// An intermediate result of the step under way: "attn" of a visit, "mix_w" of a mix, and what the
// scheme's attention shows.
struct ValueSeen {
  const Plan& plan;
  size_t index;
  std::string_view name;
  const Tensor& value;
  const Step& step() const { return plan.steps[index]; }
};

class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_step(const StepSeen&) {}
  virtual void on_value(const ValueSeen&) {}
  // What a block's matrices are applied to: "attn_in" (q, k, v), "o_in", "mlp_in" (gate, up) and
  // "down_in". Apart from the values, which traces show all of.
  virtual void on_input(const ValueSeen&) {}
  // Results outside a plan: "vision_out", "projected", "inputs_embeds", "final_norm", "logits".
  virtual void observe(const std::string& /*name*/, const Tensor& /*value*/) {}
};

// An observer at one step of a plan; does nothing without one.
class Watch {
 public:
  Watch() = default;
  Watch(Observer* observer, const Plan& plan, size_t index)
      : observer_(observer), plan_(&plan), index_(index) {}
  explicit operator bool() const { return observer_ != nullptr; }
  void value(std::string_view name, const Tensor& value) const {
    if (observer_) observer_->on_value({*plan_, index_, name, value});
  }
  void input(std::string_view name, const Tensor& value) const {
    if (observer_) observer_->on_input({*plan_, index_, name, value});
  }
  void step(const Tensor& before, const Tensor& after) const {
    if (observer_) observer_->on_step({*plan_, index_, before, after});
  }

 private:
  Observer* observer_ = nullptr;
  const Plan* plan_ = nullptr;
  size_t index_ = 0;
};

}  // namespace reprise
