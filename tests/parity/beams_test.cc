// Beam search against transformers' generate (tests/data/beams, made by make.py there), and what
// must hold of it on the official models' tiny likes.
#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"
#include "engine/beam_search.h"
#include "engine/images.h"
#include "support/golden.h"
#include "support/paths.h"

namespace reprise::test {
namespace {

class Beams : public testing::TestWithParam<Machine> {};

std::vector<BeamSearch::Hypothesis> search_all(LoadedModel& loaded, const TokenPrompt& prompt,
                                               const BeamOptions& options,
                                               const AnswerRules& rules) {
  const auto plans = make_plans(loaded.model());
  Session session(loaded.model(), plans);
  BeamSearch search(options, Answer(rules, prompt.ids));
  const std::vector<float> logits = session.prefill(prompt);
  Branches branches(loaded.model(), plans, session);
  run_search(branches, search, logits);
  return search.results();
}

TEST_P(Beams, TokensAndScoresOfTransformers) {
  const std::filesystem::path folder = data_dir() / "beams";
  const Json cases = load_json(folder / "cases.json");
  ASSERT_GE(cases.size(), 180u);
  std::map<std::string, std::unique_ptr<LoadedModel>> models;
  double largest = 0;
  int ended = 0;
  for (const Json& c : cases) {
    const auto name = c.at("model").get<std::string>();
    SCOPED_TRACE(c.dump());
    auto& loaded = models[name];
    if (!loaded) loaded = load_model(folder / name, GetParam());
    TokenPrompt prompt;
    prompt.ids = c.at("prompt").get<std::vector<int32_t>>();
    const Json& early = c.at("early_stopping");
    BeamOptions options;
    options.beams = c.at("num_beams");
    options.returned = c.at("num_return_sequences");
    options.length_penalty = c.at("length_penalty");
    options.early_stop = early.is_string()   ? EarlyStop::Never
                         : early.get<bool>() ? EarlyStop::Yes
                                             : EarlyStop::No;
    AnswerRules rules;
    rules.ends = c.at("eos_token_id").get<std::vector<int32_t>>();
    rules.max_tokens = c.at("max_new_tokens");
    rules.processors = {std::make_shared<RepetitionPenalty>(c.at("repetition_penalty"))};
    const auto found = search_all(*loaded, prompt, options, rules);
    const Json& sequences = c.at("sequences");
    ASSERT_EQ(found.size(), sequences.size());
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].tokens, sequences[i].get<std::vector<int32_t>>()) << i;
      const double score = c.at("scores")[i];
      largest = std::max(largest, std::abs(score - found[i].score));
      EXPECT_NEAR(found[i].score, score, 1e-4) << i;
      ended += std::ssize(found[i].tokens) < rules.max_tokens;
    }
  }
  EXPECT_GT(ended, 50);  // early ends are among the cases
  RecordProperty("largest_score_distance", fmt::format("{:.1e}", largest));
}

// TroL and Phantom with pictures: no beam search of the official code is in the golden data, so
// what must be true of any.
TEST_P(Beams, HoldOnTheOfficialModels) {
  for (const char* name : {"trol/internlm2-clip", "trol/phi3-vit", "phantom/internlm2-vit",
                           "phantom/qwen2-vit", "phantom/phi3-vit"}) {
    SCOPED_TRACE(name);
    const std::filesystem::path folder = golden_root() / name;
    const auto loaded = load_model(folder / "model", GetParam());
    Model& model = loaded->model();
    const TokenInputs inputs = read_token_inputs(folder / "case-image.safetensors");
    TokenPrompt prompt;
    prompt.ids = inputs.ids;
    prompt.image_rows = encode_pixels(model, {inputs.pixels->shape[0], to_floats(*inputs.pixels)});
    mark_placeholders(loaded->config(), prompt, "test");

    TraceOptions greedy;
    greedy.steps = 6;
    std::vector<int64_t> expected;
    for (const TensorView& tensor : trace(*loaded, inputs, greedy)) {
      if (tensor.name == "decode.tokens") expected = to_ints(tensor);
    }
    const auto one = search_all(*loaded, prompt, {}, {.max_tokens = greedy.steps});
    EXPECT_EQ(std::vector<int64_t>(one[0].tokens.begin(), one[0].tokens.end()), expected);

    for (const int beams : {1, 3, 5}) {
      const BeamOptions options{.beams = beams, .returned = beams, .length_penalty = 0};
      const auto found = search_all(*loaded, prompt, options, {.max_tokens = 8});
      ASSERT_EQ(found.size(), static_cast<size_t>(beams));
      for (size_t i = 1; i < found.size(); ++i) EXPECT_LE(found[i].score, found[i - 1].score);
      // Each score is the sum of log-probabilities of its tokens run alone, one after the other.
      for (const BeamSearch::Hypothesis& hypothesis : found) {
        Session session(model, make_plans(model));
        std::vector<float> logits = session.prefill(prompt);
        double sum = 0;
        for (const int32_t token : hypothesis.tokens) {
          double total = 0;
          for (const float value : logits) total += std::exp(double{value});
          sum += logits[static_cast<size_t>(token)] - std::log(total);
          logits = session.decode(token);
        }
        EXPECT_NEAR(hypothesis.score, sum, 2e-5);
      }
    }
  }
}

// Beams in one call give the bits of requests alone, and share the prompt's pages.
TEST_P(Beams, BranchesAreRequestsOfTheirOwn) {
  for (const char* name : {"trol/internlm2-clip", "trol/phi3-vit", "phantom/internlm2-vit-ntk",
                           "phantom/qwen2-vit", "phantom/phi3-vit-window"}) {
    SCOPED_TRACE(name);
    const auto loaded = load_model(golden_root() / name / "model", GetParam());
    const auto plans = make_plans(loaded->model());
    TokenPrompt prompt;
    for (int32_t i = 0; i < 3 * kKvPageTokens + 5; ++i) prompt.ids.push_back(20 + i * 7 % 200);
    Session session(loaded->model(), plans);
    session.prefill(prompt);
    const int64_t alone_bytes = session.kv_bytes();
    Branches branches(loaded->model(), plans, session);
    // Tokens of each step, and where they go on from: a parent dies, another has three children.
    const std::vector<std::vector<int>> parents = {{0, 0, 0}, {2, 0, 2}, {1, 1, 1}, {2, 1, 0}};
    const std::vector<std::vector<int32_t>> tokens = {
        {7, 8, 9}, {8, 7, 7}, {30, 31, 32}, {5, 6, 7}};
    std::vector<std::vector<int32_t>> histories(3);
    for (size_t step = 0; step < parents.size(); ++step) {
      const std::vector<float> logits = branches.step(parents[step], tokens[step]);
      const size_t vocab = logits.size() / 3;
      std::vector<std::vector<int32_t>> next;
      for (size_t beam = 0; beam < 3; ++beam) {
        next.push_back(histories[static_cast<size_t>(parents[step][beam])]);
        next.back().push_back(tokens[step][beam]);
        Session alone(loaded->model(), plans);
        std::vector<float> expected = alone.prefill(prompt);
        for (const int32_t token : next.back()) expected = alone.decode(token);
        const std::vector<float> row(
            logits.begin() + static_cast<std::ptrdiff_t>(beam * vocab),
            logits.begin() + static_cast<std::ptrdiff_t>((beam + 1) * vocab));
        EXPECT_EQ(row, expected) << "step " << step << ", beam " << beam;
      }
      histories = next;
    }
    // Three full pages a row are shared, and at most one more is each beam's own.
    EXPECT_GT(branches.kv_bytes(), alone_bytes);
    EXPECT_LE(branches.kv_bytes(), alone_bytes * 6 / 4);
    EXPECT_EQ(session.length(), prompt.size());
  }
}

INSTANTIATE_TEST_SUITE_P(All, Beams, testing::ValuesIn(cpu_machines()),
                         [](const auto& info) { return info.param.name(); });

}  // namespace
}  // namespace reprise::test
