#include "text/chat/chat.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

ChatFormat chatml(std::string name, std::string default_system) {
  ChatFormat f;
  f.name = std::move(name);
  f.system_start = "<|im_start|>system\n";
  f.user_start = "<|im_start|>user\n";
  f.assistant_start = f.generation = "<|im_start|>assistant\n";
  f.system_end = f.user_end = f.assistant_end = "<|im_end|>\n";
  f.default_system = std::move(default_system);
  f.stops = {"<|im_end|>"};
  return f;
}

ChatFormat llama3() {
  ChatFormat f;
  f.name = "llama3";
  f.begin = "{bos}";
  f.system_start = "<|start_header_id|>system<|end_header_id|>\n\n";
  f.user_start = "<|start_header_id|>user<|end_header_id|>\n\n";
  f.assistant_start = f.generation = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  f.system_end = f.user_end = f.assistant_end = "<|eot_id|>";
  f.trim = true;
  f.stops = {"<|eot_id|>"};
  f.bos = "<|begin_of_text|>";
  f.eos = "<|eot_id|>";
  return f;
}

ChatFormat phi3() {
  ChatFormat f;
  f.name = "phi3";
  f.system_start = "<|system|>\n";
  f.user_start = "<|user|>\n";
  f.assistant_start = f.generation = "<|assistant|>\n";
  f.system_end = f.user_end = f.assistant_end = "<|end|>\n";
  f.end = "{eos}";
  f.skip_empty_system = true;
  f.stops = {"<|end|>"};
  f.eos = "<|endoftext|>";
  return f;
}

ChatFormat zephyr() {
  ChatFormat f;
  f.name = "zephyr";
  f.system_start = "<|system|>\n";
  f.user_start = "<|user|>\n";
  f.assistant_start = f.generation = "<|assistant|>\n";
  f.system_end = f.user_end = f.assistant_end = "{eos}\n";
  f.stops = {"{eos}"};
  return f;
}

ChatFormat gemma() {
  ChatFormat f;
  f.name = "gemma";
  f.begin = "{bos}";
  f.user_start = "<start_of_turn>user\n";
  f.assistant_start = f.generation = "<start_of_turn>model\n";
  f.user_end = f.assistant_end = "<end_of_turn>\n";
  f.has_system = false;
  f.strict_turns = true;
  f.trim = true;
  f.stops = {"<end_of_turn>"};
  f.bos = "<bos>";
  f.eos = "<eos>";
  return f;
}

ChatFormat mistral_instruct() {
  ChatFormat f;
  f.name = "mistral-instruct";
  f.begin = "{bos}";
  f.user_start = "[INST] ";
  f.user_end = " [/INST]";
  f.assistant_end = "{eos}";
  f.has_system = false;
  f.strict_turns = true;
  f.stops = {"{eos}"};
  return f;
}

// TroL: <s> and the system text always stand in front, turns are separated by newlines. The text
// after an assistant's answer is the release's own for training; it has no multi-turn prompts.
ChatFormat trol(std::string name, const std::string& role_open, const std::string& role_close,
                const std::string& turn_end) {
  ChatFormat f;
  f.name = std::move(name);
  f.begin = "{bos}";
  f.system_start = role_open + "system" + role_close + "\n";
  f.user_start = role_open + "user" + role_close + "\n";
  f.assistant_start = f.generation = role_open + "assistant" + role_close + "\n";
  f.system_end = f.user_end = turn_end + "\n";
  f.assistant_end = turn_end + "\n{eos}\n";
  f.default_system =
      "You are AI model created by Byung-Kwan Lee, Ph.D. candidate, KAIST EE, of which AI model "
      "name is TroL (Traversal of Layers). You must give helpful, detailed, and polite answers to "
      "the user's questions";
  f.has_images = true;
  f.stops = {turn_end};
  return f;
}

ChatFormat trol_internlm2() {
  ChatFormat f = trol("trol-internlm2", "[UNUSED_TOKEN_146]", "", "[UNUSED_TOKEN_145]");
  f.image_placeholder = "<image>";
  f.image_after = "\n";
  return f;
}

ChatFormat trol_phi3() {
  ChatFormat f = trol("trol-phi3", "<|", "|>", "<|end|>");
  f.image_before = "<img>";
  f.image_placeholder = "<IMG_CONTEXT>";
  f.image_after = "</img>\n";
  return f;
}

// Phantom: no begin token, no system text, nothing between turns. The release puts a literal
// "<image>" in front of a question without a picture; that is left out here.
ChatFormat phantom(ChatFormat f, std::string name, const std::string& turn_end) {
  f.name = std::move(name);
  f.end.clear();
  f.system_end = f.user_end = f.assistant_end = turn_end;
  f.skip_empty_system = false;
  f.has_images = true;
  f.image_before = "<img>";
  f.image_placeholder = "<IMG_CONTEXT>";
  f.image_after = "</img>";
  return f;
}

// ChatML without a system text and with pictures in front of a user's text: our own, for models
// built around a language model that was trained on ChatML.
ChatFormat chatml_image() {
  ChatFormat f = chatml("chatml-image", "");
  f.has_images = true;
  f.image_placeholder = "<image>";
  f.image_after = "\n";
  return f;
}

ChatFormat plain_qa() {
  ChatFormat f;
  f.name = "plain-qa";
  f.user_end = f.assistant_end = "\n";
  f.has_system = false;
  f.has_images = true;
  f.image_placeholder = "<image>";
  f.stops = {"\n"};
  return f;
}

const std::vector<ChatFormat>& table() {
  static const std::vector<ChatFormat> formats = {
      chatml("chatml", ""),
      chatml("smollm2", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
      chatml("qwen2", "You are a helpful assistant."),
      chatml("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
      llama3(),
      phi3(),
      zephyr(),
      gemma(),
      mistral_instruct(),
      trol_internlm2(),
      trol_phi3(),
      phantom(chatml("", ""), "phantom-internlm2", "<|im_end|>"),
      phantom(chatml("", ""), "phantom-qwen2", "<|im_end|>"),
      phantom(phi3(), "phantom-phi3", "<|end|>"),
      chatml_image(),
      plain_qa(),
  };
  return formats;
}

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
  for (const ChatFormat& format : table()) names.push_back(format.name);
  return names;
}

const ChatFormat& chat_format(std::string_view name) {
  for (const ChatFormat& format : table())
    if (format.name == name) return format;
  fail("--chat-template: unknown chat format '{}', known are {}", name,
       fmt::join(chat_format_names(), ", "));
}

std::string release_chat_format(const Json& config) {
  if (!config.is_object()) return "";
  const auto text = [](const Json& object, const char* key) {
    const auto it = object.find(key);
    return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
  };
  std::string release = text(config, "model_type");
  if (const auto names = config.find("architectures");
      names != config.end() && names->is_array() && !names->empty()) {
    if (names->front() == "TroLForCausalLM") release = "trol";
    if (names->front() == "PhantomForCausalLM") release = "phantom";
  }
  if (release != "trol" && release != "phantom") return "";
  const auto llm = config.find("llm_config");
  const bool nested = llm != config.end() && llm->is_object();
  std::string backbone = text(nested ? *llm : config, "model_type");
  if (backbone == "internlm") backbone = "internlm2";
  std::string name = fmt::format("{}-{}", release, backbone);
  const std::vector<std::string> names = chat_format_names();
  return std::find(names.begin(), names.end(), name) != names.end() ? name : "";
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
