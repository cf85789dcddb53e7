// What an engine reads of a model's text side: tokenizer, chat format, tokens with a role.
#include <algorithm>

#include "engine/loaded_model.h"
#include "engine/model_text.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

const Tokenizer& LoadedModel::tokenizer() {
  if (tokenizer_ == nullptr) {
    const ModelFiles& files = model_->files();
    // Our own GGUF files carry the folder's files whole; those of llama.cpp have keys for parts.
    tokenizer_ = files.gguf ? tokenizer_from_gguf_or_files(files.gguf->metadata)
                            : tokenizer_from_files(tokenizer_files_from_folder(files.path));
  }
  return *tokenizer_;
}

void LoadedModel::find_image_token() {
  const ModelFiles& files = model_->files();
  // A folder without a tokenizer can still be inspected and run on text; pictures are refused at
  // use.
  if (!leaves_image_token_open(config()) || (files.folder && !files.folder->has_vocabulary()))
    return;
  if (const auto id = image_token_by_tokenizer(config(), tokenizer())) model_->set_image_token(*id);
}

const ChatFormat* LoadedModel::chat_format() {
  if (!chat_read_) {
    const ModelFiles& files = model_->files();
    // Without a tokenizer there is no template either.
    const bool has_tokenizer = !files.folder || files.folder->has_vocabulary();
    chat_ = find_chat_format(options_.chat_template, config(),
                             has_tokenizer ? &tokenizer() : nullptr, options_.model.string());
    chat_read_ = true;
  }
  return chat_ ? &*chat_ : nullptr;
}

std::vector<int32_t> LoadedModel::end_tokens() {
  std::vector<int32_t> tokens;
  for (const int64_t id : config().eos_tokens) tokens.push_back(static_cast<int32_t>(id));
  if (const auto eos = tokenizer().ids().eos) tokens.push_back(*eos);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

std::optional<int32_t> LoadedModel::added_bos() {
  const std::vector<int32_t> added = tokenizer().encode("", {.add_special = true});
  const std::optional<int32_t> bos = tokenizer().ids().bos;
  if (bos && !added.empty() && added[0] == *bos) return bos;
  return std::nullopt;
}

}  // namespace reprise
