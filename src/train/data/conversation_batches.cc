#include "train/data/conversation_batches.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/error.h"
#include "model/model.h"
#include "train/data/pictures.h"

namespace reprise {
namespace {

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

const ChatFormat& known_format(const Recipe& recipe, const BatchSourceInputs& inputs) {
  if (!inputs.format)
    fail("{}: key 'model.chat_format' is missing, and {} names none", recipe.path.string(),
         inputs.config.where);
  return *inputs.format;
}

}  // namespace

ConversationBatches::ConversationBatches(const Recipe& recipe, const BatchSourceInputs& inputs)
    : recipe_(recipe),
      config_(inputs.config),
      wrong_answers_(inputs.wrong_answers),
      tokenizer_(*inputs.tokenizer, known_format(recipe, inputs), inputs.config,
                 recipe.path.string()) {
  for (const DataSource& source : recipe.train) {
    sources_.push_back(source.generator.empty() ? load_question_file(source.file, source.images)
                                                : make_generator(source.generator, recipe.seed,
                                                                 recipe.questions_per_image));
    if (!source.wrong_answers.empty())
      sources_.back() =
          with_wrong_answers(std::move(sources_.back()), source.wrong_answers, recipe.seed);
  }
  for (size_t i = 0; i < recipe.train.size(); ++i)
    if (!recipe.train[i].file.empty())
      files_[fmt::format("data.train[{}].file", i)] = file_fingerprint(recipe.train[i].file);
  for (size_t i = 0; i < sources_.size(); ++i)
    tokenizer_.check(recipe.train[i].file.string(), *sources_[i], wrong_answers_);
  if (recipe.validation.empty()) return;
  validation_ = load_question_file(recipe.validation, recipe.validation_images);
  tokenizer_.check(recipe.validation.string(), *validation_, /*wrong=*/false);
}

Batch ConversationBatches::next() {
  Batch batch = make(next_);
  ++next_;
  return batch;
}

void ConversationBatches::seek(const std::string& position, const std::string& where) {
  int64_t number = -1;
  const char* end = position.data() + position.size();
  const auto [read_to, error] = std::from_chars(position.data(), end, number);
  if (error != std::errc() || read_to != end || number < 0)
    fail("{}: '{}' is no place in these data, expected a number of batches", where, position);
  next_ = number;
}

ConversationBatches::Pick ConversationBatches::pick(int64_t number, Philox& random) const {
  double total = 0;
  for (const DataSource& source : recipe_.train) total += source.weight;
  double at = random.next_uniform() * total;
  size_t s = 0;
  while (s + 1 < sources_.size() && at >= recipe_.train[s].weight) at -= recipe_.train[s++].weight;
  const int64_t size = sources_[s]->size();
  const int64_t which = size == 0 ? number : random.next_below(static_cast<uint32_t>(size));
  Pick pick;
  pick.example = sources_[s]->get(which);
  for (Image& image : pick.example.images) augment(recipe_.train[s], random, image);
  pick.turns =
      choose(pick.example.turns.size(), static_cast<size_t>(recipe_.questions_per_image), random);
  return pick;
}

Batch ConversationBatches::make(int64_t index) const {
  Philox random(recipe_.seed, static_cast<uint64_t>(index) ^ 0x7472'6169'6e00'0000u);  // "train"
  Batch batch;
  for (int64_t i = 0; i < recipe_.batch; ++i) {
    const Pick picked = pick(index * recipe_.batch + i, random);
    add(picked.example, picked.turns, wrong_answers_, batch);
  }
  batch.make_pixels = [this, index] { return make(index).pixels; };
  return batch;
}

int64_t ConversationBatches::validation_size() const {
  return validation_ ? validation_->size() : 0;
}

Batch ConversationBatches::validation(int64_t begin, int64_t end) const {
  Batch batch;
  for (int64_t i = begin; i < end; ++i) add_example(validation_->get(i), batch);
  return batch;
}

void ConversationBatches::add_example(const Example& example, Batch& batch) const {
  std::vector<size_t> all(example.turns.size());
  std::iota(all.begin(), all.end(), size_t{0});
  add(example, all, /*wrong=*/false, batch);
}

int ConversationBatches::add_rows(std::span<const int32_t> ids, int prefix, int64_t first_position,
                                  int64_t total_length, Batch& batch) const {
  const auto count = static_cast<int64_t>(ids.size());
  batch.rows.segments.push_back({nullptr, batch.rows.size(), count, total_length, prefix});
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    const bool image = config_.vision && id == config_.image_token;
    if (image) batch.image_rows.push_back(static_cast<int32_t>(batch.rows.size()));
    batch.rows.positions.push_back(static_cast<int32_t>(first_position + i));
    batch.rows.is_image.push_back(image);
    batch.ids.push_back(id);
  }
  return static_cast<int>(batch.rows.segments.size()) - 1;
}

int ConversationBatches::add_segment(const ConversationTokens& tokens, size_t from, int prefix,
                                     size_t first_answer, bool rejected, Batch& batch) const {
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

bool ConversationBatches::can_share(int64_t shared, const ConversationTokens& whole) const {
  return shared > 0 && same_rope(config_.text, shared, std::ssize(whole.ids));
}

void ConversationBatches::add(const Example& example, std::span<const size_t> turns, bool wrong,
                              Batch& batch) const {
  const std::vector<int64_t> image_tokens = add_pixels(config_, example.images, batch);
  if (!example.conversation.empty()) return add_conversation(example, image_tokens, wrong, batch);
  bool shown = false;  // whether rows stand for the pixels above
  const auto show_again = [&] {
    if (shown) add_pixels(config_, example.images, batch);
    shown = true;
  };
  // Everything up to the pictures' end is the same for all questions about them, so it stands in
  // the batch once, unless a question is so long that rope turns it differently.
  int prefix = -1;
  const auto place = [&](const ConversationTokens& tokens, bool rejected) {
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
    place(tokenizer_.question(qa, qa.answer, image_tokens), /*rejected=*/false);
    if (!wrong) continue;
    place(tokenizer_.question(qa, tokenizer_.wrong_answer(qa), image_tokens), /*rejected=*/true);
  }
}

void ConversationBatches::add_conversation(const Example& example,
                                           std::span<const int64_t> image_tokens, bool wrong,
                                           Batch& batch) const {
  const ConversationTokens tokens = tokenizer_.conversation(example.conversation, image_tokens);
  if (!wrong) {
    add_segment(tokens, 0, -1, 0, /*rejected=*/false, batch);
    return;
  }
  const ConversationTokens rejected = tokenizer_.rejected(example, image_tokens);
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
    if (!image_tokens.empty()) add_pixels(config_, example.images, batch);
    add_segment(rejected, 0, -1, last, /*rejected=*/true, batch);
    return;
  }
  ConversationTokens before = tokens;
  before.ids.resize(shared + 1);
  before.answers.pop_back();
  const int prefix = add_segment(before, 0, -1, 0, /*rejected=*/false, batch);
  add_segment(tokens, shared, prefix, last, /*rejected=*/false, batch);
  add_segment(rejected, shared, prefix, last, /*rejected=*/true, batch);
}

}  // namespace reprise
