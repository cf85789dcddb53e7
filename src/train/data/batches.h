// From examples to what a forward call takes. A batch is a pure function of the recipe and its
// index, so a resumed run sees exactly what an uninterrupted one would have.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image/preprocess.h"
#include "model/model.h"
#include "text/chat/chat.h"
#include "text/tokenizer/tokenizer.h"
#include "train/data/examples.h"
#include "train/objectives/preference.h"
#include "train/recipe/recipe.h"

namespace reprise {

// What a forward call trains on. A picture and the text in front of it are one segment, which the
// segments of its questions have as prefix: causal attention makes that the same as repeating the
// picture in front of every question, at a fraction of the cost.
struct Batch {
  Rows rows;
  std::vector<int32_t> ids;         // [rows]
  std::vector<int32_t> image_rows;  // rows that hold picture tokens, in order
  std::vector<float> pixels;        // [tiles, 3, size, size]
  int64_t tiles = 0;
  std::vector<int32_t> target_rows;    // rows whose logits count
  std::vector<int32_t> targets;        // the token each of them should predict
  std::vector<AnswerTargets> answers;  // cover all targets in order

  int64_t right_targets() const;  // targets of right answers
  int64_t pairs() const;          // right answers that a wrong one follows
};

class BatchMaker {
 public:
  // format: how messages become prompts. Recipe, config and tokenizer must outlive it.
  BatchMaker(const Recipe& recipe, const ModelConfig& config, const Tokenizer& tokenizer,
             ChatFormat format);

  // Batch `index` of the run: step * accumulate + number of the forward call.
  Batch make(int64_t index) const;
  // Validation examples [begin, end) with all their questions.
  Batch validation(int64_t begin, int64_t end) const;
  int64_t validation_size() const;
  // Appends an example with all its questions, or its conversation.
  void add_example(const Example& example, Batch& batch) const;

 private:
  // Tokens of a conversation and which of them are answers.
  struct Tokens {
    std::vector<int32_t> ids;
    struct Span {
      size_t begin, end;
    };
    std::vector<Span> answers;
    size_t pictures_end = 0;  // behind the last picture's last token; 0 without pictures
  };

  // wrong: with wrong answers. turns: which of the questions, in this order.
  void add(const Example& example, std::span<const size_t> turns, bool wrong, Batch& batch) const;
  void add_conversation(const Example& example, std::span<const int64_t> image_tokens, bool wrong,
                        Batch& batch) const;
  // Appends the pictures' pixels; gives how many tokens each of them has.
  std::vector<int64_t> add_pixels(const Example& example, Batch& batch) const;
  Tokens question_tokens(const QuestionAnswer& turn, const std::string& answer,
                         std::span<const int64_t> image_tokens) const;
  // The same conversation with its wrong last answer.
  Tokens rejected_tokens(const Example& example, std::span<const int64_t> image_tokens) const;
  void check_takes_pictures() const;  // Error where the model doesn't
  // Throws Error naming `file` where an example's texts can't be trained on, before a run has
  // begun. wrong: with wrong answers.
  void check_examples(const std::filesystem::path& file, const ExampleSource& examples,
                      bool wrong) const;
  // Whether rope turns the rows before `shared` alike in requests of that length and of `whole`.
  bool can_share(int64_t shared, const Tokens& whole) const;
  Tokens tokenize(std::span<const ChatMessage> messages,
                  std::span<const int64_t> image_tokens) const;
  // Appends the tokens from `from` on as a segment behind segment `prefix` (-1: none), which holds
  // those before, and the targets of answers[first_answer ...]. total_length: as RowSegment's. Both
  // give the segment's number.
  int add_segment(const Tokens& tokens, size_t from, int prefix, size_t first_answer, bool rejected,
                  Batch& batch) const;
  int add_rows(std::span<const int32_t> ids, int prefix, int64_t first_position,
               int64_t total_length, Batch& batch) const;
  [[noreturn]] void fail_without_wrong_answer(const std::string& question) const;

  const Recipe& recipe_;
  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  ChatFormat format_;
  PreprocessConfig preprocess_;
  std::vector<std::unique_ptr<ExampleSource>> sources_;
  std::unique_ptr<ExampleSource> validation_;
};

// Runs the batch's rows through the plan: [rows, d] before the final norm.
Tensor batch_state(Model& model, const Plan& plan, const Batch& batch);

}  // namespace reprise
