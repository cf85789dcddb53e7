// Recursive and relaxed recursive transformers (arXiv 2410.20672): K blocks looped B times, depth
// loop * K + k runs block k with a KV row of its own. All of a block is shared over the loops,
// norms too; relaxed: every (loop, block) has low-rank adapters of its own on all seven matrices,
// y = W x + B (A x) without further scaling, rank capped at min(d_in, d_out).
//
// Config:  "num_hidden_layers": first + K + last,
//          "reprise": {"scheme": "recursive",
//                      "recursive": {"loops": B, "lora_rank": r, "first": 0, "last": 0,
//                                    "exit_gate": false}}
//          r: a number, or ranks by matrix ({"q": 96, "down": 141}; one that isn't named has no
//          adapter). The first and last layers are visited once, before and behind the loops, and
//          have no adapters. exit_gate: there is a learned exit rule, sigmoid(Linear(d, 1)) of the
//          state at a loop end, one for all loops.
// Tensors: blocks as an ordinary decoder's; adapters "<layer>lora.<loop>.<matrix>.A" [r, in] and
//          ".B" [out, r] with <layer> = "model.layers.<first + k>.", <matrix> one of q k v o gate up
//          down (qkv, gate_up where fused); "reprise.exit_gate.weight" [1, d] and ".bias" [1].
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/json_object.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

std::string adapter_name(const std::string& layer_prefix, int loop, const std::string& matrix) {
  return fmt::format("{}lora.{}.{}", layer_prefix, loop, matrix);
}

Json recursive_section(const LoopShape& shape) {
  Json ranks = Json::object();
  bool alike = true;
  for (const auto& [matrix, rank] : shape.ranks) {
    ranks[matrix] = rank;
    alike = alike && rank == shape.ranks.begin()->second;
  }
  if (alike) ranks = ranks.empty() ? 0 : shape.ranks.begin()->second;
  return {
      {"loops", shape.loops}, {"lora_rank", ranks}, {"first", shape.first}, {"last", shape.last}};
}

class Recursive : public Scheme {
 public:
  explicit Recursive(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where, "reprise.recursive.");
    keys.allow_only({"loops", "lora_rank", "first", "last", "exit_gate"});
    constexpr int64_t kMostLoops = 1000, kHighestRank = 1 << 20;
    loops_ = static_cast<int>(keys.get_int("loops", 1, kMostLoops));
    const Json& rank = keys.json().contains("lora_rank") ? keys.json()["lora_rank"] : Json();
    const std::set<std::string> matrices = matrix_keys();
    if (rank.is_object()) {
      const JsonObject by_matrix = keys.get_object("lora_rank");
      for (const auto& [matrix, value] : rank.items()) {
        if (!matrices.contains(matrix))
          by_matrix.fail_at(
              matrix, fmt::format("no such matrix, expected one of {}", fmt::join(matrices, ", ")));
        ranks_[matrix] = by_matrix.get_int(matrix, 0, kHighestRank);
      }
    } else {
      for (const std::string& matrix : matrices)
        ranks_[matrix] = keys.get_int("lora_rank", 0, kHighestRank);
    }
    std::erase_if(ranks_, [](const auto& entry) { return entry.second == 0; });
    const int layers = config.text.layers;
    const auto unlooped = [&](const char* key, int looped_or_last) {
      return keys.has(key) ? static_cast<int>(keys.get_int(key, 0, looped_or_last - 1)) : 0;
    };
    first_ = unlooped("first", layers);
    last_ = unlooped("last", layers - first_);
    has_exit_gate_ = keys.find_bool("exit_gate").value_or(false);
  }

  void attach(std::vector<Block>& blocks) override {
    blocks_ = &blocks;
    for (int k = first_; k < end(); ++k)
      for (auto& [key, weight] : blocks[static_cast<size_t>(k)].matrices(config_.text))
        if (ranks_.contains(key)) weight->adapters.resize(static_cast<size_t>(loops_));
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    for (int k = first_; k < end(); ++k) {
      for (auto& [key, weight] : (*blocks_)[static_cast<size_t>(k)].matrices(config_.text)) {
        const auto of_key = ranks_.find(key);
        if (of_key == ranks_.end()) continue;
        const auto [out, in] = matrix_shape(config_.text, key);
        const int64_t rank = std::min({of_key->second, out, in});
        for (int loop = 0; loop < loops_; ++loop) {
          LowRank& adapter = weight->adapters[static_cast<size_t>(loop)];
          const std::string name = adapter_name(names.layer_prefix(k), loop, key);
          visitor({name + ".A", {rank, in}, WeightUse::Matrix, Role::Adapter, &adapter.a});
          visitor({.name = name + ".B",  // its rows are the matrix's
                   .shape = {out, rank},
                   .use = WeightUse::Matrix,
                   .role = Role::Adapter,
                   .tensor = &adapter.b,
                   .key = key,
                   .layer = k});
        }
      }
    }
    if (!has_exit_gate_) return;
    const std::string gate = "reprise.exit_gate";
    visitor(
        {gate + ".weight", {1, config_.text.d}, WeightUse::Matrix, Role::Gate, &exit_gate_.weight});
    visitor({gate + ".bias", {1}, WeightUse::Vector, Role::Gate, &exit_gate_.bias});
  }

  bool has_exit_gate() const override { return has_exit_gate_; }
  Tensor exit_gate(Backend& be, const Tensor& state) const override {
    return has_exit_gate_ ? be.linear(state, exit_gate_) : Scheme::exit_gate(be, state);
  }

  Plan decode_plan(const PlanOptions& options) const override {
    if (options.has("plan") && !ranks_.empty())
      fail("--plan: this model's blocks have an adapter per loop, so their order is fixed");
    if (options.has("plan")) return Scheme::decode_plan(options);
    Plan plan;
    const auto visit = [&](int block, int adapter) {
      const int row = plan.add_kv_row();
      plan.visit(block, row, adapter, fmt::format("layer.{}.out", row));
    };
    for (int k = 0; k < first_; ++k) visit(k, -1);
    for (int loop = 0; loop < loops_; ++loop) {
      for (int k = first_; k < end(); ++k) visit(k, ranks_.empty() ? -1 : loop);
      plan.loop_end(loop);
    }
    // Tokens that leave go on behind the last loop end.
    if (last_ > 0)
      for (Step& step : plan.steps)
        if (auto* loop_end = std::get_if<LoopEnd>(&step.op))
          loop_end->coda = static_cast<int>(plan.steps.size());
    for (int k = end(); k < end() + last_; ++k) visit(k, -1);
    return plan;
  }

 private:
  int end() const { return config_.text.layers - last_; }  // behind the looped blocks
  std::set<std::string> matrix_keys() const {
    std::set<std::string> keys;
    Block block;
    for (const auto& [key, weight] : block.matrices(config_.text)) keys.insert(key);
    return keys;
  }

  int loops_ = 0;
  int first_ = 0, last_ = 0;              // layers outside of the loops
  std::map<std::string, int64_t> ranks_;  // by matrix, before they are capped; none is 0
  bool has_exit_gate_ = false;
  LinearWeight exit_gate_;                // [1, d] with a bias
  std::vector<Block>* blocks_ = nullptr;  // the model's; outlives the scheme's use
};

}  // namespace

const SchemeType& recursive_scheme() {
  static const SchemeType type = {
      .name = "recursive",
      .summary = "a block of layers looped, shared as it is or with low-rank adapters per loop",
      .make = make_as<Recursive>,
      .options = {plan_option()},
      .looping = {.section = recursive_section, .adapter = adapter_name}};
  return type;
}

}  // namespace reprise
