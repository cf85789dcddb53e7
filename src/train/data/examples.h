// What a model is trained on, before it becomes tokens: questions about pictures, and
// conversations.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "image/image.h"
#include "text/chat/chat.h"

namespace reprise {

struct QuestionAnswer {
  std::string question;
  std::string answer;
  std::string rejected = {};  // a wrong answer that fits the question, for Phantom Optimization
};

// Questions about the same pictures (or one question without), which don't see each other; or one
// conversation. Exactly one of `turns` and `conversation` is not empty.
struct Example {
  std::vector<Image> images;  // before the question, or in the order of the messages' pictures
  std::vector<QuestionAnswer> turns;
  // Every answer of the assistant is trained; the last message is one.
  std::vector<ChatMessage> conversation;
  std::string rejected = {};  // a wrong last answer of the conversation
};

// A set of examples. get may make them up; then there is no end to them.
class ExampleSource {
 public:
  virtual ~ExampleSource() = default;
  // Number of distinct examples; 0: endless.
  virtual int64_t size() const = 0;
  // Example i: the same for the same i.
  virtual Example get(int64_t i) const = 0;
  // The same without its pictures, and how many they are: cheaper where they are kept in files.
  virtual Example texts(int64_t i, size_t* pictures) const {
    Example example = get(i);
    *pictures = example.images.size();
    example.images.clear();
    return example;
  }
};

// JSON lines, each one of
//   {"question", "answer"[, "rejected"][, "image": FILE | "images": [FILE, ...]]}
//   {"messages": [{"role", "content"[, "images": [FILE, ...]]}, ...][, "rejected"]}
// Lines of the first kind with the same pictures become one example. "rejected" is a wrong answer
// in place of the (last) one. Pictures are decoded while this is called and kept as far as
// `most_picture_bytes` of pixels go; the others are decoded at every use. Throws Error naming file,
// line and key.
constexpr int64_t kKeptPictureBytes = int64_t{1} << 30;
std::unique_ptr<ExampleSource> load_question_file(const std::filesystem::path& file,
                                                  const std::filesystem::path& images,
                                                  int64_t most_picture_bytes = kKeptPictureBytes);
// The same examples, every answer that has no wrong one given one by the generator's rule (in a
// conversation the last answer): a pure function of seed, question and answer. Throws Error listing
// the known names, and where the rule knows no wrong answer.
std::unique_ptr<ExampleSource> with_wrong_answers(std::unique_ptr<ExampleSource> source,
                                                  const std::string& name, uint64_t seed);
// "easy-vqa": see easy_vqa.h. Throws Error listing the known names. most_turns: questions an
// example has.
std::unique_ptr<ExampleSource> make_generator(const std::string& name, uint64_t seed,
                                              int64_t most_turns);

}  // namespace reprise
