// What an engine reads of a model's text side: tokenizer, chat format, tokens with a role.
#include <algorithm>

#include "engine/engine.h"
#include "text/tokenizer_files.h"

namespace reprise {

const Tokenizer& Engine::tokenizer() {
  if (tokenizer_ == nullptr) {
    const ModelFiles& files = model_->files();
    // Our own GGUF files carry the folder's files whole; those of llama.cpp have keys for parts.
    tokenizer_ = files.gguf ? tokenizer_from_gguf_or_files(files.gguf->metadata)
                            : tokenizer_from_files(tokenizer_files_from_folder(files.path));
  }
  return *tokenizer_;
}

// Where the config leaves the image placeholder's id to the tokenizer. A folder without one can
// still be inspected and run on text; pictures are refused at use.
void Engine::find_image_token() {
  const ModelFiles& files = model_->files();
  if (!config().vision || config().image_token >= 0) return;
  if (files.folder && !files.folder->has_vocabulary()) return;
  const std::string release = release_chat_format(config().source);
  if (release.empty()) return;
  if (const auto id = tokenizer().find(reprise::chat_format(release).image_placeholder))
    model_->set_image_token(*id);
}

const ChatFormat* Engine::chat_format() {
  if (!chat_read_) {
    const ModelConfig& model = config();
    if (!options_.chat_template.empty()) {
      chat_ = reprise::chat_format(options_.chat_template);
    } else if (!model.chat_format.empty()) {
      chat_ = reprise::chat_format(model.chat_format);
    } else if (const std::string release = release_chat_format(model.source); !release.empty()) {
      chat_ = reprise::chat_format(release);
    } else if (const auto& files = model_->files();
               files.folder && !files.folder->has_vocabulary()) {
      // no tokenizer, so no template either
    } else if (const auto& jinja = tokenizer().chat_template()) {
      const auto text = [&](std::optional<int32_t> id) {
        return id ? std::string(tokenizer().token_bytes(*id)) : std::string();
      };
      const SpecialIds& ids = tokenizer().ids();
      chat_ = recognize_chat_format(*jinja, text(ids.bos), text(ids.eos),
                                    options_.model.string() + ": chat template");
    }
    chat_read_ = true;
  }
  return chat_ ? &*chat_ : nullptr;
}

std::vector<int32_t> Engine::end_tokens() {
  std::vector<int32_t> tokens;
  for (const int64_t id : config().eos_tokens) tokens.push_back(static_cast<int32_t>(id));
  if (const auto eos = tokenizer().ids().eos) tokens.push_back(*eos);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

std::optional<int32_t> Engine::added_bos() {
  const std::vector<int32_t> added = tokenizer().encode("", {.add_special = true});
  const std::optional<int32_t> bos = tokenizer().ids().bos;
  if (bos && !added.empty() && added[0] == *bos) return bos;
  return std::nullopt;
}

}  // namespace reprise
