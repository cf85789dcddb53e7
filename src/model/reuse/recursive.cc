// Recursive and relaxed recursive transformers (arXiv 2410.20672): K blocks looped B times, depth
// loop * K + k runs block k with a KV row of its own. All of a block is shared over the loops,
// norms too; relaxed: every (loop, block) has low-rank adapters of its own on all seven matrices,
// y = W x + B (A x) without further scaling, rank capped at min(d_in, d_out).
//
// Config:  "num_hidden_layers": K,
//          "reprise": {"scheme": "recursive", "recursive": {"loops": B, "lora_rank": r}}
// Tensors: blocks as an ordinary decoder's; adapters "<layer>lora.<loop>.<matrix>.A" [r, in] and
//          ".B" [out, r] with <layer> = "model.layers.<k>.", <matrix> one of q k v o gate up down
//          (qkv, gate_up where fused).
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json_object.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

class Recursive : public Scheme {
 public:
  explicit Recursive(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where, "reprise.recursive.");
    loops_ = static_cast<int>(keys.get_int("loops", 1, 1000));
    rank_ = static_cast<int>(keys.get_int("lora_rank", 0, 1 << 20));
  }

  void attach(std::vector<Block>& blocks) override {
    blocks_ = &blocks;
    if (rank_ == 0) return;
    for (Block& block : blocks)
      for (auto& [key, weight] : block.matrices(config_.text))
        weight->adapters.resize(static_cast<size_t>(loops_));
  }

  void visit_tensors(const TensorNames& names, const TensorVisitor& visitor) override {
    if (rank_ == 0) return;
    for (size_t k = 0; k < blocks_->size(); ++k) {
      for (auto& [key, weight] : (*blocks_)[k].matrices(config_.text)) {
        const auto [out, in] = matrix_shape(config_.text, key);
        const int64_t rank = std::min({int64_t{rank_}, out, in});
        for (int loop = 0; loop < loops_; ++loop) {
          LowRank& adapter = weight->adapters[static_cast<size_t>(loop)];
          const std::string name =
              fmt::format("{}lora.{}.{}", names.layer_prefix(static_cast<int>(k)), loop, key);
          visitor({name + ".A", {rank, in}, WeightUse::Matrix, Role::Adapter, &adapter.a});
          visitor({name + ".B", {out, rank}, WeightUse::Matrix, Role::Adapter, &adapter.b});
        }
      }
    }
  }

  Plan decode_plan(const PlanOptions& options) const override {
    if (options.has("plan") && rank_ > 0)
      fail("--plan: this model's blocks have an adapter per loop, so their order is fixed");
    if (options.has("plan")) return Scheme::decode_plan(options);
    Plan plan;
    for (int loop = 0; loop < loops_; ++loop) {
      for (int k = 0; k < config_.text.layers; ++k) {
        const int row = plan.add_kv_row();
        plan.visit(k, row, rank_ > 0 ? loop : -1, fmt::format("layer.{}.out", row));
      }
      plan.loop_end(loop);
    }
    return plan;
  }

 private:
  int loops_ = 0;
  int rank_ = 0;
  std::vector<Block>* blocks_ = nullptr;  // the model's; outlives the scheme's use
};

}  // namespace

const SchemeType& recursive_scheme() {
  static const SchemeType type = {
      .name = "recursive",
      .summary = "a block of layers looped, shared as it is or with low-rank adapters per loop",
      .make = make_as<Recursive>,
      .options = {plan_option()}};
  return type;
}

}  // namespace reprise
