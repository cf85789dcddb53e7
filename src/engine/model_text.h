// What a model's files leave open about its text: the chat format, the picture's placeholder. Asked
// by whoever answers (loaded_model.h) and whoever trains.
#pragma once

#include <optional>
#include <string>

#include "model/config/config.h"
#include "text/chat/chat.h"
#include "text/tokenizer/tokenizer.h"

namespace reprise {

// The format `named` by the user; else the config's, the one that an official release keeps in
// code, or the tokenizer's own template, recognised. nullopt where there is none of them; tokenizer
// may be null. Throws Error beginning with `where`, or naming --chat-template, for one that isn't
// known.
std::optional<ChatFormat> find_chat_format(const std::string& named, const ModelConfig& config,
                                           const Tokenizer* tokenizer, const std::string& where);

// Whether pictures are taken, but the config doesn't say which token is their place.
bool leaves_image_token_open(const ModelConfig& config);
// Then the token that an official release's prompts use for it; nullopt for other models, and where
// the tokenizer has no such token.
std::optional<int32_t> image_token_by_tokenizer(const ModelConfig& config,
                                                const Tokenizer& tokenizer);

}  // namespace reprise
