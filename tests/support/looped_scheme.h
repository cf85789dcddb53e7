// A scheme of the tests with every step that looped models are made of: an initial state of its own,
// the first block's state injected into every loop and added, norms as steps, loop ends whose tokens
// go on with a coda.
#pragma once

#include "model/scheme.h"

namespace reprise::test {

class LoopedScheme : public Scheme {
 public:
  static constexpr int kLoops = 3;
  explicit LoopedScheme(const ModelConfig& config) : Scheme(config) {}

  // Block 0, loops of block 1, block 2; KV rows 0, 1 to kLoops, kLoops + 1.
  Plan decode_plan(const PlanOptions&) const override {
    Plan plan;
    plan.registers = 1;
    const auto step = [&](auto op) { plan.steps.push_back({op, ""}); };
    plan.visit(0, plan.add_kv_row(), -1, "");
    step(Save{0});
    step(Initial{2});
    for (int loop = 0; loop < kLoops; ++loop) {
      step(Inject{.reg = 0, .index = 1});
      plan.visit(1, plan.add_kv_row(), -1, "");
      step(Norm{0});
      step(LoopEnd{.loop = loop, .coda = 3 + 4 * kLoops});
    }
    step(Add{.reg = 0, .scale = 0.25f});
    plan.visit(2, plan.add_kv_row(), -1, "");
    step(Norm{-1});
    plan.check(3, "looped scheme of the tests");
    return plan;
  }
  // 0.5 x + index * kept
  Tensor inject(Backend& be, int index, const Tensor& x, const Tensor& kept) const override {
    return be.add(be.scale(x, 0.5f), kept, static_cast<float>(index));
  }
  // An RMS norm without weights' influence.
  Tensor step_norm(Backend& be, int /*index*/, const Tensor& x) const override {
    NormWeight norm{.weight = be.from_host(std::vector<float>(static_cast<size_t>(x.dim(1)), 1.0f),
                                           {x.dim(1)})};
    set_norm(norm, {.eps = 1e-5f});
    return be.norm(x, norm);
  }
  // By position and component alone.
  Tensor initial_state(Backend& be, const Initial& step, const Rows& rows) const override {
    const int64_t d = config_.text.d;
    std::vector<float> values;
    for (const int32_t position : rows.positions)
      for (int64_t i = 0; i < d; ++i)
        values.push_back(0.01f * static_cast<float>(step.index * ((position * 7 + i * 3) % 11)));
    return be.from_host(values, {rows.size(), d});
  }
};

}  // namespace reprise::test
