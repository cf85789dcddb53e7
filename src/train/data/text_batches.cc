#include "train/data/text_batches.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"

namespace reprise {

void add_token_row(std::span<const int32_t> tokens, Batch& batch) {
  const auto context = static_cast<int64_t>(tokens.size()) - 1;
  const int64_t first = batch.rows.size();
  batch.rows.segments.push_back({nullptr, first, context, context, -1});
  for (int64_t i = 0; i < context; ++i) {
    batch.rows.positions.push_back(static_cast<int32_t>(i));
    batch.target_rows.push_back(static_cast<int32_t>(first + i));
  }
  batch.ids.insert(batch.ids.end(), tokens.begin(), tokens.end() - 1);
  batch.targets.insert(batch.targets.end(), tokens.begin() + 1, tokens.end());
}

namespace {

// context: 0 where a token file will say it.
void check_context(const Recipe& recipe, const TextSource& source, int64_t context,
                   const ModelConfig& config) {
  const int64_t limit = context_limit(config.text);
  if (limit == 0 || context <= limit) return;
  const std::string where =
      recipe.context > 0 ? recipe.path.string() + ": key 'data.context'" : source.file.string();
  fail("{}: rows of {} tokens, expected at most {}, the context of {} (max_position_embeddings)",
       where, context, limit, config.where);
}

}  // namespace

TextBatches::TextBatches(const Recipe& recipe, const BatchSourceInputs& inputs) : recipe_(recipe) {
  // Texts are tokenized at last: that takes long, and all else may be wrong before.
  for (const bool texts : {false, true}) {
    open(recipe.texts, "train", texts, inputs, train_);
    open(recipe.validation_texts, "validation", texts, inputs, validation_);
  }
  for (Rows* rows : {&train_, &validation_}) rows->count();
  if (train_.rows > std::numeric_limits<uint32_t>::max())
    fail("{}: key 'data.train': {} rows are too many for one epoch", recipe.path.string(),
         train_.rows);
  begin_epoch(0);
}

void TextBatches::open(const std::vector<TextSource>& sources, const char* name, bool texts,
                       const BatchSourceInputs& inputs, Rows& all) const {
  all.sources.resize(sources.size());
  for (size_t i = 0; i < sources.size(); ++i) {
    if (!texts) MappedFile::open(sources[i].file);  // Error where it can't be
    if (texts == (sources[i].kind == TextSource::Kind::Tokens)) continue;
    TokenSourceOptions options;
    options.context = recipe_.context > 0 ? recipe_.context : all.context;
    options.vocab = std::min(inputs.config.text.vocab, inputs.config.text.embed_rows);
    options.tokenizer = inputs.tokenizer;
    options.cache = inputs.cache / fmt::format("tokens-{}-{}.bin", name, i);
    options.may_stop = inputs.may_stop;
    // What a model can't run is said before its text is tokenized.
    check_context(recipe_, sources[i], options.context, inputs.config);
    all.sources[i] = open_token_source(sources[i], options);
    all.context = all.sources[i]->context();
    check_context(recipe_, sources[i], all.context, inputs.config);
  }
}

void TextBatches::Rows::count() {
  fingerprint = kHashStart;
  for (const auto& source : sources) {
    rows += source->rows();
    for (const uint64_t part : {source->fingerprint(), static_cast<uint64_t>(source->rows())})
      fingerprint = hash_word(static_cast<uint32_t>(part >> 32),
                              hash_word(static_cast<uint32_t>(part), fingerprint));
  }
}

void TextBatches::Rows::add(int64_t row, Batch& batch) const {
  size_t source = 0;
  while (row >= sources[source]->rows()) row -= sources[source++]->rows();
  std::vector<int32_t> tokens(static_cast<size_t>(context) + 1);
  sources[source]->read(row, tokens);
  add_token_row(tokens, batch);
}

void TextBatches::begin_epoch(int64_t epoch) {
  epoch_ = epoch;
  done_ = 0;
  if (!recipe_.shuffle) return;
  // Fisher and Yates.
  Philox random(recipe_.seed, static_cast<uint64_t>(epoch) ^ 0x6570'6f63'6800'0000u);  // "epoch"
  order_.resize(static_cast<size_t>(train_.rows));
  std::iota(order_.begin(), order_.end(), 0u);
  for (size_t i = order_.size(); i > 1; --i)
    std::swap(order_[i - 1], order_[random.next_below(static_cast<uint32_t>(i))]);
}

Batch TextBatches::next() {
  Batch batch;
  for (int64_t i = 0; i < recipe_.batch; ++i) {
    if (done_ == train_.rows) begin_epoch(epoch_ + 1);
    train_.add(order_.empty() ? done_ : order_[static_cast<size_t>(done_)], batch);
    ++done_;
  }
  return batch;
}

std::string TextBatches::position() const {
  return fmt::format("{}/{}/{}/{:016x}", epoch_, done_, train_.rows, train_.fingerprint);
}

void TextBatches::seek(const std::string& position, const std::string& where) {
  std::istringstream text(position);
  int64_t epoch = -1, done = -1, rows = -1;
  char first = 0, second = 0, third = 0;
  std::string fingerprint;
  text >> epoch >> first >> done >> second >> rows >> third >> fingerprint;
  if (!text || first != '/' || second != '/' || third != '/' || epoch < 0 || done < 0 ||
      done > rows)
    fail("{}: '{}' is no place in these data, expected epoch/rows done/rows/fingerprint", where,
         position);
  if (rows != train_.rows || fingerprint != fmt::format("{:016x}", train_.fingerprint))
    fail("{}: the run was begun with other data of {} rows, the recipe's files now have {}", where,
         rows, train_.rows);
  begin_epoch(epoch);
  done_ = done;
}

Batch TextBatches::validation(int64_t begin, int64_t end) const {
  Batch batch;
  for (int64_t row = begin; row < end; ++row) validation_.add(row, batch);
  return batch;
}

}  // namespace reprise
