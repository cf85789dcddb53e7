// Slicing of work and reuse of prefixes never change a bit of what a prompt computes.
#include "engine/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "engine/images.h"
#include "engine/prompt.h"
#include "engine/serve/prefix_tree.h"
#include "support/test_models.h"
#include "trace/trace.h"

namespace reprise {
namespace {

using ::testing::HasSubstr;
using testing::test_data;
using ::testing::ThrowsMessage;

std::unique_ptr<LoadedModel> load(const std::string& name, int threads = 1) {
  LoadedModelOptions options;
  options.model = test_data("golden/" + name + "/model");
  options.compute.threads = threads;
  return LoadedModel::load(options);
}

// The image case of a golden model as a prompt.
TokenPrompt image_prompt(LoadedModel& loaded, const std::string& name, uint8_t key = 1) {
  const TokenInputs inputs =
      read_token_inputs(test_data("golden/" + name + "/case-image.safetensors"));
  TokenPrompt prompt;
  prompt.ids = inputs.ids;
  PixelTiles pixels{inputs.pixels->shape[0], to_floats(*inputs.pixels)};
  prompt.image_rows = encode_pixels(loaded.model(), pixels);
  mark_placeholders(loaded.config(), prompt, "test");
  const auto begin = std::find(prompt.is_image.begin(), prompt.is_image.end(), 1);
  const int64_t first = begin - prompt.is_image.begin();
  prompt.pictures = {{{.sha256 = {key}}, first, first + prompt.image_rows.dim(0)}};
  return prompt;
}

// It keeps whatever there is.
PrefixTree prefix_tree(const Model& model) {
  return {model, {.bytes = int64_t{1} << 40, .least_tokens = 1}};
}

// Logits of the prompt's end and of some greedy steps.
std::vector<float> run(LoadedModel& loaded, const std::shared_ptr<const Plans>& plans,
                       const TokenPrompt& prompt, int64_t chunk, PrefixTree* prefix = nullptr,
                       int64_t* reused = nullptr) {
  Session session(loaded.model(), plans, chunk);
  std::vector<float> logits = session.prefill(prompt, prefix);
  std::vector<float> all = logits;
  for (int32_t token : {7, 100, 33}) {
    logits = session.decode(token);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  if (reused != nullptr) *reused = session.prefix_tokens();
  EXPECT_EQ(session.length(), prompt.size() + 3);
  return all;
}

class SessionModels : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Golden, SessionModels,
                         ::testing::Values("trol/phi3-vit", "trol/phi3-vit-window",
                                           "trol/internlm2-clip", "trol/internlm2-clip-ntk",
                                           "phantom/qwen2-vit", "phantom/phi3-vit-window",
                                           "phantom/internlm2-vit", "phantom/internlm2-vit-ntk"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = std::isalnum(c) ? c : '_';
                           return name;
                         });

TEST_P(SessionModels, ChunksAndThreadsGiveTheSameBits) {
  const auto loaded = load(GetParam());
  const auto plans = make_plans(loaded->model());
  const TokenPrompt prompt = image_prompt(*loaded, GetParam());
  const std::vector<float> whole = run(*loaded, plans, prompt, 512);
  for (const int64_t chunk : {1, 2, 7, 16}) {
    EXPECT_EQ(run(*loaded, plans, prompt, chunk), whole) << "chunks of " << chunk;
  }
  const auto parallel = load(GetParam(), 3);
  const TokenPrompt again = image_prompt(*parallel, GetParam());
  EXPECT_EQ(run(*parallel, make_plans(parallel->model()), again, 5), whole);
}

TEST_P(SessionModels, APrefixFromTheCacheGivesTheSameBits) {
  const auto loaded = load(GetParam());
  const auto plans = make_plans(loaded->model());
  const TokenPrompt first = image_prompt(*loaded, GetParam());
  TokenPrompt second = first;  // another question about the same picture
  second.ids.back() = first.ids.back() == 50 ? 51 : 50;
  second.ids.push_back(60);
  second.is_image.push_back(0);
  const std::vector<float> expected = run(*loaded, plans, second, 512);

  PrefixTree cache = prefix_tree(loaded->model());
  int64_t reused = -1;
  EXPECT_EQ(run(*loaded, plans, first, 9, &cache, &reused), run(*loaded, plans, first, 512));
  EXPECT_EQ(reused, 0);
  EXPECT_EQ(run(*loaded, plans, second, 4, &cache, &reused), expected);
  // Beyond its context dynamic rope turns every length's keys differently: nothing is common.
  const bool stretched = std::string(GetParam()).ends_with("-ntk");
  EXPECT_EQ(reused, stretched ? 0 : first.size() - 1);
  // The same prompt again: all but its last token.
  EXPECT_EQ(run(*loaded, plans, second, 512, &cache, &reused), expected);
  EXPECT_EQ(reused, second.size() - 1);
}

TEST_P(SessionModels, AnotherPictureIsNoCommonPrefix) {
  const auto loaded = load(GetParam());
  const auto plans = make_plans(loaded->model());
  const TokenPrompt first = image_prompt(*loaded, GetParam(), 1);
  TokenPrompt second = first;
  second.pictures[0].key.sha256 = {2};
  second.image_rows = loaded->backend().scale(first.image_rows, 0.5f);
  const std::vector<float> expected = run(*loaded, plans, second, 512);
  PrefixTree cache = prefix_tree(loaded->model());
  int64_t reused = -1;
  const std::vector<float> other = run(*loaded, plans, first, 512, &cache);
  EXPECT_EQ(run(*loaded, plans, second, 512, &cache, &reused), expected);
  EXPECT_NE(expected, other);
  int64_t before = 0;  // the tokens in front of the picture are common
  while (!first.is_image[static_cast<size_t>(before)]) ++before;
  EXPECT_EQ(reused, before);
}

// A second picture that is another leaves the first one's rows to be shared.
TEST(Session, ThePrefixGoesUpToTheFirstOtherPicture) {
  const std::string bytes = read_file(test_data("golden/trol/phi3-vit-448/image.png"));
  const Picture one("one.png", bytes),
      two("two.png", read_file(test_data("golden/phantom/qwen2-vit-448/image.png")));
  for (const char* name : {"trol/phi3-vit", "phantom/qwen2-vit"}) {
    SCOPED_TRACE(name);
    testing::TempFolder folder;
    testing::copy_model(name, folder / "model");
    LoadedModelOptions options;
    options.model = folder / "model";
    const auto loaded = LoadedModel::load(options);
    PromptBuilder builder(*loaded);
    const auto plans = make_plans(loaded->model());
    const auto prompt = [&](const Picture& second, bool exif = false) {
      return builder.raw("a <image> b <image> c", {one, second}, {.apply_exif = exif}).tokens;
    };
    const TokenPrompt same = prompt(one), other = prompt(two);
    ASSERT_EQ(same.pictures.size(), 2u);
    const int64_t first_tokens = same.pictures[0].end - same.pictures[0].begin;
    EXPECT_GT(first_tokens, 0);
    EXPECT_EQ(same.is_image[static_cast<size_t>(same.pictures[1].begin)], 1);
    EXPECT_EQ(same.is_image[static_cast<size_t>(same.pictures[1].begin - 1)], 0);
    EXPECT_EQ(same.pictures[0], other.pictures[0]);
    EXPECT_EQ(common_tokens(same, other), same.pictures[1].begin);
    EXPECT_EQ(common_tokens(same, same), same.size());
    // The same bytes read in another way are another picture.
    EXPECT_EQ(common_tokens(same, prompt(one, true)), same.pictures[0].begin);
    TokenPrompt unknown = same;
    unknown.pictures.pop_back();
    EXPECT_EQ(common_tokens(same, unknown), same.pictures[1].begin);
    EXPECT_EQ(common_tokens(unknown, unknown), same.pictures[1].begin);
    unknown.pictures.clear();
    EXPECT_EQ(common_tokens(unknown, unknown), same.pictures[0].begin);

    if (!same_rope(loaded->config().text, same.size(), other.size())) continue;
    const std::vector<float> expected = run(*loaded, plans, other, 512);
    PrefixTree cache = prefix_tree(loaded->model());
    int64_t reused = -1;
    EXPECT_NE(run(*loaded, plans, same, 512, &cache), expected);
    EXPECT_EQ(run(*loaded, plans, other, 7, &cache, &reused), expected);
    EXPECT_EQ(reused, same.pictures[1].begin);
  }
}

// Two passes are the models' own; each further pass has KV rows of its own in the prompt.
TEST(Session, EveryNumberOfPassesIsExactInChunksAndFromAPrefix) {
  for (const char* name : {"trol/phi3-vit", "trol/phi3-vit-window", "trol/internlm2-clip"}) {
    const auto loaded = load(name);
    const TokenPrompt first = image_prompt(*loaded, name);
    TokenPrompt second = first;
    second.ids.back() = first.ids.back() == 50 ? 51 : 50;
    second.ids.push_back(60);
    second.is_image.push_back(0);
    std::vector<std::vector<float>> results;
    for (const int passes : {1, 2, 3, 4}) {
      SCOPED_TRACE(fmt::format("{}, {} passes", name, passes));
      const auto plans = make_plans(loaded->model(), {{"passes", passes}});
      const std::vector<float> expected = run(*loaded, plans, second, 512);
      for (const int64_t chunk : {1, 3, 16}) {
        EXPECT_EQ(run(*loaded, plans, second, chunk), expected) << "chunks of " << chunk;
      }
      PrefixTree cache = prefix_tree(loaded->model());
      int64_t reused = -1;
      run(*loaded, plans, first, 5, &cache);
      EXPECT_EQ(run(*loaded, plans, second, 6, &cache, &reused), expected);
      EXPECT_EQ(reused, first.size() - 1);
      // Plans of other passes take nothing from it.
      const auto others = make_plans(loaded->model(), {{"passes", passes % 4 + 1}});
      run(*loaded, others, second, 512, &cache, &reused);
      EXPECT_EQ(reused, 0);
      for (const auto& earlier : results) EXPECT_NE(earlier, expected);
      results.push_back(expected);
    }
  }
}

TEST(Session, PrefixAcrossALengthWhereRopeChangesIsNotTaken) {
  const auto loaded = load("trol/phi3-vit");  // long factors beyond 32 tokens
  const auto plans = make_plans(loaded->model());
  TokenPrompt shorter, longer;
  for (int32_t i = 0; i < 40; ++i) longer.ids.push_back(20 + i);
  shorter.ids.assign(longer.ids.begin(), longer.ids.begin() + 25);
  const std::vector<float> expected = run(*loaded, plans, longer, 512);
  PrefixTree cache = prefix_tree(loaded->model());
  int64_t reused = -1;
  run(*loaded, plans, shorter, 512, &cache);
  EXPECT_EQ(run(*loaded, plans, longer, 512, &cache, &reused), expected);
  EXPECT_EQ(reused, 0);
}

TEST(Session, OneTokenPromptsRunTheDecodePlan) {
  const auto loaded = load("trol/phi3-vit");
  const auto plans = make_plans(loaded->model());
  const auto passes_off = make_plans(loaded->model(), {{"passes", 1}});
  TokenPrompt prompt;
  prompt.ids = {42};
  EXPECT_EQ(run(*loaded, plans, prompt, 512), run(*loaded, passes_off, prompt, 512));
  prompt.ids = {42, 43};
  EXPECT_NE(run(*loaded, plans, prompt, 512), run(*loaded, passes_off, prompt, 512));
}

TEST(Session, KvOfTheSecondPassGoesWithThePrompt) {
  const auto loaded = load("trol/phi3-vit");
  TokenPrompt prompt;
  prompt.ids.assign(40, 9);
  Session session(loaded->model(), make_plans(loaded->model()), 512);
  session.prefill(prompt, [](int64_t, const Tensor&) {});
  const int64_t both = session.kv_bytes();
  session.end_prompt();
  EXPECT_EQ(session.kv_bytes() * 2, both);
}

TEST(Session, Errors) {
  const auto loaded = load("phantom/qwen2-vit");
  const auto plans = make_plans(loaded->model());
  EXPECT_THAT([&] { Session(loaded->model(), plans, 0); },
              ThrowsMessage<Error>(HasSubstr("chunk")));
  const auto prefill = [&](const TokenPrompt& prompt) {
    return [&] { Session(loaded->model(), plans).prefill(prompt); };
  };
  EXPECT_THAT(prefill({}), ThrowsMessage<Error>(HasSubstr("empty")));
  TokenPrompt unknown;
  unknown.ids = {1, 100000};
  EXPECT_THAT(prefill(unknown), ThrowsMessage<Error>(HasSubstr("100000")));
  TokenPrompt prompt = image_prompt(*loaded, "phantom/qwen2-vit");
  prompt.is_image.assign(prompt.ids.size(), 0);
  EXPECT_THAT(prefill(prompt), ThrowsMessage<Error>(HasSubstr("0 image placeholders")));
}

TEST(Session, CancelledBetweenChunks) {
  const auto loaded = load("phantom/qwen2-vit");
  Session session(loaded->model(), make_plans(loaded->model()), 4);
  TokenPrompt prompt;
  prompt.ids.assign(20, 9);
  int asked = 0;
  EXPECT_TRUE(session.prefill(prompt, nullptr, [&] { return ++asked == 3; }).empty());
  EXPECT_EQ(session.length(), 8);
}

}  // namespace
}  // namespace reprise
