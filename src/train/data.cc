#include "train/data.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "engine/images.h"
#include "image/decode.h"
#include "train/easy_vqa.h"

namespace reprise {
namespace {

class QuestionFile : public ExampleSource {
 public:
  QuestionFile(const std::filesystem::path& file, const std::filesystem::path& images) {
    constexpr size_t kMostBytes = size_t{1} << 30;
    std::istringstream lines(read_file(file, kMostBytes));
    std::map<std::string, size_t> by_image;
    int64_t number = 0;
    for (std::string line; std::getline(lines, line);) {
      ++number;
      if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
      const std::string where = fmt::format("{}:{}", file.string(), number);
      const Json json = parse_json(line, where);
      const JsonObject object(json, where);
      const QuestionAnswer turn{object.get_string("question"), object.get_string("answer"),
                                object.find_string("rejected").value_or("")};
      if (turn.rejected == turn.answer)
        object.fail_at("rejected", "is the right answer, expected a wrong one");
      const auto image = object.find_string("image");
      size_t index = examples_.size();
      if (image) index = by_image.try_emplace(*image, index).first->second;
      if (index == examples_.size()) {
        Example example;
        if (image) {
          example.has_image = true;
          example.image = load_image(images / *image);
        }
        examples_.push_back(std::move(example));
      }
      examples_[index].turns.push_back(turn);
    }
    if (examples_.empty()) fail("{}: holds no questions", file.string());
  }
  int64_t size() const override { return static_cast<int64_t>(examples_.size()); }
  Example get(int64_t i) const override { return examples_[static_cast<size_t>(i)]; }

 private:
  std::vector<Example> examples_;
};

class WithWrongAnswers : public ExampleSource {
 public:
  WithWrongAnswers(std::unique_ptr<ExampleSource> source, uint64_t seed)
      : source_(std::move(source)), seed_(seed) {}
  int64_t size() const override { return source_->size(); }
  Example get(int64_t i) const override {
    Example example = source_->get(i);
    for (QuestionAnswer& turn : example.turns)
      if (turn.rejected.empty())
        turn.rejected = confusing_easy_vqa_answer(turn, seed_, static_cast<uint64_t>(i));
    return example;
  }

 private:
  std::unique_ptr<ExampleSource> source_;
  uint64_t seed_;
};

class EasyVqaGenerator : public ExampleSource {
 public:
  EasyVqaGenerator(uint64_t seed, int64_t turns) : seed_(seed), turns_(static_cast<int>(turns)) {}
  int64_t size() const override { return 0; }
  Example get(int64_t i) const override { return draw_easy_vqa(seed_, i, turns_); }

 private:
  uint64_t seed_;
  int turns_;
};

Image mirrored(const Image& image) {
  Image out(image.width, image.height);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::copy_n(image.row(y) + 3 * (image.width - 1 - x), 3, out.row(y) + 3 * x);
  return out;
}

Image quarter_turned(const Image& image) {
  Image out(image.height, image.width);
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      std::copy_n(image.row(y) + 3 * x, 3, out.row(x) + 3 * (image.height - 1 - y));
  return out;
}

void augment(const DataSource& source, Philox& random, Image& image) {
  if (source.flips && random.next_below(2)) image = mirrored(image);
  if (source.quarter_turns)
    for (uint32_t turns = random.next_below(4); turns > 0; --turns) image = quarter_turned(image);
}

// `count` of 0..n-1, all different, in random order.
std::vector<size_t> choose(size_t n, size_t count, Philox& random) {
  std::vector<size_t> all(n);
  std::iota(all.begin(), all.end(), size_t{0});
  count = std::min(count, n);
  for (size_t i = 0; i < count; ++i)
    std::swap(all[i], all[i + random.next_below(static_cast<uint32_t>(n - i))]);
  all.resize(count);
  return all;
}

const ChatFormat& recipe_format(const Recipe& recipe, const ModelConfig& config) {
  const std::string& name = recipe.chat_format.empty() ? config.chat_format : recipe.chat_format;
  if (name.empty())
    fail("{}: key 'model.chat_format' is missing, and {} names none", recipe.path.string(),
         config.where);
  return chat_format(name);
}

}  // namespace

std::unique_ptr<ExampleSource> load_question_file(const std::filesystem::path& file,
                                                  const std::filesystem::path& images) {
  return std::make_unique<QuestionFile>(file, images);
}

std::unique_ptr<ExampleSource> with_wrong_answers(std::unique_ptr<ExampleSource> source,
                                                  const std::string& name, uint64_t seed) {
  if (name != "easy-vqa") fail("wrong answers '{}' are unknown; this program knows easy-vqa", name);
  return std::make_unique<WithWrongAnswers>(std::move(source), seed);
}

std::unique_ptr<ExampleSource> make_generator(const std::string& name, uint64_t seed,
                                              int64_t most_turns) {
  if (name != "easy-vqa") fail("generator '{}' is unknown; this program knows easy-vqa", name);
  return std::make_unique<EasyVqaGenerator>(seed, most_turns);
}

BatchMaker::BatchMaker(const Recipe& recipe, const ModelConfig& config, const Tokenizer& tokenizer)
    : recipe_(recipe),
      config_(config),
      tokenizer_(tokenizer),
      format_(recipe_format(recipe, config)),
      preprocess_(preprocess_config(config.image)) {
  for (const DataSource& source : recipe.train) {
    sources_.push_back(source.generator.empty() ? load_question_file(source.file, source.images)
                                                : make_generator(source.generator, recipe.seed,
                                                                 recipe.questions_per_image));
    if (!source.wrong_answers.empty())
      sources_.back() =
          with_wrong_answers(std::move(sources_.back()), source.wrong_answers, recipe.seed);
  }
  if (!recipe.validation.empty())
    validation_ = load_question_file(recipe.validation, recipe.validation_images);
}

int64_t BatchMaker::validation_size() const { return validation_ ? validation_->size() : 0; }

void BatchMaker::append_segment(std::span<const int32_t> ids, int prefix, int64_t first_position,
                                Batch& batch) const {
  const auto count = static_cast<int64_t>(ids.size());
  batch.rows.segments.push_back(
      {nullptr, batch.rows.size(), count, first_position + count, prefix});
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    const bool image = id == config_.image_token;
    if (image) batch.image_rows.push_back(static_cast<int32_t>(batch.rows.size()));
    batch.rows.positions.push_back(static_cast<int32_t>(first_position + i));
    batch.rows.is_image.push_back(image);
    batch.ids.push_back(id);
  }
}

int64_t Batch::right_targets() const {
  int64_t count = 0;
  for (const AnswerTargets& answer : answers) count += answer.rejected ? 0 : answer.count;
  return count;
}

int64_t Batch::pairs() const {
  return std::count_if(answers.begin(), answers.end(),
                       [](const AnswerTargets& answer) { return answer.rejected; });
}

void BatchMaker::add(const Example& example, std::span<const size_t> turns, bool wrong,
                     Batch& batch) const {
  std::vector<int64_t> image_tokens;
  if (example.has_image) {
    if (!config_.vision) fail("{}: pictures, but the model has no vision tower", config_.where);
    const Tiles tiles = preprocess(example.image, preprocess_);
    const std::vector<float> pixels = normalise(tiles, preprocess_);
    batch.pixels.insert(batch.pixels.end(), pixels.begin(), pixels.end());
    batch.tiles += tiles.count;
    image_tokens.push_back(int64_t{tiles.count} * config_.vision->tokens_per_tile());
  }
  int prefix = -1;
  int64_t prefix_length = 0;
  for (size_t turn : turns) {
    const QuestionAnswer& qa = example.turns[turn];
    const ChatMessage message{"user", qa.question, example.has_image ? 1 : 0};
    // Everything up to the picture is the same for all questions about it.
    std::vector<int32_t> before, ids;
    for (const PromptPart& part : render_chat(format_, {&message, 1}, image_tokens)) {
      if (part.image >= 0) {
        before = std::move(ids);
        before.insert(before.end(), static_cast<size_t>(part.image_tokens),
                      static_cast<int32_t>(config_.image_token));
        ids.clear();
        continue;
      }
      const std::vector<int32_t> text = tokenizer_.encode(part.text);
      ids.insert(ids.end(), text.begin(), text.end());
    }
    if (!before.empty() && prefix < 0) {
      prefix = static_cast<int>(batch.rows.segments.size());
      prefix_length = static_cast<int64_t>(before.size());
      append_segment(before, -1, 0, batch);
    }
    add_answer(ids, qa.answer, false, prefix, prefix_length, batch);
    if (!wrong) continue;
    if (qa.rejected.empty())
      fail(
          "{}: loss sft+po: the question '{}' has no wrong answer; expected a key 'rejected' in "
          "the data, or 'wrong_answers' in the recipe's source",
          recipe_.path.string(), qa.question);
    add_answer(ids, qa.rejected, true, prefix, prefix_length, batch);
  }
}

void BatchMaker::add_answer(std::vector<int32_t> ids, const std::string& text, bool rejected,
                            int prefix, int64_t prefix_length, Batch& batch) const {
  const std::vector<int32_t> answer = tokenizer_.encode(text + format_.assistant_end);
  if (answer.empty()) fail("{}: an answer without a token: '{}'", config_.where, text);
  batch.answers.push_back(
      {static_cast<int64_t>(batch.targets.size()), static_cast<int64_t>(answer.size()), rejected});
  // The last token of the answer predicts nothing and isn't run.
  const int64_t first = batch.rows.size() + static_cast<int64_t>(ids.size()) - 1;
  for (size_t i = 0; i < answer.size(); ++i) {
    batch.target_rows.push_back(static_cast<int32_t>(first + static_cast<int64_t>(i)));
    batch.targets.push_back(answer[i]);
  }
  ids.insert(ids.end(), answer.begin(), answer.end() - 1);
  append_segment(ids, prefix, prefix_length, batch);
}

Batch BatchMaker::make(int64_t index) const {
  Philox random(recipe_.seed, static_cast<uint64_t>(index) ^ 0x7472'6169'6e00'0000u);  // "train"
  double total = 0;
  for (const DataSource& source : recipe_.train) total += source.weight;
  Batch batch;
  for (int64_t i = 0; i < recipe_.batch; ++i) {
    double at = random.next_uniform() * total;
    size_t s = 0;
    while (s + 1 < sources_.size() && at >= recipe_.train[s].weight)
      at -= recipe_.train[s++].weight;
    const int64_t size = sources_[s]->size();
    const int64_t which =
        size == 0 ? index * recipe_.batch + i : random.next_below(static_cast<uint32_t>(size));
    Example example = sources_[s]->get(which);
    if (example.has_image) augment(recipe_.train[s], random, example.image);
    const auto most = static_cast<size_t>(recipe_.questions_per_image);
    add(example, choose(example.turns.size(), most, random), recipe_.preference, batch);
  }
  return batch;
}

Batch BatchMaker::validation(int64_t begin, int64_t end) const {
  Batch batch;
  for (int64_t i = begin; i < end; ++i) add_example(validation_->get(i), batch);
  return batch;
}

void BatchMaker::add_example(const Example& example, Batch& batch) const {
  std::vector<size_t> all(example.turns.size());
  std::iota(all.begin(), all.end(), size_t{0});
  add(example, all, /*wrong=*/false, batch);
}

Tensor batch_state(Model& model, const Plan& plan, const Batch& batch) {
  Backend& be = model.backend();
  Tensor x = model.embed(batch.ids);
  if (batch.tiles > 0) {
    const VisionTower& vision = *model.vision();
    const int64_t size = vision.config().image_size;
    const Tensor pixels = be.from_host(batch.pixels, {batch.tiles, 3, size, size});
    const Tensor rows = vision.project(be, vision.features(be, pixels));
    x = be.replace_rows(
        x, batch.image_rows,
        be.reshape(rows, {static_cast<int64_t>(batch.image_rows.size()), rows.cols()}));
  }
  return model.forward(plan, batch.rows, x);
}

}  // namespace reprise
