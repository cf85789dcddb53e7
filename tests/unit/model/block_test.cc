// Parts of a block, each beside the same arithmetic written out.
#include "base/json.h"
#include "model/block.h"

#include <gtest/gtest.h>

#include <cmath>

#include "backend/factory.h"
#include "base/rng.h"
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
  // values [..., 6] normed over the last dimension and weighted.
  static std::vector<float> normed(std::vector<float> values, const std::vector<float>& weight,
                                   float eps) {
    for (size_t begin = 0; begin < values.size(); begin += 6) {
      double squares = 0;
      for (size_t i = 0; i < 6; ++i) squares += double{values[begin + i]} * values[begin + i];
      for (size_t i = 0; i < 6; ++i)
        values[begin + i] *= weight[i] / static_cast<float>(std::sqrt(squares / 6 + eps));
    }
    return values;
  }
  void expect_near(const std::vector<float>& a, const std::vector<float>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << i;
  }

  std::unique_ptr<Backend> be_ =
      make_cpu_backend({.threads = 1, .activations = Activations::F32, .isa = "scalar"});
  std::vector<std::string> names_;
};

TEST_F(BlockParts, NormsOfEachHeadsQueriesAndKeys) {
  TextConfig config = small_config();
  config.blocks[0].qk_norm = true;
  Block block = make_block(config);
  EXPECT_EQ(std::ranges::count(names_, "model.layers.0.self_attn.q_norm.weight"), 1);
  EXPECT_EQ(std::ranges::count(names_, "model.layers.0.self_attn.k_norm.weight"), 1);
  const Qkv with = project(config, block);
  config.blocks[0].qk_norm = false;
  const Qkv without = project(config, block);
  expect_near(be_->to_host(with.q),
              normed(be_->to_host(without.q), be_->to_host(block.attn.q_norm.weight), 1e-5f));
  expect_near(be_->to_host(with.k),
              normed(be_->to_host(without.k), be_->to_host(block.attn.k_norm.weight), 1e-5f));
  EXPECT_EQ(be_->to_host(with.v), be_->to_host(without.v));
}

TEST_F(BlockParts, NormsOfOnePlusTheWeight) {
  TextConfig config = small_config();
  config.blocks[0].qk_norm = true;
  config.blocks[0].norm.offset = 1;
  const Block block = make_block(config);
  std::vector<float> weight = be_->to_host(block.attn.q_norm.weight);
  for (float& value : weight) value += 1;
  const Qkv with = project(config, block);
  config.blocks[0].qk_norm = false;
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

}  // namespace
}  // namespace reprise
