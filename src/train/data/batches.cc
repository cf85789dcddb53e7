#include "train/data/batches.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "engine/images.h"

namespace reprise {
namespace {

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

size_t common_length(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto [end, unused] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(end - a.begin());
}

}  // namespace

BatchMaker::BatchMaker(const Recipe& recipe, const ModelConfig& config, const Tokenizer& tokenizer,
                       ChatFormat format)
    : recipe_(recipe),
      config_(config),
      tokenizer_(tokenizer),
      format_(std::move(format)),
      preprocess_(preprocess_config(config.image)) {
  for (const DataSource& source : recipe.train) {
    sources_.push_back(source.generator.empty() ? load_question_file(source.file, source.images)
                                                : make_generator(source.generator, recipe.seed,
                                                                 recipe.questions_per_image));
    if (!source.wrong_answers.empty())
      sources_.back() =
          with_wrong_answers(std::move(sources_.back()), source.wrong_answers, recipe.seed);
  }
  for (size_t i = 0; i < sources_.size(); ++i)
    check_examples(recipe.train[i].file, *sources_[i], recipe.preference);
  if (recipe.validation.empty()) return;
  validation_ = load_question_file(recipe.validation, recipe.validation_images);
  check_examples(recipe.validation, *validation_, /*wrong=*/false);
}

int64_t BatchMaker::validation_size() const { return validation_ ? validation_->size() : 0; }

int64_t Batch::right_targets() const {
  int64_t count = 0;
  for (const AnswerTargets& answer : answers) count += answer.rejected ? 0 : answer.count;
  return count;
}

int64_t Batch::pairs() const {
  return std::count_if(answers.begin(), answers.end(),
                       [](const AnswerTargets& answer) { return answer.rejected; });
}

void BatchMaker::check_takes_pictures() const {
  if (!config_.vision) fail("{}: pictures, but the model has no vision tower", config_.where);
  if (config_.image_token < 0)
    fail("{}: which token is a picture's place is said neither by the config nor the tokenizer",
         config_.where);
}

std::vector<int64_t> BatchMaker::add_pixels(const Example& example, Batch& batch) const {
  std::vector<int64_t> image_tokens;
  if (!example.images.empty()) check_takes_pictures();
  for (const Image& image : example.images) {
    const Tiles tiles = preprocess(image, preprocess_);
    const std::vector<float> pixels = normalise(tiles, preprocess_);
    batch.pixels.insert(batch.pixels.end(), pixels.begin(), pixels.end());
    batch.tiles += tiles.count;
    image_tokens.push_back(int64_t{tiles.count} * config_.vision->tokens_per_tile());
  }
  return image_tokens;
}

// Texts are tokenized as they are when a prompt is: whole between two pictures, however many
// messages that is. An answer's tokens begin where the text with it departs from the one without.
BatchMaker::Tokens BatchMaker::tokenize(std::span<const ChatMessage> messages,
                                        std::span<const int64_t> image_tokens) const {
  Tokens out;
  std::string text;                       // since the last picture
  std::vector<Tokens::Span> byte_ranges;  // of answers, in `text`
  const auto flush = [&] {
    const EncodeOptions options{.continues = out.pictures_end > 0};
    const auto encode = [&](size_t bytes) {
      return tokenizer_.encode(std::string_view(text).substr(0, bytes), options);
    };
    const std::vector<int32_t> ids = encode(text.size());
    if (config_.vision && std::find(ids.begin(), ids.end(), config_.image_token) != ids.end())
      fail("{}: a message's text holds the picture's placeholder itself: '{}'",
           recipe_.path.string(), text);
    for (const Tokens::Span& range : byte_ranges) {
      const size_t begin = common_length(ids, encode(range.begin));
      const size_t end =
          range.end == text.size() ? ids.size() : common_length(ids, encode(range.end));
      if (begin >= end || out.ids.size() + begin == 0)
        fail("{}: an answer without a token of its own: '{}'", recipe_.path.string(),
             text.substr(range.begin, range.end - range.begin));
      out.answers.push_back({out.ids.size() + begin, out.ids.size() + end});
    }
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    text.clear();
    byte_ranges.clear();
  };
  for (const PromptPart& part : render_answers(format_, messages, image_tokens)) {
    if (part.image >= 0) {
      if (!text.empty()) flush();
      out.ids.insert(out.ids.end(), static_cast<size_t>(part.image_tokens),
                     static_cast<int32_t>(config_.image_token));
      out.pictures_end = out.ids.size();
      continue;
    }
    if (part.answer) byte_ranges.push_back({text.size(), text.size() + part.text.size()});
    text += part.text;
  }
  if (!text.empty()) flush();
  return out;
}

int BatchMaker::add_rows(std::span<const int32_t> ids, int prefix, int64_t first_position,
                         int64_t total_length, Batch& batch) const {
  const auto count = static_cast<int64_t>(ids.size());
  batch.rows.segments.push_back({nullptr, batch.rows.size(), count, total_length, prefix});
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    const bool image = id == config_.image_token;
    if (image) batch.image_rows.push_back(static_cast<int32_t>(batch.rows.size()));
    batch.rows.positions.push_back(static_cast<int32_t>(first_position + i));
    batch.rows.is_image.push_back(image);
    batch.ids.push_back(id);
  }
  return static_cast<int>(batch.rows.segments.size()) - 1;
}

int BatchMaker::add_segment(const Tokens& tokens, size_t from, int prefix, size_t first_answer,
                            bool rejected, Batch& batch) const {
  const int64_t shift = batch.rows.size() - static_cast<int64_t>(from);  // of tokens to rows
  for (size_t a = first_answer; a < tokens.answers.size(); ++a) {
    const auto [begin, end] = tokens.answers[a];
    batch.answers.push_back(
        {static_cast<int64_t>(batch.targets.size()), static_cast<int64_t>(end - begin), rejected});
    for (size_t i = begin; i < end; ++i) {  // predicted by the row before
      batch.target_rows.push_back(static_cast<int32_t>(static_cast<int64_t>(i) - 1 + shift));
      batch.targets.push_back(tokens.ids[i]);
    }
  }
  // The last token predicts nothing and isn't run.
  return add_rows(std::span(tokens.ids).subspan(from, tokens.ids.size() - 1 - from), prefix,
                  static_cast<int64_t>(from), std::ssize(tokens.ids), batch);
}

bool BatchMaker::can_share(int64_t shared, const Tokens& whole) const {
  return shared > 0 && same_rope(config_.text, shared, std::ssize(whole.ids));
}

BatchMaker::Tokens BatchMaker::question_tokens(const QuestionAnswer& turn,
                                               const std::string& answer,
                                               std::span<const int64_t> image_tokens) const {
  const std::array messages = {
      ChatMessage{"user", turn.question, static_cast<int>(image_tokens.size())},
      ChatMessage{"assistant", answer}};
  const Tokens tokens = tokenize(messages, image_tokens);
  // The row that predicts an answer's first token must be the question's own.
  if (tokens.pictures_end > 0 && tokens.answers[0].begin <= tokens.pictures_end)
    fail("{}: nothing stands between a picture and the answer '{}', expected a question",
         recipe_.path.string(), answer);
  return tokens;
}

BatchMaker::Tokens BatchMaker::rejected_tokens(const Example& example,
                                               std::span<const int64_t> image_tokens) const {
  std::vector<ChatMessage> messages = example.conversation;
  if (example.rejected.empty())
    fail_without_wrong_answer(messages.size() > 1 ? messages[messages.size() - 2].content : "");
  messages.back().content = example.rejected;
  return tokenize(messages, image_tokens);
}

void BatchMaker::check_examples(const std::filesystem::path& file, const ExampleSource& examples,
                                bool wrong) const {
  for (int64_t i = 0; i < examples.size(); ++i) {
    try {
      size_t pictures = 0;
      const Example example = examples.texts(i, &pictures);
      if (pictures > 0) check_takes_pictures();
      const std::vector<int64_t> image_tokens(pictures, 1);
      if (!example.conversation.empty()) {
        tokenize(example.conversation, image_tokens);
        if (wrong) rejected_tokens(example, image_tokens);
      }
      for (const QuestionAnswer& turn : example.turns) {
        question_tokens(turn, turn.answer, image_tokens);
        if (!wrong) continue;
        if (turn.rejected.empty()) fail_without_wrong_answer(turn.question);
        question_tokens(turn, turn.rejected, image_tokens);
      }
    } catch (const Error& error) {
      fail("{}: {}", file.string(), error.what());
    }
  }
}

void BatchMaker::add(const Example& example, std::span<const size_t> turns, bool wrong,
                     Batch& batch) const {
  const std::vector<int64_t> image_tokens = add_pixels(example, batch);
  if (!example.conversation.empty()) return add_conversation(example, image_tokens, wrong, batch);
  bool shown = false;  // whether rows stand for the pixels above
  const auto show_again = [&] {
    if (shown) add_pixels(example, batch);
    shown = true;
  };
  // Everything up to the pictures' end is the same for all questions about them, so it stands in
  // the batch once, unless a question is so long that rope turns it differently.
  int prefix = -1;
  const auto place = [&](const Tokens& tokens, bool rejected) {
    const auto shared = static_cast<int64_t>(tokens.pictures_end);
    if (!can_share(shared, tokens)) {
      if (shared > 0) show_again();
      add_segment(tokens, 0, -1, 0, rejected, batch);
      return;
    }
    if (prefix < 0) {
      show_again();
      prefix = add_rows(std::span(tokens.ids).first(tokens.pictures_end), -1, 0, shared, batch);
    }
    add_segment(tokens, tokens.pictures_end, prefix, 0, rejected, batch);
  };
  for (const size_t turn : turns) {
    const QuestionAnswer& qa = example.turns[turn];
    place(question_tokens(qa, qa.answer, image_tokens), /*rejected=*/false);
    if (!wrong) continue;
    if (qa.rejected.empty()) fail_without_wrong_answer(qa.question);
    place(question_tokens(qa, qa.rejected, image_tokens), /*rejected=*/true);
  }
}

void BatchMaker::add_conversation(const Example& example, std::span<const int64_t> image_tokens,
                                  bool wrong, Batch& batch) const {
  const Tokens tokens = tokenize(example.conversation, image_tokens);
  if (!wrong) {
    add_segment(tokens, 0, -1, 0, /*rejected=*/false, batch);
    return;
  }
  const Tokens rejected = rejected_tokens(example, image_tokens);
  const size_t last = tokens.answers.size() - 1;
  // All before the last answers, less the rows that predict their first tokens. (An answer's first
  // letter may have become one token with what stands before it.)
  const size_t shared = std::min(tokens.answers[last].begin, rejected.answers[last].begin) - 1;
  const bool fits = shared >= tokens.pictures_end &&
                    (last == 0 || tokens.answers[last - 1].end <= shared) &&
                    can_share(static_cast<int64_t>(shared), tokens) &&
                    can_share(static_cast<int64_t>(shared), rejected);
  if (!fits) {  // both whole
    add_segment(tokens, 0, -1, 0, /*rejected=*/false, batch);
    if (!image_tokens.empty()) add_pixels(example, batch);
    add_segment(rejected, 0, -1, last, /*rejected=*/true, batch);
    return;
  }
  Tokens before = tokens;
  before.ids.resize(shared + 1);
  before.answers.pop_back();
  const int prefix = add_segment(before, 0, -1, 0, /*rejected=*/false, batch);
  add_segment(tokens, shared, prefix, last, /*rejected=*/false, batch);
  add_segment(rejected, shared, prefix, last, /*rejected=*/true, batch);
}

void BatchMaker::fail_without_wrong_answer(const std::string& question) const {
  fail(
      "{}: loss sft+po: the question '{}' has no wrong answer; expected a key 'rejected' in the "
      "data, or 'wrong_answers' in the recipe's source",
      recipe_.path.string(), question);
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
    for (Image& image : example.images) augment(recipe_.train[s], random, image);
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
