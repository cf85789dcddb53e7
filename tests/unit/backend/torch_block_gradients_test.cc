// Gradients of the model's own blocks, visited as plans say, against finite differences: every
// weight of a block, its adapters, a traversal's gate and the input.
#include "model/model.h"
#include "support/tiny_models.h"
#include "unit/backend/torch_support.h"

namespace reprise::testing {
namespace {

constexpr test::TinyShape kShape = {
    .d = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .vocab = 5, .layers = 1};

Json block_config(const std::string& architecture, int layers = 1) {
  Json config = test::tiny_text_config(architecture, kShape);
  config["num_hidden_layers"] = layers;
  config["rms_norm_eps"] = 1e-2;  // norms of small states bend less between two differences
  return config;
}

class TorchBlock : public ::testing::Test {
 protected:
  void make(const Json& config) {
    model = Model::create(config_from_json(config, "tiny model"), *be, [&](const TensorSlot& slot) {
      const bool matrix = slot.use == WeightUse::Matrix && slot.role != Role::Gate;
      return in.values(num_elements(slot.shape), matrix ? 0.5f : 1.0f);
    });
    weights = {x};
    names.clear();
    model->visit_tensors([&](const TensorSlot& slot) {
      const bool outside = slot.role == Role::Embedding || slot.role == Role::Head ||
                           slot.role == Role::Vision || slot.role == Role::Projector;
      const bool final_norm = (slot.role == Role::Norm || slot.role == Role::Bias) &&
                              slot.name.find("layers") == slot.name.npos;
      if (outside || final_norm) return;
      be->set_trainable(*slot.tensor, true);
      weights.push_back(*slot.tensor);
      names.push_back(slot.name);
    });
  }
  Tensor run(const Plan& plan) { return model->forward(plan, rows, x); }
  void check(const Plan& plan) {
    check_gradients(
        *be, weights, [&] { return run(plan); }, 4e-3);
  }
  // As training packs them: rows 0 to 2 are what two requests begin with, each of which has a row
  // or two of its own; row 6 is a request alone.
  static Rows packed_rows() {
    Rows rows;
    rows.segments = {{nullptr, 0, 3, 5, -1},
                     {nullptr, 3, 2, 5, 0},
                     {nullptr, 5, 1, 5, 0},
                     {nullptr, 6, 1, 1, -1}};
    rows.positions = {0, 1, 2, 3, 4, 3, 0};
    return rows;
  }

  std::unique_ptr<TrainBackend> be = torch_backend();
  Inputs in{11};
  Rows rows = packed_rows();
  Tensor x = trainable(*be, in, {7, kShape.d});
  std::unique_ptr<Model> model;
  std::vector<Tensor> weights;
  std::vector<std::string> names;
};

TEST_F(TorchBlock, Llama) {
  make(block_config("LlamaForCausalLM"));
  EXPECT_EQ(names.size(), 9u);  // q k v o gate up down, two norms
  check(model->prefill_plan());
}

TEST_F(TorchBlock, BiasesOfQkv) {
  make(block_config("Qwen2ForCausalLM"));
  EXPECT_EQ(names.size(), 12u);
  check(model->prefill_plan());
}

TEST_F(TorchBlock, FusedMatrices) {
  make(block_config("Phi3ForCausalLM"));
  EXPECT_EQ(names.size(), 6u);  // qkv o gate_up down, two norms
  check(model->prefill_plan());
}

// LayerNorms, a parallel residual, an MLP without a gate, a part of each head rotated.
TEST_F(TorchBlock, GptNeox) {
  Json config = test::tiny_neox_config(kShape);
  config["layer_norm_eps"] = 1e-2;
  make(config);
  EXPECT_EQ(names.size(), 12u);  // qkv o up down, two norms; biases of all
  check(model->prefill_plan());
  config["use_parallel_residual"] = false;
  make(config);
  check(model->prefill_plan());
}

// The recursive scheme: the same weights twice, with adapters of their own in every loop.
TEST_F(TorchBlock, SharedWeightsWithAdaptersPerLoop) {
  Json config = block_config("LlamaForCausalLM");
  config["reprise"] = {{"scheme", "recursive"}, {"recursive", {{"loops", 2}, {"lora_rank", 2}}}};
  make(config);
  EXPECT_EQ(names.size(), 9u + 2 * 2 * 7);
  check(model->prefill_plan());
}

// The traversal scheme: y = (1 - w) L(x) + w L(L(x)), w by a gate on L(x).
TEST_F(TorchBlock, TraversalWithALearnedGate) {
  make(test::tiny_vision_language_config("trol", block_config("LlamaForCausalLM")));
  EXPECT_EQ(names.size(), 9u + 2);
  const Plan plan = model->prefill_plan();
  ASSERT_EQ(plan.visits(), 2);
  check(plan);
}

// Damped replay: a third of each of three updates.
TEST_F(TorchBlock, DampedReplay) {
  make(block_config("LlamaForCausalLM"));
  check(model->prefill_plan({{"plan", std::string("0*3")}}));
}

// Two visits of one block leave the sum of the gradients of two copies of it.
TEST_F(TorchBlock, GradientIsTheSumOverCopies) {
  make(block_config("LlamaForCausalLM"));
  const std::vector<float> c = in.values(x.size());
  be->backward(weighted_sum(*be, run(model->prefill_plan({{"plan", std::string("0,0")}})), c));
  std::vector<std::vector<float>> shared, values;
  for (size_t i = 1; i < weights.size(); ++i) {
    shared.push_back(be->gradient(weights[i]));
    values.push_back(be->to_host(weights[i]));
  }
  make(block_config("LlamaForCausalLM", /*layers=*/2));
  ASSERT_EQ(weights.size(), 1 + 2 * shared.size());
  for (size_t i = 1; i < weights.size(); ++i)
    be->assign(weights[i], values[(i - 1) % values.size()]);
  be->backward(weighted_sum(*be, run(model->prefill_plan()), c));
  for (size_t i = 0; i < shared.size(); ++i) {
    SCOPED_TRACE(names[i]);
    std::vector<float> sum = be->gradient(weights[1 + i]);
    const std::vector<float> second = be->gradient(weights[1 + i + shared.size()]);
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += second[k];
    expect_near(sum, shared[i], 1e-5);
  }
}

// Blocks that are computed again in the backward pass: the same gradients.
TEST_F(TorchBlock, CheckpointedVisitsHaveTheSameGradients) {
  make(block_config("LlamaForCausalLM"));
  model->set_visit_wrapper([&](const Tensor& state, Model::Visitation visit) {
    return be->checkpoint(state, std::move(visit));
  });
  check(model->prefill_plan({{"plan", std::string("0,0")}}));
}

}  // namespace
}  // namespace reprise::testing
