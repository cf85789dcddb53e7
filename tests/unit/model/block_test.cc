// Parts of a block, each beside the same arithmetic written out.
#include "model/block.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "backend/factory.h"
#include "base/json.h"
#include "base/rng.h"
#include "model/fused_qkv.h"
#include "model/model.h"

namespace reprise {
namespace {

constexpr int64_t kRows = 3;

std::vector<float> random_values(int64_t count, uint64_t stream) {
  const Philox random(5, stream);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.normal(i));
  return values;
}

// One block of 4 heads and 2 KV heads of 6, of width 16.
TextConfig small_config() {
  TextConfig config;
  config.layers = 1;
  config.d = 16;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 6;
  config.ffn = 8;
  config.blocks = {BlockConfig{.norm = {.eps = 1e-5f}, .scale = 0.4f}};
  config.ropes = {RopeConfig{.theta = 10000, .dim = 6}};
  return config;
}

class BlockParts : public testing::Test {
 protected:
  // A block whose weights are random, by name.
  Block make_block(const TextConfig& config) {
    Block block;
    block.set_norms(config.blocks[0].norm);
    uint64_t stream = 0;
    block.visit_tensors(config, TensorNames(), 0, [&](const TensorSlot& slot) {
      names_.push_back(slot.name);
      *slot.tensor = be_->from_host(random_values(num_elements(slot.shape), ++stream), slot.shape);
    });
    return block;
  }
  // q and k of rows that no position turns.
  Qkv project(const TextConfig& config, const Block& block) {
    VisitRows rows;
    std::vector<float> angles(static_cast<size_t>(kRows * 6));
    for (size_t i = 0; i < angles.size(); ++i) angles[i] = i % 6 < 3 ? 1.0f : 0.0f;
    rows.angles = be_->from_host(angles, {kRows, 6});
    const Tensor h = be_->from_host(random_values(kRows * config.d, 99), {kRows, config.d});
    return project_qkv(*be_, config, 0, block.attn, rows, h);
  }
  // values [..., size of weight] normed over the last dimension and weighted.
  static std::vector<float> normed(std::vector<float> values, const std::vector<float>& weight,
                                   float eps) {
    const size_t width = weight.size();
    for (size_t begin = 0; begin < values.size(); begin += width) {
      double squares = 0;
      for (size_t i = 0; i < width; ++i) squares += double{values[begin + i]} * values[begin + i];
      const double mean = squares / static_cast<double>(width);
      for (size_t i = 0; i < width; ++i)
        values[begin + i] *= weight[i] / static_cast<float>(std::sqrt(mean + eps));
    }
    return values;
  }
  void expect_near(const std::vector<float>& a, const std::vector<float>& b,
                   double tolerance = 1e-5) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], tolerance) << i;
  }

  std::unique_ptr<Backend> be_ =
      make_cpu_backend({.threads = 1, .activations = Activations::F32, .isa = "scalar"});
  std::vector<std::string> names_;
};

TEST_F(BlockParts, NormsOfEachHeadsQueriesAndKeys) {
  TextConfig config = small_config();
  config.blocks[0].qk_norm = QkNorm::Head;
  Block block = make_block(config);
  EXPECT_EQ(std::ranges::count(names_, "model.layers.0.self_attn.q_norm.weight"), 1);
  EXPECT_EQ(std::ranges::count(names_, "model.layers.0.self_attn.k_norm.weight"), 1);
  const Qkv with = project(config, block);
  config.blocks[0].qk_norm = QkNorm::None;
  const Qkv without = project(config, block);
  expect_near(be_->to_host(with.q),
              normed(be_->to_host(without.q), be_->to_host(block.attn.q_norm.weight), 1e-5f));
  expect_near(be_->to_host(with.k),
              normed(be_->to_host(without.k), be_->to_host(block.attn.k_norm.weight), 1e-5f));
  EXPECT_EQ(be_->to_host(with.v), be_->to_host(without.v));
}

TEST_F(BlockParts, NormsOfAllQueriesAndKeysAtOnce) {
  TextConfig config = small_config();
  config.blocks[0].qk_norm = QkNorm::All;
  Block block = make_block(config);
  EXPECT_EQ(block.attn.q_norm.weight.shape(), Shape({24}));
  EXPECT_EQ(block.attn.k_norm.weight.shape(), Shape({12}));
  const Qkv with = project(config, block);
  config.blocks[0].qk_norm = QkNorm::None;
  const Qkv without = project(config, block);
  expect_near(be_->to_host(with.q),
              normed(be_->to_host(without.q), be_->to_host(block.attn.q_norm.weight), 1e-5f));
  expect_near(be_->to_host(with.k),
              normed(be_->to_host(without.k), be_->to_host(block.attn.k_norm.weight), 1e-5f));
  EXPECT_EQ(with.q.shape(), without.q.shape());
}

TEST_F(BlockParts, NoNormsBeforeAttentionAndMlp) {
  TextConfig config = small_config();
  config.blocks[0].pre_norm = false;
  make_block(config);
  EXPECT_EQ(std::ranges::count(names_, "model.layers.0.input_layernorm.weight"), 0);
  EXPECT_EQ(std::ranges::count(names_, "model.layers.0.post_attention_layernorm.weight"), 0);
}

TEST_F(BlockParts, NormsOfOnePlusTheWeight) {
  TextConfig config = small_config();
  config.blocks[0].qk_norm = QkNorm::Head;
  config.blocks[0].norm.offset = 1;
  const Block block = make_block(config);
  std::vector<float> weight = be_->to_host(block.attn.q_norm.weight);
  for (float& value : weight) value += 1;
  const Qkv with = project(config, block);
  config.blocks[0].qk_norm = QkNorm::None;
  expect_near(be_->to_host(with.q), normed(be_->to_host(project(config, block).q), weight, 1e-5f));
  EXPECT_EQ(block.attn_norm.offset, 1);
  EXPECT_EQ(block.mlp_norm.offset, 1);
}

TEST_F(BlockParts, ScaledEmbeddings) {
  Json json = {{"architectures", {"LlamaForCausalLM"}},
               {"hidden_size", 16},
               {"vocab_size", 12},
               {"num_attention_heads", 2},
               {"intermediate_size", 8},
               {"num_hidden_layers", 1},
               {"tie_word_embeddings", true}};
  ModelConfig config = config_from_json(json, "config");
  const auto initial = [](const TensorSlot& slot) {
    return random_values(num_elements(slot.shape), 1);
  };
  const std::vector<int32_t> ids = {7, 0, 11};
  const auto plain = Model::create(config, *be_, initial);
  config.text.embed_scale = 4;
  const auto scaled = Model::create(config, *be_, initial);
  std::vector<float> expected = be_->to_host(plain->embed(ids));
  for (float& value : expected) value *= 4;
  EXPECT_EQ(be_->to_host(scaled->embed(ids)), expected);
  const Tensor state = be_->from_host(random_values(16, 2), {1, 16});
  EXPECT_EQ(be_->to_host(scaled->logits(state)), be_->to_host(plain->logits(state)))
      << "the tied head is not scaled";
}

TEST_F(BlockParts, CappedLogits) {
  Json json = {{"architectures", {"Gemma2ForCausalLM"}},
               {"hidden_size", 16},
               {"vocab_size", 12},
               {"num_attention_heads", 2},
               {"num_key_value_heads", 2},
               {"intermediate_size", 8},
               {"num_hidden_layers", 1},
               {"final_logit_softcapping", nullptr}};
  ModelConfig config = config_from_json(json, "config");
  const auto initial = [](const TensorSlot& slot) {
    return random_values(num_elements(slot.shape), 1);
  };
  const auto plain = Model::create(config, *be_, initial);
  config.text.logit_softcap = 1.5;
  const auto capped = Model::create(config, *be_, initial);
  const Tensor state = be_->from_host(random_values(16, 2), {1, 16});
  std::vector<float> expected = be_->to_host(plain->logits(state));
  for (float& value : expected) value = 1.5f * std::tanh(value / 1.5f);
  expect_near(be_->to_host(capped->logits(state)), expected);
  EXPECT_TRUE(plain->head_gives_logits());
  EXPECT_FALSE(capped->head_gives_logits());
}

TEST_F(BlockParts, QkvInOneMatrixOrThree) {
  TextConfig config = small_config();
  config.qkv_bias = true;
  const Block separate = make_block(config);
  const Qkv expected = project(config, separate);
  for (const bool grouped : {false, true}) {
    SCOPED_TRACE(grouped);
    config.fused_qkv = true;
    config.grouped_qkv = grouped;
    std::vector<float> weight(48 * 16), bias(48);
    for (const auto& [key, matrix] :
         {std::pair{"q", &separate.attn.q}, {"k", &separate.attn.k}, {"v", &separate.attn.v}}) {
      const std::vector<float> rows = be_->to_host(matrix->weight);
      const std::vector<float> biases = be_->to_host(matrix->bias);
      const std::vector<int64_t> to = fused_qkv_rows(config, key);
      ASSERT_EQ(to.size(), biases.size());
      for (size_t i = 0; i < to.size(); ++i) {
        std::copy_n(rows.begin() + static_cast<int64_t>(i) * 16, 16, weight.begin() + to[i] * 16);
        bias[static_cast<size_t>(to[i])] = biases[i];
      }
    }
    Block block;
    block.attn.qkv.weight = be_->from_host(weight, {48, 16});
    block.attn.qkv.bias = be_->from_host(bias, {48});
    const Qkv found = project(config, block);
    expect_near(be_->to_host(found.q), be_->to_host(expected.q));
    expect_near(be_->to_host(found.k), be_->to_host(expected.k));
    expect_near(be_->to_host(found.v), be_->to_host(expected.v));
  }
  // By KV head: 2 q heads of 6, k, v.
  EXPECT_EQ(fused_qkv_rows(config, "k"),
            std::vector<int64_t>({12, 13, 14, 15, 16, 17, 36, 37, 38, 39, 40, 41}));
}

// A whole block beside the arithmetic written out. One token at position 0 sees itself alone:
// attention is its own value, and rope turns nothing.
class WholeBlock : public BlockParts {
 protected:
  static ModelConfig config(const std::string& architecture = "LlamaForCausalLM",
                            const Json& more = Json::object()) {
    Json json = {
        {"architectures", {architecture}}, {"hidden_size", 12},      {"vocab_size", 12},
        {"num_attention_heads", 2},        {"intermediate_size", 8}, {"num_hidden_layers", 1}};
    json.update(more);
    return config_from_json(json, "config");
  }
  // What the block makes of x_.
  std::vector<float> run(const ModelConfig& config) {
    weights_.clear();
    const auto model = Model::create(config, *be_, [&](const TensorSlot& slot) {
      weights_[slot.name] = random_values(num_elements(slot.shape), weights_.size() + 1);
      return weights_[slot.name];
    });
    Rows rows;
    rows.positions = {0};
    rows.segments = {{nullptr, 0, 1, 1, -1}};
    return be_->to_host(model->forward(model->prefill_plan(), rows, be_->from_host(x_, {1, 12})));
  }
  const std::vector<float>& weight(const std::string& name) const {
    return weights_.at("model.layers.0." + name);
  }
  std::vector<float> linear(const std::vector<float>& x, const std::string& name) const {
    const std::vector<float>& w = weight(name + ".weight");
    std::vector<float> y(w.size() / x.size());
    if (weights_.contains("model.layers.0." + name + ".bias")) y = weight(name + ".bias");
    for (size_t i = 0; i < y.size(); ++i)
      for (size_t j = 0; j < x.size(); ++j) y[i] += w[i * x.size() + j] * x[j];
    return y;
  }
  std::vector<float> layer_norm(std::vector<float> x, const std::string& name) const {
    double mean = 0, squares = 0;
    for (const float value : x) mean += value / static_cast<double>(x.size());
    for (const float value : x)
      squares += (value - mean) * (value - mean) / static_cast<double>(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>((x[i] - mean) / std::sqrt(squares + 1e-5)) *
                 weight(name + ".weight")[i] +
             weight(name + ".bias")[i];
    return x;
  }
  std::vector<float> rms_norm(std::vector<float> x, const std::string& name) const {
    double squares = 0;
    for (const float value : x) squares += double{value} * value / static_cast<double>(x.size());
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(x[i] / std::sqrt(squares + 1e-5)) * weight(name + ".weight")[i];
    return x;
  }
  std::vector<float> attention(const std::vector<float>& h) const {
    return linear(linear(h, "self_attn.v_proj"), "self_attn.o_proj");
  }
  std::vector<float> gated_mlp(const std::vector<float>& h) const {
    std::vector<float> gate = linear(h, "mlp.gate_proj");
    const std::vector<float> up = linear(h, "mlp.up_proj");
    for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));  // SiLU
    return linear(gate, "mlp.down_proj");
  }
  static std::vector<float> sum(std::vector<float> a, const std::vector<float>& b) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  }
  static void use_layer_norm(ModelConfig& config) {
    config.text.final_norm = {.kind = NormKind::Layer, .bias = true, .eps = 1e-5f};
    config.text.blocks[0].norm = config.text.final_norm;
  }

  const std::vector<float> x_ = random_values(12, 50);
  std::map<std::string, std::vector<float>> weights_;
};

TEST_F(WholeBlock, LayerNormsWithBiases) {
  ModelConfig config = this->config();
  use_layer_norm(config);
  const std::vector<float> found = run(config);
  const std::vector<float> h = sum(x_, attention(layer_norm(x_, "input_layernorm")));
  expect_near(found, sum(h, gated_mlp(layer_norm(h, "post_attention_layernorm"))), 1e-4);
  EXPECT_TRUE(weights_.contains("model.norm.bias"));
}

TEST_F(WholeBlock, ParallelResidual) {
  ModelConfig config = this->config();
  use_layer_norm(config);
  config.text.parallel_residual = true;
  const std::vector<float> found = run(config);
  const std::vector<float> h = sum(x_, attention(layer_norm(x_, "input_layernorm")));
  expect_near(found, sum(h, gated_mlp(layer_norm(x_, "post_attention_layernorm"))), 1e-4);
}

TEST_F(WholeBlock, NormsOfWhatIsAdded) {
  const std::vector<float> found =
      run(config("OuroForCausalLM",
                 {{"num_key_value_heads", 2}, {"rms_norm_eps", 1e-5}, {"total_ut_steps", 1}}));
  const std::vector<float> h =
      sum(x_, rms_norm(attention(rms_norm(x_, "input_layernorm")), "input_layernorm_2"));
  expect_near(found,
              sum(h, rms_norm(gated_mlp(rms_norm(h, "post_attention_layernorm")),
                              "post_attention_layernorm_2")),
              1e-4);
}

TEST_F(WholeBlock, MlpWithoutAGate) {
  ModelConfig config = this->config();
  use_layer_norm(config);
  config.text.gated_mlp = false;
  config.text.mlp_bias = config.text.o_bias = config.text.qkv_bias = true;
  const std::vector<float> found = run(config);
  const std::vector<float> h = sum(x_, attention(layer_norm(x_, "input_layernorm")));
  std::vector<float> up = linear(layer_norm(h, "post_attention_layernorm"), "mlp.up_proj");
  for (float& value : up) value /= 1 + std::exp(-value);  // SiLU
  expect_near(found, sum(h, linear(up, "mlp.down_proj")), 1e-4);
  EXPECT_FALSE(weights_.contains("model.layers.0.mlp.gate_proj.weight"));
  EXPECT_TRUE(weights_.contains("model.layers.0.mlp.down_proj.bias"));
  Block block;
  std::vector<std::string> keys;
  for (const auto& [key, matrix] : block.matrices(config.text)) keys.push_back(key);
  EXPECT_EQ(keys, std::vector<std::string>({"q", "k", "v", "o", "up", "down"}));
}

}  // namespace
}  // namespace reprise
