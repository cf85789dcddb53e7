// TroL, "Traversal of Layers for Large Language and Vision Models" (arXiv 2406.12246).
//
// Over a prompt every layer L is visited twice and the results are mixed per token:
//   y = (1 - w) L(x) + w L(L(x)),   w = 0.5 tanh(g . L(x) + b) + 0.5 = sigmoid(2 (g . L(x) + b))
// Generated tokens (and a prompt of one token) make one plain visit a layer and attend to the first
// visits' keys and values. The second visit's are needed only while the prompt runs: kept until it
// is done, a prompt can be cut into chunks of any size and stays exact.
//
// The released models share one gate over all layers. More passes (the paper's ablation has no
// formula; this rule is ours): y_p = (1 - w) y_{p-1} + w L(y_{p-1}), w from the gate on y_{p-1}.
#include <fmt/format.h>

#include "base/error.h"
#include "formats/pickle.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

constexpr int kMostPasses = 4;
constexpr const char* kGateFile = "trol_gating.pt";

class Trol : public Scheme {
 public:
  explicit Trol(const ModelConfig& config) : Scheme(config) {}
  std::string name() const override { return "trol"; }

  void visit_tensors(const TensorNames&, const TensorVisitor& visitor) override {
    visitor(
        {"trol_gating.weight", {1, config_.text.d}, WeightUse::Matrix, Role::Gate, &gate_.weight});
    visitor({"trol_gating.bias", {1}, WeightUse::Vector, Role::Gate, &gate_.bias});
  }

  // The file holds the list of gates, "0.weight", "0.bias", "1.weight", ...: one Linear, L times.
  std::vector<TensorView> extra_files(const std::filesystem::path& folder) const override {
    const auto path = folder / kGateFile;
    if (!std::filesystem::exists(path))
      fail("{}: is missing; a TroL model keeps its gate there", path.string());
    TensorView weight, bias;
    const WeightFile file = open_pt(path);
    for (const TensorView& entry : file.tensors()) {
      const bool is_bias = entry.name.ends_with(".bias");
      if (!is_bias && !entry.name.ends_with(".weight"))
        fail("{}: key '{}': expected <layer>.weight and <layer>.bias", path.string(), entry.name);
      TensorView& kept = is_bias ? bias : weight;
      if (kept.name.empty())
        kept = entry;
      else if (to_floats(kept) != to_floats(entry))
        fail(
            "{}: key '{}' differs from '{}': this program expects one gate shared by all layers "
            "(the official loader would use the last one for all)",
            path.string(), entry.name, kept.name);
    }
    if (weight.name.empty() || bias.name.empty())
      fail("{}: expected keys '0.weight' and '0.bias'", path.string());
    weight.name = "trol_gating.weight";
    bias.name = "trol_gating.bias";
    return {weight, bias};
  }

  Plan decode_plan(const PlanOptions& options) const override {
    check(options);
    return dense_plan(config_.text.layers);
  }

  // KV rows 0..L-1 are the first visits', the same as in the decode plan.
  Plan prefill_plan(const PlanOptions& options) const override {
    check(options);
    const int passes = options.passes == 0 ? 2 : options.passes;
    const int layers = config_.text.layers;
    if (passes == 1) return dense_plan(layers);
    Plan plan;
    for (int layer = 0; layer < layers; ++layer) plan.add_kv_row(Lifetime::Request);
    for (int layer = 0; layer < layers; ++layer) {
      const std::string name = fmt::format("layer.{}", layer);
      plan.visit(layer, layer, -1, name + ".pass1");
      for (int pass = 2; pass <= passes; ++pass) {
        plan.visit(layer, plan.add_kv_row(Lifetime::Prompt), -1,
                   fmt::format("{}.pass{}", name, pass));
        plan.mix(/*gate=*/0, pass == passes ? name + ".out" : fmt::format("{}.mix{}", name, pass));
      }
    }
    return plan;
  }

  Tensor mix_weight(Backend& be, int /*gate*/, const Tensor& in) override {
    return be.unary(be.scale(be.linear(in, gate_), 2.0f), Unary::Sigmoid);
  }

 private:
  void check(const PlanOptions& options) const {
    if (!options.plan.empty())
      fail("--plan: a TroL model makes its own plans; use --passes 1 to {} instead", kMostPasses);
    if (options.passes < 0 || options.passes > kMostPasses)
      fail("--passes {}: expected 1 to {}", options.passes, kMostPasses);
  }

  LinearWeight gate_;  // [1, d]
};

}  // namespace

std::unique_ptr<Scheme> make_trol_scheme(const ModelConfig& config) {
  return std::make_unique<Trol>(config);
}

}  // namespace reprise
