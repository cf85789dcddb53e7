#include "eval/qa.h"

#include <cmath>
#include <sstream>
#include <unordered_map>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/logits.h"

namespace reprise {

std::vector<Question> load_questions(const std::filesystem::path& path,
                                     const std::filesystem::path& images, int64_t limit) {
  std::vector<Question> questions;
  std::istringstream lines(read_file(path));
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (trim(line).empty()) continue;
    const std::string where = fmt::format("{}:{}", path.string(), number);
    const Json json = parse_json(line, where);
    const JsonObject object(json, where);
    Question question;
    if (const auto image = object.find_string("image")) question.image = images / *image;
    question.question = object.get_string("question");
    question.answer = object.get_string("answer");
    questions.push_back(std::move(question));
    if (limit > 0 && static_cast<int64_t>(questions.size()) == limit) break;
  }
  if (questions.empty()) fail("{}: no questions in the file", path.string());
  return questions;
}

ChatTurn question_turn(const Question& question, bool blind) {
  ChatTurn turn{"user", question.question, {}};
  if (!blind && !question.image.empty()) turn.images.push_back(Picture::read(question.image));
  return turn;
}

std::pair<double, double> wilson_interval(const Score& score) {
  if (score.questions == 0) return {0, 1};
  constexpr double kZ = 1.959963984540054;  // two-sided 95% of the normal distribution
  const double n = static_cast<double>(score.questions), p = score.rate();
  const double centre = p + kZ * kZ / (2 * n);
  const double spread = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  const double scale = 1 + kZ * kZ / n;
  return {std::max(0.0, (centre - spread) / scale), std::min(1.0, (centre + spread) / scale)};
}

std::string trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\v\f";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) - begin + 1));
}

namespace {

// Indices of the questions with those about one picture next to each other.
std::vector<size_t> by_image(const std::vector<Question>& questions) {
  std::vector<std::vector<size_t>> groups;
  std::unordered_map<std::string, size_t> group_of;
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto [it, added] = group_of.emplace(questions[i].image.string(), groups.size());
    if (added) groups.emplace_back();
    groups[it->second].push_back(i);
  }
  std::vector<size_t> order;
  for (const auto& group : groups) order.insert(order.end(), group.begin(), group.end());
  return order;
}

}  // namespace

QaResult answer_questions(LoadedModel& loaded, const GeneratorOptions& generator_options,
                          const std::vector<Question>& questions, const QaOptions& options,
                          LoadedModel* reference,
                          const std::function<void(const QaResult& so_far)>& progress) {
  const auto start = std::chrono::steady_clock::now();
  Generator generator(loaded, generator_options);
  PromptBuilder builder(loaded);
  std::unique_ptr<Generator> exact;
  std::unique_ptr<PromptBuilder> exact_builder;
  if (reference != nullptr) {
    exact = std::make_unique<Generator>(*reference, generator_options);
    exact_builder = std::make_unique<PromptBuilder>(*reference);
  }
  GenerationOptions one_token = options.generation;
  one_token.max_tokens = 1;
  one_token.beam = {};

  QaResult result;
  result.predictions.resize(questions.size());
  double kl_sum = 0;
  for (const size_t i : by_image(questions)) {
    const Question& question = questions[i];
    const ChatTurn turn = question_turn(question, options.blind);
    const Prompt prompt = builder.chat({turn}, options.picture);
    const Generation answer = generator.generate(prompt, options.generation);
    if (answer.stop == StopReason::Cancelled) fail("interrupted");
    if (prompt.vision_seconds > 0) ++result.images_encoded;
    result.generated_tokens += static_cast<int64_t>(answer.tokens.size());
    if (exact) {
      const Prompt same = exact_builder->chat({turn}, options.picture);
      const Generation first = exact->generate(same, one_token);
      kl_sum += kl_divergence(first.first_logits, answer.first_logits);
    }

    result.predictions[i] = trim(answer.text);
    const bool correct = result.predictions[i] == trim(question.answer);
    for (Score* score : {&result.total, &result.by_answer[trim(question.answer)]}) {
      ++score->questions;
      score->correct += correct;
    }
    result.kl_divergence = kl_sum / static_cast<double>(result.total.questions);
    result.seconds = seconds_since(start);
    if (progress) progress(result);
  }
  return result;
}

}  // namespace reprise
