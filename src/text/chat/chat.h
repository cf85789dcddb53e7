// Chat formats: how a conversation becomes the text a model was trained on. A table of named
// formats; a model's own Jinja template is never run, only recognised as one of them, and one that
// is not is an Error, never a guess (chat_template.cc says how).
//
// Names: chatml, smollm2, qwen2, qwen2.5 (chatml with their default system texts), llama3, phi3,
// zephyr, gemma, mistral-instruct; trol-internlm2, trol-phi3, phantom-internlm2, phantom-qwen2,
// phantom-phi3 (the "demo" prompts of the two official code releases); chatml-image (chatml with
// pictures, for models built here around a language model); plain-qa (Reprise's own tiny models:
// question, newline, answer, newline).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace reprise {

struct ChatMessage {
  std::string role;  // system (only first), user or assistant
  std::string content;
  int images = 0;  // pictures of a user message; they stand before its text
};

// In all strings "{bos}" and "{eos}" stand for the two fields of these names.
struct ChatFormat {
  std::string name;
  std::string begin;  // once, before everything
  std::string system_start, system_end;
  std::string user_start, user_end;
  std::string assistant_start, assistant_end;
  std::string generation;      // what asks the model to answer
  std::string end;             // closes a conversation that does not ask for an answer
  std::string default_system;  // used when no system message is given; empty: none is written
  bool has_system = true;
  bool strict_turns = false;       // user, assistant, user, ... from the first message on
  bool trim = false;               // white space around contents is removed
  bool skip_empty_system = false;  // an empty system message is not written at all
  bool has_images = false;
  std::string image_before, image_placeholder, image_after;  // placeholder: one token's text
  std::vector<std::string> stops;  // an answer ends before the first of these
  std::string bos = "<s>", eos = "</s>";

  // `stops` with {bos} and {eos} filled in.
  std::vector<std::string> stop_strings() const;
};

// A part of a prompt: text, or a place for image tokens.
struct PromptPart {
  std::string text;
  int image = -1;            // index among all images of the conversation, -1: this is text
  int64_t image_tokens = 0;  // how often ChatFormat::image_placeholder stands here
  bool answer = false;       // set by render_answers only
  bool operator==(const PromptPart&) const = default;
};

std::vector<std::string> chat_format_names();
// Throws Error naming --chat-template and listing the known names.
const ChatFormat& chat_format(std::string_view name);

// The format of a model's own template (tokenizer_config.json "chat_template", GGUF
// "tokenizer.chat_template"), with the model's own BOS and EOS texts where the template uses them.
// `where` names file and key in the Error, which also names --chat-template and the known names.
ChatFormat recognize_chat_format(const std::string& jinja, const std::string& bos,
                                 const std::string& eos, const std::string& where);

// The prompt, to be encoded with add_special = false (a BOS token is written out where the format
// has one) and parse_special = true. image_tokens[i] is the number of tokens of image i; its size
// must be the number of images in all messages. Neighbouring texts are one part, so that they are
// tokenized as one. Throws Error for an unknown role, a system message that is not first or that
// the format has no place for, images likewise, and turns in an order it does not allow.
std::vector<PromptPart> render_chat(const ChatFormat& format, std::span<const ChatMessage> messages,
                                    std::span<const int64_t> image_tokens,
                                    bool add_generation_prompt = true);

// A whole conversation as a model is trained on it: what an assistant message says, up to and with
// the text that ends its turn, is a part of its own with `answer` set; nothing follows the last
// message. Otherwise as above.
std::vector<PromptPart> render_answers(const ChatFormat& format,
                                       std::span<const ChatMessage> messages,
                                       std::span<const int64_t> image_tokens);

}  // namespace reprise
