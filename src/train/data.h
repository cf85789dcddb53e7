// Training data: where batches come from. A batch is a pure function of the recipe and the step, so
// a resumed run sees exactly what an uninterrupted one would have.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "image/preprocess.h"
#include "model/model.h"
#include "text/tokenizer.h"
#include "train/recipe.h"

namespace reprise {

struct QuestionAnswer {
  std::string question;
  std::string answer;
};

// Questions about one picture, or one question without.
struct Example {
  bool has_image = false;
  Image image;
  std::vector<QuestionAnswer> turns;  // independent of each other
};

// A set of examples. `draw` may make them up; then there is no end to them.
class ExampleSource {
 public:
  virtual ~ExampleSource() = default;
  // Number of distinct examples; 0: endless.
  virtual int64_t size() const = 0;
  // Example i: the same for the same i.
  virtual Example get(int64_t i) const = 0;
};

// JSON lines {"image", "question", "answer"}; lines with the same image become one example.
// Pictures are decoded at once and kept. Throws Error naming file, line and key.
std::unique_ptr<ExampleSource> load_question_file(const std::filesystem::path& file,
                                                  const std::filesystem::path& images);
// Pictures and questions like easy-VQA's training set, drawn on the fly.
std::unique_ptr<ExampleSource> make_generator(const std::string& name, uint64_t seed);

// How an example becomes tokens: picture placeholders first, then question and answer.
struct PromptStyle {
  std::string before_question, after_question;  // "", "\n"
  std::string after_answer;                     // what ends the answer: "\n" or an end token's text
  std::vector<int32_t> before_image;            // ids in front of the picture (BOS)
};

// What a forward call trains on. Each picture is a segment (its placeholders) that the segments of
// its questions have as prefix: causal attention makes that the same as repeating the picture in
// front of every question, at a fraction of the cost.
struct Batch {
  Rows rows;
  std::vector<int32_t> ids;         // [rows]
  std::vector<int32_t> image_rows;  // rows that hold picture tokens, in order
  std::vector<float> pixels;        // [tiles, 3, size, size]
  int64_t tiles = 0;
  std::vector<int32_t> target_rows;  // rows whose logits count
  std::vector<int32_t> targets;      // the token each of them should predict
};

class BatchMaker {
 public:
  BatchMaker(const Recipe& recipe, const ModelConfig& config, const Tokenizer& tokenizer);

  // Batch `index` of the run (step * accumulate + micro step).
  Batch make(int64_t index) const;
  // Validation pictures in order, all questions of each: [begin, end).
  Batch validation(int64_t begin, int64_t end) const;
  int64_t validation_size() const;

 private:
  void add(const Example& example, uint64_t turn_seed, int64_t most_turns, Batch& batch) const;

  const Recipe& recipe_;
  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  PromptStyle style_;
  PreprocessConfig preprocess_;
  std::vector<std::unique_ptr<ExampleSource>> sources_;
  std::unique_ptr<ExampleSource> validation_;
};

}  // namespace reprise
