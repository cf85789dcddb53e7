// Training data: where batches come from. A batch is a pure function of the recipe and its index,
// so a resumed run sees exactly what an uninterrupted one would have.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image/preprocess.h"
#include "model/model.h"
#include "text/chat.h"
#include "text/tokenizer.h"
#include "train/preference.h"
#include "train/recipe.h"

namespace reprise {

struct QuestionAnswer {
  std::string question;
  std::string answer;
  std::string rejected = {};  // a wrong answer that fits the question, for Phantom Optimization
};

// Questions about one picture, or one question without. The questions don't see each other.
struct Example {
  bool has_image = false;
  Image image;
  std::vector<QuestionAnswer> turns;
};

// A set of examples. get may make them up; then there is no end to them.
class ExampleSource {
 public:
  virtual ~ExampleSource() = default;
  // Number of distinct examples; 0: endless.
  virtual int64_t size() const = 0;
  // Example i: the same for the same i.
  virtual Example get(int64_t i) const = 0;
};

// JSON lines {"question", "answer"[, "image"][, "rejected"]}; lines with the same image become one
// example.
// Pictures are decoded once and kept. Throws Error naming file, line and key.
std::unique_ptr<ExampleSource> load_question_file(const std::filesystem::path& file,
                                                  const std::filesystem::path& images);
// The same examples, every turn without a wrong answer given one by the generator's rule: a pure
// function of seed, question and answer. Throws Error listing the known names, and where the rule
// knows no wrong answer.
std::unique_ptr<ExampleSource> with_wrong_answers(std::unique_ptr<ExampleSource> source,
                                                  const std::string& name, uint64_t seed);
// "easy-vqa": see easy_vqa.h. Throws Error listing the known names. most_turns: questions an
// example has.
std::unique_ptr<ExampleSource> make_generator(const std::string& name, uint64_t seed,
                                              int64_t most_turns);

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
  // Recipe, config and tokenizer must outlive it.
  BatchMaker(const Recipe& recipe, const ModelConfig& config, const Tokenizer& tokenizer);

  // Batch `index` of the run: step * accumulate + number of the forward call.
  Batch make(int64_t index) const;
  // Validation examples [begin, end) with all their questions.
  Batch validation(int64_t begin, int64_t end) const;
  int64_t validation_size() const;
  // Appends an example with all its questions.
  void add_example(const Example& example, Batch& batch) const;

 private:
  // wrong: with the turns' wrong answers.
  void add(const Example& example, std::span<const size_t> turns, bool wrong, Batch& batch) const;
  // The rows of a prompt `ids` and an answer, with the answer's targets.
  void add_answer(std::vector<int32_t> ids, const std::string& text, bool rejected, int prefix,
                  int64_t prefix_length, Batch& batch) const;
  void append_segment(std::span<const int32_t> ids, int prefix, int64_t first_position,
                      Batch& batch) const;

  const Recipe& recipe_;
  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  const ChatFormat& format_;
  PreprocessConfig preprocess_;
  std::vector<std::unique_ptr<ExampleSource>> sources_;
  std::unique_ptr<ExampleSource> validation_;
};

// Runs the batch's rows through the plan: [rows, d] before the final norm.
Tensor batch_state(Model& model, const Plan& plan, const Batch& batch);

}  // namespace reprise
