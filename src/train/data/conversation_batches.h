// Conversations, and questions about pictures or without them, as batches: which examples a forward
// call takes, and how they share rows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/rng.h"
#include "train/data/batch_source.h"
#include "train/data/conversation_tokens.h"
#include "train/data/examples.h"

namespace reprise {

class ConversationBatches : public BatchSource {
 public:
  // Recipe and inputs must outlive it. Throws Error where no chat format is known.
  ConversationBatches(const Recipe& recipe, const BatchSourceInputs& inputs);

  // The position is the number of batches given out.
  Batch next() override;
  std::string position() const override { return std::to_string(next_); }
  // Of the files with questions; pictures are known by their names alone.
  Fingerprints fingerprints() const override { return files_; }
  void seek(const std::string& position, const std::string& where) override;
  int64_t validation_size() const override;
  // With all their questions.
  Batch validation(int64_t begin, int64_t end) const override;

  // Batch `index` of the run: a pure function of it.
  Batch make(int64_t index) const;
  // Appends an example with all its questions, or its conversation.
  void add_example(const Example& example, Batch& batch) const;

 private:
  // One example of a batch: with its pictures as they are shown, and which questions in what order.
  struct Pick {
    Example example;
    std::vector<size_t> turns;
  };
  Pick pick(int64_t number, Philox& random) const;

  // wrong: with wrong answers.
  void add(const Example& example, std::span<const size_t> turns, bool wrong, Batch& batch) const;
  void add_conversation(const Example& example, std::span<const int64_t> image_tokens, bool wrong,
                        Batch& batch) const;
  // Whether rope turns the rows before `shared` alike in requests of that length and of `whole`.
  bool can_share(int64_t shared, const ConversationTokens& whole) const;
  // Appends the tokens from `from` on as a segment behind segment `prefix` (-1: none), which holds
  // those before, and the targets of answers[first_answer ...]. total_length: as RowSegment's. Both
  // give the segment's number.
  int add_segment(const ConversationTokens& tokens, size_t from, int prefix, size_t first_answer,
                  bool rejected, Batch& batch) const;
  int add_rows(std::span<const int32_t> ids, int prefix, int64_t first_position,
               int64_t total_length, Batch& batch) const;

  const Recipe& recipe_;
  const ModelConfig& config_;
  bool wrong_answers_;
  ConversationTokenizer tokenizer_;
  std::vector<std::unique_ptr<ExampleSource>> sources_;
  std::unique_ptr<ExampleSource> validation_;
  Fingerprints files_;
  int64_t next_ = 0;
};

}  // namespace reprise
