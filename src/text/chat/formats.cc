#include "text/chat/formats.h"

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
ChatFormat traversal_release(std::string name, const std::string& role_open,
                             const std::string& role_close, const std::string& turn_end) {
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

ChatFormat with_image_tag(ChatFormat f) {
  f.image_placeholder = "<image>";
  f.image_after = "\n";
  return f;
}

ChatFormat with_img_tags(ChatFormat f) {
  f.image_before = "<img>";
  f.image_placeholder = "<IMG_CONTEXT>";
  f.image_after = "</img>\n";
  return f;
}

// Phantom: no begin token, no system text, nothing between turns. The release puts a literal
// "<image>" in front of a question without a picture; that is left out here.
ChatFormat bare_turns(ChatFormat f, std::string name, const std::string& turn_end) {
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

}  // namespace

const std::vector<ChatFormat>& chat_formats() {
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
      with_image_tag(
          traversal_release("trol-internlm2", "[UNUSED_TOKEN_146]", "", "[UNUSED_TOKEN_145]")),
      with_img_tags(traversal_release("trol-phi3", "<|", "|>", "<|end|>")),
      bare_turns(chatml("", ""), "phantom-internlm2", "<|im_end|>"),
      bare_turns(chatml("", ""), "phantom-qwen2", "<|im_end|>"),
      bare_turns(phi3(), "phantom-phi3", "<|end|>"),
      chatml_image(),
      plain_qa(),
  };
  return formats;
}

}  // namespace reprise
