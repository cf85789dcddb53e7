#include "engine/model_text.h"

#include "model/scheme_type.h"

namespace reprise {

std::optional<ChatFormat> find_chat_format(const std::string& named, const ModelConfig& config,
                                           const Tokenizer* tokenizer, const std::string& where) {
  if (!named.empty()) return chat_format(named);
  if (!config.chat_format.empty()) return chat_format(config.chat_format);
  if (const std::string release = release_chat_format(config.source); !release.empty())
    return chat_format(release);
  if (tokenizer == nullptr || !tokenizer->chat_template()) return std::nullopt;
  const auto text = [&](std::optional<int32_t> id) {
    return id ? std::string(tokenizer->token_bytes(*id)) : std::string();
  };
  const SpecialIds& ids = tokenizer->ids();
  return recognize_chat_format(*tokenizer->chat_template(), text(ids.bos), text(ids.eos),
                               where + ": chat template");
}

bool leaves_image_token_open(const ModelConfig& config) {
  return config.vision && config.image_token < 0;
}

std::optional<int32_t> image_token_by_tokenizer(const ModelConfig& config,
                                                const Tokenizer& tokenizer) {
  const std::string release = release_chat_format(config.source);
  if (!leaves_image_token_open(config) || release.empty()) return std::nullopt;
  return tokenizer.find(chat_format(release).image_placeholder);
}

}  // namespace reprise
