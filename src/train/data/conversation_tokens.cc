#include "train/data/conversation_tokens.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "train/data/pictures.h"

namespace reprise {
namespace {

size_t common_length(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto [end, unused] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<size_t>(end - a.begin());
}

}  // namespace

ConversationTokenizer::ConversationTokenizer(const Tokenizer& tokenizer, ChatFormat format,
                                             const ModelConfig& config, std::string where)
    : tokenizer_(tokenizer),
      format_(std::move(format)),
      config_(config),
      where_(std::move(where)) {}

ConversationTokens ConversationTokenizer::conversation(
    std::span<const ChatMessage> messages, std::span<const int64_t> image_tokens) const {
  ConversationTokens out;
  std::string text;                                   // since the last picture
  std::vector<ConversationTokens::Span> byte_ranges;  // of answers, in `text`
  const auto flush = [&] {
    const EncodeOptions options{.continues = out.pictures_end > 0};
    const auto encode = [&](size_t bytes) {
      return tokenizer_.encode(std::string_view(text).substr(0, bytes), options);
    };
    const std::vector<int32_t> ids = encode(text.size());
    if (config_.vision && std::find(ids.begin(), ids.end(), config_.image_token) != ids.end())
      fail("{}: a message's text holds the picture's placeholder itself: '{}'", where_, text);
    for (const ConversationTokens::Span& range : byte_ranges) {
      const size_t begin = common_length(ids, encode(range.begin));
      const size_t end =
          range.end == text.size() ? ids.size() : common_length(ids, encode(range.end));
      if (begin >= end || out.ids.size() + begin == 0)
        fail("{}: an answer without a token of its own: '{}'", where_,
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
  // The last token predicts nothing and isn't run.
  const int64_t limit = context_limit(config_.text), length = std::ssize(out.ids) - 1;
  if (limit > 0 && length > limit)
    fail("{}: a conversation has {} tokens, the context of {} has {}; it begins '{}'", where_,
         length, config_.where, limit, messages.empty() ? "" : messages[0].content.substr(0, 60));
  return out;
}

ConversationTokens ConversationTokenizer::question(const QuestionAnswer& turn,
                                                   const std::string& answer,
                                                   std::span<const int64_t> image_tokens) const {
  const std::array messages = {
      ChatMessage{"user", turn.question, static_cast<int>(image_tokens.size())},
      ChatMessage{"assistant", answer}};
  ConversationTokens tokens = conversation(messages, image_tokens);
  // The row that predicts an answer's first token must be the question's own.
  if (tokens.pictures_end > 0 && tokens.answers[0].begin <= tokens.pictures_end)
    fail("{}: nothing stands between a picture and the answer '{}', expected a question", where_,
         answer);
  return tokens;
}

ConversationTokens ConversationTokenizer::rejected(const Example& example,
                                                   std::span<const int64_t> image_tokens) const {
  std::vector<ChatMessage> messages = example.conversation;
  if (example.rejected.empty())
    fail_without_wrong_answer(messages.size() > 1 ? messages[messages.size() - 2].content : "");
  messages.back().content = example.rejected;
  return conversation(messages, image_tokens);
}

const std::string& ConversationTokenizer::wrong_answer(const QuestionAnswer& turn) const {
  if (turn.rejected.empty()) fail_without_wrong_answer(turn.question);
  return turn.rejected;
}

void ConversationTokenizer::check(const std::string& file, const ExampleSource& examples,
                                  bool wrong) const {
  for (int64_t i = 0; i < examples.size(); ++i) {
    try {
      size_t pictures = 0;
      const Example example = examples.texts(i, &pictures);
      if (pictures > 0) check_takes_pictures(config_);
      const std::vector<int64_t> image_tokens(pictures, 1);
      if (!example.conversation.empty()) {
        conversation(example.conversation, image_tokens);
        if (wrong) rejected(example, image_tokens);
      }
      for (const QuestionAnswer& turn : example.turns) {
        question(turn, turn.answer, image_tokens);
        if (wrong) question(turn, wrong_answer(turn), image_tokens);
      }
    } catch (const Error& error) {
      fail("{}: {}", file, error.what());
    }
  }
}

void ConversationTokenizer::fail_without_wrong_answer(const std::string& question) const {
  fail(
      "{}: the loss compares answers, but the question '{}' has no wrong answer; expected a key "
      "'rejected' in the data, or 'wrong_answers' in the recipe's source",
      where_, question);
}

}  // namespace reprise
