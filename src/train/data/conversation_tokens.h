// Conversations as tokens: those that a model will be asked with, and which of them are answers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/config/config.h"
#include "text/chat/chat.h"
#include "text/tokenizer/tokenizer.h"
#include "train/data/examples.h"

namespace reprise {

struct ConversationTokens {
  std::vector<int32_t> ids;
  struct Span {
    size_t begin, end;
  };
  std::vector<Span> answers;
  size_t pictures_end = 0;  // behind the last picture's last token; 0 without pictures
};

// Everywhere: image_tokens is how many tokens each picture takes, in order. Errors begin with
// `where` (the recipe's path).
class ConversationTokenizer {
 public:
  // Tokenizer and config must outlive it.
  ConversationTokenizer(const Tokenizer& tokenizer, ChatFormat format, const ModelConfig& config,
                        std::string where);

  // A whole conversation. Texts are tokenized as they are when a prompt is: whole between two
  // pictures, however many messages that is. An answer's tokens begin where the text with it
  // departs from the one without. Throws Error for a text that holds the picture's placeholder,
  // and for one that is longer than the model's context.
  ConversationTokens conversation(std::span<const ChatMessage> messages,
                                  std::span<const int64_t> image_tokens) const;
  // A question behind its pictures, with this answer to it.
  ConversationTokens question(const QuestionAnswer& turn, const std::string& answer,
                              std::span<const int64_t> image_tokens) const;
  // The example's conversation with its wrong last answer; Error where it has none.
  ConversationTokens rejected(const Example& example, std::span<const int64_t> image_tokens) const;
  // The wrong answer to a question; Error where it has none.
  const std::string& wrong_answer(const QuestionAnswer& turn) const;

  // Throws Error naming `file` where an example's texts can't be trained on.
  // wrong: with wrong answers.
  void check(const std::string& file, const ExampleSource& examples, bool wrong) const;

 private:
  [[noreturn]] void fail_without_wrong_answer(const std::string& question) const;

  const Tokenizer& tokenizer_;
  ChatFormat format_;
  const ModelConfig& config_;
  std::string where_;
};

}  // namespace reprise
