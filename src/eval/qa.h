// Question answering about pictures: answers are generated (greedily or by beam search) and
// compared with the expected ones as text.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/generator.h"

namespace reprise {

struct Question {
  std::filesystem::path image;  // may be empty: no picture
  std::string question;
  std::string answer;
};

// One JSON object a line: {"image": name below `images`, "question", "answer"}; "image" may be left
// out. `limit` > 0: the first so many. Throws Error naming file, line and key.
std::vector<Question> load_questions(const std::filesystem::path& path,
                                     const std::filesystem::path& images, int64_t limit = 0);

// The turn that asks it, its picture read unless `blind`. Throws Error naming a picture that can't be.
ChatTurn question_turn(const Question& question, bool blind = false);

struct Score {
  int64_t correct = 0;
  int64_t questions = 0;
  double rate() const {
    return questions > 0 ? static_cast<double>(correct) / static_cast<double>(questions) : 0;
  }
};

// 95% interval of a rate from counts (Wilson, "Probable inference, the law of succession, and
// statistical inference", JASA 1927). {0, 1} without questions.
std::pair<double, double> wilson_interval(const Score& score);

// Leading and trailing white space (ASCII) is no part of an answer; everything else must be equal.
std::string trim(std::string_view text);

struct QaOptions {
  GenerationOptions generation;
  bool blind = false;  // the pictures are left out
  PictureOptions picture;
};

struct QaResult {
  Score total;
  std::map<std::string, Score> by_answer;  // by expected answer
  std::vector<std::string> predictions;    // [questions], in the order of the questions
  double kl_divergence = 0;                // see below
  int64_t images_encoded = 0;
  int64_t generated_tokens = 0;
  double seconds = 0;
};

// Answers all questions; those about one picture follow each other, so that it is encoded once.
// reference: the same model loaded otherwise, whose logits for the first token of each answer are
// compared with this one's (mean KL(reference || loaded), nats); null: no comparison.
QaResult answer_questions(LoadedModel& loaded, const GeneratorOptions& generator,
                          const std::vector<Question>& questions, const QaOptions& options,
                          LoadedModel* reference = nullptr,
                          const std::function<void(const QaResult& so_far)>& progress = {});

}  // namespace reprise
