// Training's way of running a model against serving's: a forward call without KV rows gives what
// the cached one gives, and segments that share a prefix (several questions about one picture) give
// what each question gives behind its own copy of the prefix, gradients included.
#include <gtest/gtest.h>

#include "base/json.h"
#include "support/golden.h"
#include "support/tiny_models.h"

namespace reprise::test {
namespace {

// Values are of ordinary size (a state near 1 to 10); both sides are float32 sums in another order.
constexpr double kTolerance = 5e-5;

std::vector<std::pair<std::string, Json>> models() {
  const Json llama = tiny_text_config("LlamaForCausalLM");
  const Json qwen = tiny_text_config("Qwen2ForCausalLM");
  Json window = tiny_text_config("Phi3ForCausalLM");
  window["sliding_window"] = 6;
  Json some_windows = tiny_text_config("Qwen3ForCausalLM");  // on one layer of two
  some_windows["use_sliding_window"] = true;
  some_windows["sliding_window"] = 6;
  some_windows["max_window_layers"] = 1;
  Json smollm3 = tiny_text_config("SmolLM3ForCausalLM");
  smollm3["no_rope_layers"] = {1, 0};
  Json gemma3 = tiny_text_config("Gemma3ForCausalLM");
  gemma3["sliding_window"] = 6;
  gemma3["sliding_window_pattern"] = 2;
  Json phantom = tiny_vision_language_config("phantom", qwen);
  phantom["reprise"] = {{"phantom", {{"eta", 0.5}}}};
  Json recursive = llama;
  recursive["reprise"] = {{"scheme", "recursive"}, {"recursive", {{"loops", 2}, {"lora_rank", 3}}}};
  Json damped = llama;
  damped["reprise"] = {{"scheme", "replay"}, {"replay", {{"plan", "0,0-1*3,1"}}}};
  return {{"llama", llama},
          {"qwen2", qwen},
          {"phi3 with a window", window},
          {"qwen3 with a window on one layer", some_windows},
          {"smollm3", smollm3},
          {"mistral", tiny_text_config("MistralForCausalLM")},
          {"gemma", tiny_text_config("GemmaForCausalLM")},
          {"gemma3", gemma3},
          {"gpt_neox", tiny_neox_config()},
          {"trol", tiny_vision_language_config("trol", tiny_text_config("Phi3ForCausalLM"))},
          {"phantom", phantom},
          {"recursive", recursive},
          {"ouro", tiny_text_config("OuroForCausalLM")},
          {"damped replay", damped}};
}

std::vector<int32_t> tokens(int64_t count, uint64_t stream) {
  const Philox random(3, stream);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(4 + static_cast<int32_t>(random.bits(static_cast<uint64_t>(i)) % 42));
  return ids;
}

void append(std::vector<int32_t>& to, const std::vector<int32_t>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

// Two pictures with two and three questions each, as positions and lengths.
struct Pictures {
  std::vector<std::vector<int32_t>> prefixes = {tokens(11, 1), tokens(35, 2)};
  // by prefix
  std::vector<std::vector<std::vector<int32_t>>> questions = {
      {tokens(4, 3), tokens(1, 4)}, {tokens(7, 5), tokens(2, 6), tokens(9, 7)}};

  // All of it as one call, each question a segment that has its picture's as prefix.
  Rows shared(std::vector<int32_t>& ids) const {
    Rows rows;
    const auto add = [&](const std::vector<int32_t>& part, int prefix, int64_t position) {
      rows.segments.push_back({nullptr, rows.size(), static_cast<int64_t>(part.size()),
                               position + static_cast<int64_t>(part.size()), prefix});
      for (size_t i = 0; i < part.size(); ++i)
        rows.positions.push_back(static_cast<int32_t>(position + static_cast<int64_t>(i)));
      append(ids, part);
    };
    for (size_t p = 0; p < prefixes.size(); ++p) {
      const int prefix = static_cast<int>(rows.segments.size());
      add(prefixes[p], -1, 0);
      for (const auto& question : questions[p])
        add(question, prefix, static_cast<int64_t>(prefixes[p].size()));
    }
    return rows;
  }
};

// One request from its first token on, without KV rows.
Rows functional(int64_t length) {
  Rows rows;
  rows.segments.push_back({nullptr, 0, length, length, -1});
  for (int64_t i = 0; i < length; ++i) rows.positions.push_back(static_cast<int32_t>(i));
  return rows;
}

Tensor logits(Model& model, const Plan& plan, const Rows& rows, std::span<const int32_t> ids) {
  return model.logits(model.final_norm(model.forward(plan, rows, model.embed(ids))));
}

class Functional : public testing::TestWithParam<Machine> {};

TEST_P(Functional, EqualsServing) {
  const auto be = make_backend_of(GetParam(), 1);
  const std::vector<int32_t> ids = tokens(41, 1), more = tokens(5, 2);
  for (const auto& [name, config] : models()) {
    SCOPED_TRACE(name);
    const auto model = tiny_model(config, *be);
    const Plan plan = model->prefill_plan();
    Sequence first, second;
    Rows rows;
    rows.append(first, 41, 41);
    rows.append(second, 5, 5);
    std::vector<int32_t> both = ids;
    append(both, more);
    const std::vector<float> served = be->to_host(logits(*model, plan, rows, both));
    std::vector<float> alone = be->to_host(logits(*model, plan, functional(41), ids));
    const auto tail = be->to_host(logits(*model, plan, functional(5), more));
    alone.insert(alone.end(), tail.begin(), tail.end());
    EXPECT_LE(distance(served, alone), kTolerance);
  }
}

TEST_P(Functional, SharedPrefixesEqualSeparateSequences) {
  const auto be = make_backend_of(GetParam(), 1);
  const Pictures pictures;
  for (const auto& [name, config] : models()) {
    SCOPED_TRACE(name);
    const auto model = tiny_model(config, *be);
    const Plan plan = model->prefill_plan();
    std::vector<int32_t> ids;
    const Rows rows = pictures.shared(ids);
    const std::vector<float> shared = be->to_host(logits(*model, plan, rows, ids));
    const size_t vocab = shared.size() / ids.size();
    size_t segment = 0;
    for (size_t p = 0; p < pictures.prefixes.size(); ++p) {
      ++segment;  // the picture's own
      for (const auto& question : pictures.questions[p]) {
        std::vector<int32_t> whole = pictures.prefixes[p];
        append(whole, question);
        const auto length = static_cast<int64_t>(whole.size());
        const std::vector<float> separate =
            be->to_host(logits(*model, plan, functional(length), whole));
        const RowSegment& part = rows.segments[segment++];
        EXPECT_LE(distance(std::span(shared).subspan(static_cast<size_t>(part.first_row) * vocab,
                                                     static_cast<size_t>(part.rows) * vocab),
                           std::span(separate).last(static_cast<size_t>(part.rows) * vocab)),
                  kTolerance)
            << "picture " << p << ", question of " << question.size();
      }
    }
    EXPECT_EQ(segment, rows.segments.size());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Functional, testing::ValuesIn(machines()),
                         [](const auto& info) { return info.param.name(); });

// The questions' loss over shared prefixes has the gradients of the separate sequences' loss.
TEST(FunctionalGradients, SharedPrefixesEqualSeparateSequences) {
  const auto be = recording_torch();
  if (!be) GTEST_SKIP() << "built without the torch backend";
  const Pictures pictures;
  for (const auto& [name, config] : models()) {
    SCOPED_TRACE(name);
    const auto model = tiny_model(config, *be);
    std::vector<Tensor> weights;
    model->visit_tensors([&](const TensorSlot& slot) {
      be->set_trainable(*slot.tensor, true);
      weights.push_back(*slot.tensor);
    });
    const auto gradients = [&] {
      std::vector<std::vector<float>> all;
      for (const Tensor& weight : weights) all.push_back(be->gradient(weight));
      be->zero_gradients(weights);
      return all;
    };
    const Plan plan = model->prefill_plan();
    std::vector<int32_t> ids;
    const Rows rows = pictures.shared(ids);
    // Every row of a question predicts its own token plus one; a picture's rows don't count.
    std::vector<int32_t> labels(ids.size(), -100);
    for (const RowSegment& segment : rows.segments)
      for (int64_t r = segment.first_row;
           segment.prefix >= 0 && r < segment.first_row + segment.rows; ++r)
        labels[static_cast<size_t>(r)] = ids[static_cast<size_t>(r)] - 1;
    be->backward(be->cross_entropy_sum(logits(*model, plan, rows, ids), labels));
    const auto shared = gradients();
    for (size_t p = 0; p < pictures.prefixes.size(); ++p)
      for (const auto& question : pictures.questions[p]) {
        std::vector<int32_t> whole = pictures.prefixes[p];
        append(whole, question);
        std::vector<int32_t> targets(whole.size(), -100);
        for (size_t i = pictures.prefixes[p].size(); i < whole.size(); ++i)
          targets[i] = whole[i] - 1;
        be->backward(be->cross_entropy_sum(
            logits(*model, plan, functional(static_cast<int64_t>(whole.size())), whole), targets));
      }
    const auto separate = gradients();
    int compared = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      float largest = 0;
      for (float value : separate[i]) largest = std::max(largest, std::abs(value));
      if (largest == 0) continue;  // the vision tower, which nothing here runs
      ++compared;
      EXPECT_LE(distance(shared[i], separate[i]), 2e-4 * largest) << "weight " << i;
    }
    EXPECT_GE(compared, 10);
  }
}

}  // namespace
}  // namespace reprise::test
