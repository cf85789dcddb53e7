// TroL, "Traversal of Layers for Large Language and Vision Models" (arXiv 2406.12246).
//
// Over a prompt every layer L is visited twice and the results are mixed per token:
//   y = (1 - w) L(x) + w L(L(x)),   w = 0.5 tanh(g . L(x) + b) + 0.5 = sigmoid(2 (g . L(x) + b))
// Generated tokens (and a prompt of one token) make one plain visit a layer and attend to the first
// visits' keys and values. The second visit's are needed only while the prompt runs: kept until it
// is done, a prompt can be cut into chunks of any size and stays exact.
//
// Config (all optional, for experiments): "reprise": {"trol": {"passes": 1 to 4, "mix": M}}, M one
// of "learned" (the gate), "uniform" (w = 1/2), "random" (w uniform per token): the paper's
// ablations.
//
// Adaptive traversal (ours): w depends on L(x) only and is known before the second visit. A token
// with w below a threshold leaves that visit's attention output and MLP out, y = L(x), but still
// gives the others its exact second-visit keys and values, which depend on L(x) only too.
//
// The released models share one gate over all layers. More passes (the paper's ablation has no
// formula; this rule is ours): y_p = (1 - w) y_{p-1} + w L(y_{p-1}), w from the gate on y_{p-1}.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "formats/pickle.h"
#include "formats/pickle_writer.h"
#include "model/reuse/schemes.h"
#include "model/scheme_files.h"

namespace reprise {
namespace {

constexpr int kMostPasses = 4;
constexpr const char* kGateFile = "trol_gating.pt";

// Equal values; a NaN is equal to itself, so that what is said of it is that it is one.
bool same_values(const TensorView& a, const TensorView& b) {
  return std::ranges::equal(to_floats(a), to_floats(b), [](float x, float y) {
    return x == y || std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
}

class Trol : public Scheme {
 public:
  explicit Trol(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where, "reprise.trol.");
    if (keys.has("passes")) passes_ = static_cast<int>(keys.get_int("passes", 1, kMostPasses));
    const std::string mixing = keys.find_string("mix").value_or("learned");
    if (mixing == "uniform")
      mixing_ = Mixing::Uniform;
    else if (mixing == "random")
      mixing_ = Mixing::Random;
    else if (mixing != "learned")
      keys.fail_at("mix", "expected learned, uniform or random, found '" + mixing + "'");
  }
  std::string name() const override { return "trol"; }

  // On InternLM2 (TroL-1.8B and 7B) every matrix of a block has one adapter, for image tokens only.
  void attach(std::vector<Block>& blocks) override {
    blocks_ = &blocks;
    if (config_.text.image_lora_rank == 0) return;
    for (Block& block : blocks)
      for (auto& [key, weight] : block.matrices(config_.text)) weight->adapters.resize(1);
  }

  std::vector<int32_t> row_adapters(const Rows& rows) const override {
    if (config_.text.image_lora_rank == 0 || rows.is_image.empty()) return {};
    std::vector<int32_t> adapters;
    for (const uint8_t image : rows.is_image) adapters.push_back(image ? 0 : -1);
    return adapters;
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    visitor(
        {"trol_gating.weight", {1, config_.text.d}, WeightUse::Matrix, Role::Gate, &gate_.weight});
    visitor({"trol_gating.bias", {1}, WeightUse::Vector, Role::Gate, &gate_.bias});
    const int64_t rank = config_.text.image_lora_rank;
    for (size_t k = 0; rank > 0 && k < blocks_->size(); ++k) {
      for (auto& [key, weight] : (*blocks_)[k].matrices(config_.text)) {
        const auto [out, in] = matrix_shape(config_.text, key);
        const std::string name = names.of(key, static_cast<int>(k)) + ".lora_";
        LowRank& adapter = weight->adapters[0];
        visitor({name + "A.weight", {rank, in}, WeightUse::Matrix, Role::Adapter, &adapter.a});
        visitor({name + "B.weight", {out, rank}, WeightUse::Matrix, Role::Adapter, &adapter.b});
      }
    }
  }

  // The file holds the list of gates, "0.weight", "0.bias", "1.weight", ...: one Linear, L times.
  // The official loader puts them all into that one Linear, so that the last entry counts.
  std::vector<TensorView> extra_files(const std::filesystem::path& folder,
                                      const LoadOptions& options) const override {
    const auto path = folder / kGateFile;
    if (!std::filesystem::exists(path))
      fail("{}: is missing; a TroL model keeps its gate there", path.string());
    const WeightFile file = open_pt(path);
    const int layers = config_.text.layers;
    if (layers == 0) return {};  // not known (config_from_json)
    Problems problems;
    if (const size_t expected = 2 * static_cast<size_t>(layers); file.tensors().size() != expected)
      problems.add(
          fmt::format("{}: {} entries, expected {}: <layer>.weight and <layer>.bias of {} "
                      "layers",
                      path.string(), file.tensors().size(), expected, layers));
    std::vector<TensorView> gate;
    for (const char* part : {"weight", "bias"}) {
      TensorView last;
      for (int layer = 0; layer < layers; ++layer) {
        const std::string key = fmt::format("{}.{}", layer, part);
        const TensorView* entry = file.find(key);
        if (!entry) {
          problems.add(fmt::format("{}: key '{}' is missing", path.string(), key));
          break;
        }
        if (layer > 0 && !options.last_gate && !same_values(last, *entry)) {
          problems.add(fmt::format(
              "{}: key '{}' differs from '{}': expected one gate shared by all layers (--last-gate "
              "uses the last entry for every layer, as the official loader does)",
              path.string(), key, last.name));
          break;
        }
        last = *entry;
      }
      last.name = fmt::format("trol_gating.{}", part);
      gate.push_back(last);
    }
    problems.raise();
    return gate;
  }

  Plan decode_plan(const PlanOptions& options) const override {
    check(options);
    return dense_plan(config_.text.layers);
  }

  // KV rows 0..L-1 are the first visits', the same as in the decode plan.
  Plan prefill_plan(const PlanOptions& options) const override {
    check(options);
    const int passes = passes_of(options);
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
        plan.mix({/*gate=*/0, options.skip_below, options.traverse},
                 pass == passes ? name + ".out" : fmt::format("{}.mix{}", name, pass));
      }
    }
    return plan;
  }

  Tensor mix_weight(Backend& be, const Mix&, const Tensor& in) const override {
    if (mixing_ == Mixing::Learned)
      return be.unary(be.scale(be.linear(in, gate_), 2.0f), Unary::Sigmoid);
    std::vector<float> w(static_cast<size_t>(in.dim(0)), 0.5f);
    if (mixing_ == Mixing::Random) {
      const std::vector<float> rows = be.to_host(in);
      const auto width = static_cast<size_t>(in.cols());
      for (size_t i = 0; i < w.size(); ++i)
        w[i] = random_weight(std::span(rows).subspan(i * width, width));
    }
    return be.from_host(w, {in.dim(0), 1});
  }

 private:
  enum class Mixing { Learned, Uniform, Random };

  // Uniform in [0, 1), drawn from the bits of the token's state: fresh for every token, layer and
  // training step, and the same however the work is sliced.
  static float random_weight(std::span<const float> state) {
    return Philox(hash_floats(state), 0).uniform(0);
  }

  int passes_of(const PlanOptions& options) const {
    return options.passes == 0 ? passes_ : options.passes;
  }

  void check(const PlanOptions& options) const {
    if (!options.plan.empty())
      fail("--plan: a TroL model makes its own plans; use --passes 1 to {} instead", kMostPasses);
    if (options.passes < 0 || options.passes > kMostPasses)
      fail("--passes {}: expected 1 to {}", options.passes, kMostPasses);
    if (!(options.skip_below >= 0 && options.skip_below <= 1))
      fail("--adaptive {}: expected 0 to 1", options.skip_below);
    if (passes_of(options) > 1) return;
    if (options.skip_below > 0)
      fail("--adaptive {}: with one pass there is no second visit to leave out",
           options.skip_below);
    if (options.traverse != MixTokens::All)
      fail("--traverse {}: with one pass no token makes a second visit",
           mix_tokens_name(options.traverse));
  }

  int passes_ = 2;
  Mixing mixing_ = Mixing::Learned;
  LinearWeight gate_;                     // [1, d]
  std::vector<Block>* blocks_ = nullptr;  // the model's; outlives the scheme's use
};

}  // namespace

// As the official code's state_dict of the list of gates: every layer's entry, one storage.
void write_trol_gate(const ModelConfig& config, const std::vector<TensorView>& tensors,
                     const std::filesystem::path& folder) {
  std::vector<TensorView> entries;
  for (int layer = 0; layer < config.text.layers; ++layer) {
    for (TensorView entry : tensors) {
      entry.name = std::to_string(layer) + entry.name.substr(entry.name.rfind('.'));
      entries.push_back(std::move(entry));
    }
  }
  write_pt(folder / kGateFile, entries);
}

std::unique_ptr<Scheme> make_trol_scheme(const ModelConfig& config) {
  return std::make_unique<Trol>(config);
}

}  // namespace reprise
