// Packed batches: pictures with different numbers of tiles and questions of different length run as
// segments of one call, without padding, and give what each conversation gives alone. And gradient
// checkpointing on them: the same loss and gradients, less memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "support/golden.h"
#include "support/paths.h"
#include "support/tokenizers.h"
#include "support/torch_device.h"
#include "train/data/conversation_batches.h"
#include "train/forward.h"
#include "train/train_model.h"

namespace reprise {
namespace {

constexpr int kPixels = 64 * 64 * 3;

int64_t status_kib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size() + 1));
  return 0;
}

// KiB that `work` takes at most beyond what is held before.
int64_t peak_kib(const std::function<void()>& work) {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // resets the peak
  const int64_t before = status_kib("VmRSS:");
  work();
  return status_kib("VmHWM:") - before;
}

class Packing : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    be_ = test::recording_torch();
    if (!be_) GTEST_SKIP() << "the torch backend is not built";
    const auto source = test::source_dir() / "recipes/tiny-trol";
    Json json = load_json(source / "config.json");
    json["model_type"] = scheme();
    json["llm_config"]["hidden_size"] = 64;
    json["llm_config"]["intermediate_size"] = 96;
    json["llm_config"]["num_hidden_layers"] = 4;
    json["vision_config"]["hidden_size"] = 32;
    json["vision_config"]["intermediate_size"] = 48;
    json["vision_config"]["num_hidden_layers"] = 1;
    json["reprise"]["image"]["kind"] = "tiles";
    json["reprise"]["image"]["max_tiles"] = 3;
    json["reprise"]["phantom"] = {{"eta", 0.5}};
    scale_rope(json["llm_config"]);
    config_ = config_from_json(json, "config.json");
    tokenizer_ = test::tokenizer_from_json(load_json(source / "tokenizer.json"), nullptr, "t");
    model_ = Model::create(config_, *be_,
                           [](const TensorSlot& slot) { return initial_values(slot, 0.15, 5); });
    model_->visit_tensors([&](const TensorSlot& slot) {
      be_->set_trainable(*slot.tensor, true);
      weights_.push_back(*slot.tensor);
    });
    recipe_.path = "recipe.yaml";
    recipe_.train.push_back({});
    recipe_.batch = 1;
  }
  static std::string scheme() { return GetParam(); }
  virtual void scale_rope(Json& /*llm*/) const {}
  void TearDown() override {
    if (be_) be_->zero_gradients(weights_);
  }

  // Compares a packed batch with its parts alone. tiles: that it should have.
  void check_sum(const ::testing::Matcher<int64_t>& tiles);

  Tensor loss(const Batch& batch) {
    const Tensor state = be_->gather_rows(run_forward(*model_, model_->prefill_plan(), batch).state,
                                          batch.target_rows);
    return be_->cross_entropy_sum(model_->logits(model_->final_norm(state)), batch.targets);
  }

  // Questions about a wide, a square and a high picture, and one without any.
  std::filesystem::path question_file() {
    const auto folder = std::filesystem::path(testing::TempDir());
    const auto image = test::source_dir() / "models/demo/circle.png";
    std::string lines;
    for (const char* question :
         {"what shape is present?", "is there a blue shape in the image?", "what color?"})
      lines +=
          Json({{"image", image.string()}, {"question", question}, {"answer", "yellow"}}).dump() +
          "\n";
    lines += Json({{"question", "is there a circle?"}, {"answer", "no"}}).dump() + "\n";
    write_file_atomically(folder / "packing.jsonl", lines);
    return folder / "packing.jsonl";
  }

  std::unique_ptr<TrainBackend> be_;
  ModelConfig config_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::vector<Tensor> weights_;
  Recipe recipe_;
};

// What segment s is there for, alone: its prefix's rows and its own in one segment, its own
// targets.
Batch alone(const Batch& packed, size_t s, int64_t tile_pixels, int64_t tokens_per_tile) {
  const RowSegment& own = packed.rows.segments[s];
  std::vector<RowSegment> chain;
  if (own.prefix >= 0) chain.push_back(packed.rows.segments[static_cast<size_t>(own.prefix)]);
  chain.push_back(own);
  Batch batch;
  for (const RowSegment& segment : chain)
    for (int64_t i = segment.first_row; i < segment.first_row + segment.rows; ++i) {
      const auto row = static_cast<size_t>(i);
      if (packed.rows.is_image[row])
        batch.image_rows.push_back(static_cast<int32_t>(batch.ids.size()));
      for (size_t t = 0; t < packed.target_rows.size(); ++t)
        if (packed.target_rows[t] == i && i >= own.first_row) {
          batch.target_rows.push_back(static_cast<int32_t>(batch.ids.size()));
          batch.targets.push_back(packed.targets[t]);
        }
      batch.rows.positions.push_back(static_cast<int32_t>(batch.ids.size()));
      batch.rows.is_image.push_back(packed.rows.is_image[row]);
      batch.ids.push_back(packed.ids[row]);
    }
  const auto rows = static_cast<int64_t>(batch.ids.size());
  batch.rows.segments.push_back({nullptr, 0, rows, own.total_length, -1});
  // Its tiles: those in front of its first image row don't belong to it.
  batch.tiles = static_cast<int64_t>(batch.image_rows.size()) / tokens_per_tile;
  int64_t before = 0;
  for (const int32_t row : packed.image_rows) before += row < chain[0].first_row;
  const auto from = packed.pixels.begin() + before / tokens_per_tile * tile_pixels;
  batch.pixels.assign(from, from + batch.tiles * tile_pixels);
  return batch;
}

void Packing::check_sum(const ::testing::Matcher<int64_t>& tiles) {
  recipe_.train[0].file = question_file();
  recipe_.train[0].images = "/";
  recipe_.validation = recipe_.train[0].file;
  recipe_.validation_images = "/";
  const ConversationBatches maker(recipe_, {config_, tokenizer_.get(), chat_format("plain-qa")});
  Batch packed = maker.validation(0, maker.validation_size());
  // The generator's pictures are square (one tile); a picture twice as wide has three with its
  // thumbnail. Both stand in one batch.
  Example wide;
  wide.images.push_back(Image(128, 64));
  for (size_t i = 0; i < wide.images[0].pixels.size(); ++i)
    wide.images[0].pixels[i] = static_cast<uint8_t>(i * 37 % 251);
  wide.turns = {{"what is the color of the shape?", "teal"}, {"is no red shape present?", "yes"}};
  maker.add_example(wide, packed);
  // A conversation with a picture in each question: one segment, two answers.
  Example turns;
  turns.images = {wide.images[0], Image(64, 64)};
  turns.conversation = {{"user", "what shape?", 1},
                        {"assistant", "circle"},
                        {"user", "and this?", 1},
                        {"assistant", "triangle"}};
  maker.add_example(turns, packed);
  EXPECT_THAT(packed.tiles, tiles);
  EXPECT_TRUE(std::ranges::any_of(packed.rows.segments,
                                  [](const RowSegment& segment) { return segment.prefix >= 0; }));

  const Tensor together = loss(packed);
  be_->backward(together);
  std::vector<std::vector<float>> gradients;
  for (const Tensor& weight : weights_) gradients.push_back(be_->gradient(weight));
  be_->zero_gradients(weights_);

  double sum = 0;
  size_t conversations = 0;
  for (size_t s = 0; s < packed.rows.segments.size(); ++s) {
    const Batch one = alone(packed, s, kPixels, config_.vision->tokens_per_tile());
    if (one.targets.empty()) continue;  // a picture, which others begin with
    const Tensor part = loss(one);
    be_->backward(part);
    sum += be_->to_host(part)[0];
    ++conversations;
  }
  EXPECT_EQ(conversations, 3u + 1 + 2 + 1);
  EXPECT_NEAR(be_->to_host(together)[0], sum, 1e-5 * sum);
  for (size_t w = 0; w < weights_.size(); ++w) {
    float largest = 1e-6f;
    for (const float value : gradients[w]) largest = std::max(largest, std::abs(value));
    EXPECT_LE(test::distance(gradients[w], be_->gradient(weights_[w])), 5e-4 * largest) << w;
  }
}

TEST_P(Packing, LossAndGradientsAreTheSumOfSeparateRuns) { check_sum(1 + 3 + 4); }

// Rope whose frequencies follow the request's length: questions that bring theirs over the
// threshold have the picture for themselves, others still share it.
class ScaledPacking : public Packing {
 protected:
  void scale_rope(Json& llm) const override {
    constexpr int kThreshold = 26;  // questions about the circle have 22 to 28 tokens
    llm["max_position_embeddings"] = kThreshold;
    if (scheme() == "trol") {
      llm["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
      return;
    }
    const auto half = static_cast<size_t>(llm["hidden_size"].get<int>() /
                                          llm["num_attention_heads"].get<int>() / 2);
    llm["rope_scaling"] = {{"type", "longrope"},
                           {"short_factor", std::vector<double>(half, 1.0)},
                           {"long_factor", std::vector<double>(half, 3.0)},
                           {"original_max_position_embeddings", kThreshold}};
    llm["max_position_embeddings"] = 8 * kThreshold;
  }
};

TEST_P(ScaledPacking, LossAndGradientsAreTheSumOfSeparateRuns) {
  check_sum(::testing::Gt(1 + 3 + 4));
}

INSTANTIATE_TEST_SUITE_P(Schemes, ScaledPacking, testing::Values("trol", "phantom"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(Packing, CheckpointingChangesNothingButMemory) {
  recipe_.train[0].generator = "easy-vqa";
  recipe_.batch = 24;
  recipe_.questions_per_image = 6;
  const ConversationBatches maker(recipe_, {config_, tokenizer_.get(), chat_format("plain-qa")});
  const Batch batch = maker.make(0);
  std::vector<std::vector<float>> found[2];
  int64_t peak[2];
  for (const int again : {0, 0, 1}) {  // the first time warms up what is kept between calls
    if (again)
      model_->set_visit_wrapper([&](const Tensor& x, Model::Visitation visit) {
        return be_->checkpoint(x, std::move(visit));
      });
    be_->zero_gradients(weights_);
    found[again].clear();
    peak[again] = peak_kib([&] {
      const Tensor sum = loss(batch);
      found[again].push_back(be_->to_host(sum));
      be_->backward(sum);
    });
    for (const Tensor& weight : weights_) found[again].push_back(be_->gradient(weight));
  }
  model_->set_visit_wrapper({});
  // The same sums; where a state feeds two things (TroL's gate and its second visit) their
  // gradients may be added in another order.
  ASSERT_EQ(found[0].size(), found[1].size());
  EXPECT_EQ(found[0][0], found[1][0]) << "the loss";
  for (size_t i = 1; i < found[0].size(); ++i) {
    ASSERT_EQ(found[0][i].size(), found[1][i].size());
    float largest = 0, off = 0;
    for (size_t k = 0; k < found[0][i].size(); ++k) {
      largest = std::max(largest, std::abs(found[0][i][k]));
      off = std::max(off, std::abs(found[0][i][k] - found[1][i][k]));
    }
    EXPECT_LE(off, 2e-6f * largest) << "gradient " << i;
  }
  std::printf("%s, %d rows: %lld KiB of activations, %lld with checkpointing\n", GetParam(),
              static_cast<int>(batch.rows.size()), static_cast<long long>(peak[0]),
              static_cast<long long>(peak[1]));
  RecordProperty("plain_kib", static_cast<int>(peak[0]));
  RecordProperty("checkpointed_kib", static_cast<int>(peak[1]));
  if (test::torch_device() == "cpu") {  // the peak is the host's memory
    EXPECT_LT(peak[1], 0.75 * static_cast<double>(peak[0]));
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, Packing, testing::Values("trol", "phantom"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace reprise
