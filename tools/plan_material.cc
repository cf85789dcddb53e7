#include "tools/plan_material.h"

#include <algorithm>

#include "base/file.h"
#include "base/sha256.h"

namespace reprise::tools {
namespace {

constexpr size_t kLeast = 2;  // windows or questions of each part

// The second half of `all`, taken out of it.
template <typename T>
std::vector<T> second_half(std::vector<T>& all) {
  const auto half = all.begin() + static_cast<ptrdiff_t>(all.size() - all.size() / 2);
  std::vector<T> rest(std::make_move_iterator(half), std::make_move_iterator(all.end()));
  all.erase(half, all.end());
  return rest;
}

std::vector<JudgedPrompt> windows(LoadedModel& loaded, const char* option, const std::string& path,
                                  int64_t ctx, size_t least) {
  const std::vector<int32_t> tokens = loaded.text_tokens(read_file(path));
  if (tokens.size() < least * static_cast<size_t>(ctx))
    fail("{} {}: has {} tokens, expected {} windows of {} or more (--ctx)", option, path,
         tokens.size(), least, ctx);
  return judged_windows(tokens, ctx, loaded.added_bos());
}

std::vector<Question> questions(const char* option, const std::string& path,
                                const PlanMaterialOptions& options, size_t least) {
  std::vector<Question> all = load_questions(path, options.images, options.limit);
  if (all.size() < least)
    fail("{} {}: has {} questions, expected {} or more", option, path, all.size(), least);
  return all;
}

// Questions in the model's chat format with their answers behind them, which alone count.
std::vector<JudgedPrompt> judged(LoadedModel& loaded, const std::vector<Question>& questions,
                                 const PictureOptions& picture, const std::string& path) {
  PromptBuilder builder(loaded);
  const int64_t limit = loaded.context_limit();
  std::vector<JudgedPrompt> all;
  for (const Question& question : questions) {
    JudgedPrompt one;
    one.prompt = builder.chat({question_turn(question)}, picture).tokens;
    one.first = one.prompt.size() - 1;
    const std::vector<int32_t> answer =
        loaded.tokenizer().encode(trim(question.answer), {.parse_special = false});
    if (answer.empty()) fail("{}: question '{}': its answer is empty", path, question.question);
    one.prompt.ids.insert(one.prompt.ids.end(), answer.begin(), answer.end());
    if (!one.prompt.is_image.empty()) one.prompt.is_image.resize(one.prompt.ids.size(), 0);
    if (limit > 0 && one.prompt.size() > limit)
      fail("{}: question '{}': has {} tokens with its answer, the model's context is {}", path,
           question.question, one.prompt.size(), limit);
    all.push_back(std::move(one));
  }
  return all;
}

std::string digest(const std::string& path) { return to_hex(sha256(read_file(path))); }

}  // namespace

PlanMaterial PlanMaterial::read(LoadedModel& loaded, const PlanMaterialOptions& options) {
  PlanMaterial material;
  const bool text = !options.text.empty(), halves = options.held_out.empty();
  const std::string& first = text ? options.text : options.questions;
  const std::string& second = halves ? first : options.held_out;
  material.inputs = {{"file", digest(first)},
                     {"held_out", halves ? "second half" : digest(second)},
                     {text ? "ctx" : "limit", text ? options.context : options.limit}};
  const size_t least = halves ? 2 * kLeast : kLeast;
  if (text) {
    const int64_t ctx = options.context, limit = loaded.context_limit();
    if (limit > 0 && ctx > limit) fail("--ctx {}: the model's context is {}", ctx, limit);
    material.calibration = windows(loaded, "--text", first, ctx, least);
    material.held_out = halves ? second_half(material.calibration)
                               : windows(loaded, "--held-out", second, ctx, kLeast);
    return material;
  }
  material.unit = "questions";
  std::vector<Question> asked = questions("--qa", first, options, least);
  material.held_out_questions =
      halves ? second_half(asked) : questions("--held-out", second, options, kLeast);
  material.calibration = judged(loaded, asked, options.picture, first);
  material.held_out = judged(loaded, material.held_out_questions, options.picture, second);
  return material;
}

}  // namespace reprise::tools
