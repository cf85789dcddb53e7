#include "text/chat/chat.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "text/chat/formats.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

void replace_all(std::string& text, std::string_view from, const std::string& to) {
  for (size_t i = 0; (i = text.find(from, i)) != std::string::npos; i += to.size())
    text.replace(i, from.size(), to);
}

std::string fill(const ChatFormat& format, std::string text) {
  replace_all(text, "{bos}", format.bos);
  replace_all(text, "{eos}", format.eos);
  return text;
}

// As Python's str.strip(): White_Space and the four ASCII separators.
std::string_view strip(std::string_view text) {
  const auto is_space = [](char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); };
  size_t begin = text.size(), end = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = first_char(text.substr(i, 4));
    if (!is_space(c.code_point)) {
      begin = std::min(begin, i);
      end = i + c.length;
    }
    i += c.length;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

class Renderer {
 public:
  Renderer(const ChatFormat& format, std::span<const int64_t> image_tokens)
      : format_(format), image_tokens_(image_tokens) {}

  void literal(const std::string& text) { append(fill(format_, text)); }
  void content(std::string_view text) { append(format_.trim ? strip(text) : text); }
  void images(int count) {
    for (int i = 0; i < count; ++i) {
      literal(format_.image_before);
      parts_.push_back({"", next_image_, image_tokens_[static_cast<size_t>(next_image_)]});
      ++next_image_;
      literal(format_.image_after);
    }
  }
  // Text from here on is part of an answer, or no longer.
  void set_answer(bool answer) { answer_ = answer; }
  std::vector<PromptPart> take() { return std::move(parts_); }

 private:
  void append(std::string_view text) {
    if (text.empty()) return;
    if (parts_.empty() || parts_.back().image >= 0 || parts_.back().answer != answer_)
      parts_.push_back({"", -1, 0, answer_});
    parts_.back().text += text;
  }
  const ChatFormat& format_;
  std::span<const int64_t> image_tokens_;
  int next_image_ = 0;
  bool answer_ = false;
  std::vector<PromptPart> parts_;
};

void check_messages(const ChatFormat& format, std::span<const ChatMessage> messages,
                    std::span<const int64_t> image_tokens) {
  if (messages.empty()) fail("a conversation needs at least one message, found none");
  int64_t images = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const std::string& role = message.role;
    if (role != "system" && role != "user" && role != "assistant")
      fail("message {}: expected role 'system', 'user' or 'assistant', found '{}'", i, role);
    if (role == "system" && !format.has_system)
      fail("message {}: chat format '{}' has no place for a system message", i, format.name);
    if (role == "system" && i > 0)
      fail("message {}: a system message is only possible as the first", i);
    if (format.strict_turns && role != (i % 2 == 0 ? "user" : "assistant"))
      fail("message {}: chat format '{}' wants user and assistant in turn, found '{}'", i,
           format.name, role);
    if (message.images < 0 || (message.images > 0 && role != "user"))
      fail("message {}: expected images in user messages only, found {} in one of '{}'", i,
           message.images, role);
    if (message.images > 0 && !format.has_images)
      fail("message {}: chat format '{}' has no place for images", i, format.name);
    images += message.images;
  }
  if (images != static_cast<int64_t>(image_tokens.size()))
    fail("the messages have {} images, but token counts for {} are given", images,
         image_tokens.size());
}

void render_messages(const ChatFormat& format, std::span<const ChatMessage> messages,
                     bool mark_answers, Renderer& out) {
  out.literal(format.begin);
  if (messages[0].role != "system" && !format.default_system.empty()) {
    out.literal(format.system_start);
    out.content(format.default_system);
    out.literal(format.system_end);
  }
  for (const ChatMessage& message : messages) {
    if (message.role == "system") {
      if (format.skip_empty_system && message.content.empty()) continue;
      out.literal(format.system_start);
      out.content(message.content);
      out.literal(format.system_end);
    } else if (message.role == "user") {
      out.literal(format.user_start);
      out.images(message.images);
      out.content(message.content);
      out.literal(format.user_end);
    } else {
      out.literal(format.assistant_start);
      out.set_answer(mark_answers);
      out.content(message.content);
      out.literal(format.assistant_end);
      out.set_answer(false);
    }
  }
}

}  // namespace

std::vector<std::string> ChatFormat::stop_strings() const {
  std::vector<std::string> filled;
  for (const std::string& stop : stops) filled.push_back(fill(*this, stop));
  return filled;
}

std::vector<std::string> chat_format_names() {
  std::vector<std::string> names;
  for (const ChatFormat& format : chat_formats()) names.push_back(format.name);
  return names;
}

const ChatFormat& chat_format(std::string_view name) {
  for (const ChatFormat& format : chat_formats())
    if (format.name == name) return format;
  fail("--chat-template: unknown chat format '{}', known are {}", name,
       fmt::join(chat_format_names(), ", "));
}

std::vector<PromptPart> render_chat(const ChatFormat& format, std::span<const ChatMessage> messages,
                                    std::span<const int64_t> image_tokens,
                                    bool add_generation_prompt) {
  check_messages(format, messages, image_tokens);
  Renderer out(format, image_tokens);
  render_messages(format, messages, /*mark_answers=*/false, out);
  out.literal(add_generation_prompt ? format.generation : format.end);
  return out.take();
}

std::vector<PromptPart> render_answers(const ChatFormat& format,
                                       std::span<const ChatMessage> messages,
                                       std::span<const int64_t> image_tokens) {
  check_messages(format, messages, image_tokens);
  Renderer out(format, image_tokens);
  render_messages(format, messages, /*mark_answers=*/true, out);
  return out.take();
}

}  // namespace reprise
