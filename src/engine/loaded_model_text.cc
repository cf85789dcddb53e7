// What a loaded model reads of a model's text side: tokenizer, chat format, tokens with a role.
#include <algorithm>

#include "engine/loaded_model.h"
#include "engine/model_text.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {

const Tokenizer& LoadedModel::tokenizer() {
  if (tokenizer_ == nullptr) tokenizer_ = tokenizer_of(model_->source());
  return *tokenizer_;
}

void LoadedModel::find_image_token() {
  // A model without a tokenizer can still be inspected and run on token ids; pictures are refused
  // at use.
  if (!leaves_image_token_open(config()) || !has_tokenizer(model_->source())) return;
  if (const auto id = image_token_by_tokenizer(config(), tokenizer())) model_->set_image_token(*id);
}

const ChatFormat* LoadedModel::chat_format() {
  if (!chat_read_) {
    // Without a tokenizer there is no template either.
    const Tokenizer* own = has_tokenizer(model_->source()) ? &tokenizer() : nullptr;
    chat_ = find_chat_format(options_.chat_template, config(), own, options_.model.string());
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

std::vector<int32_t> LoadedModel::text_tokens(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  std::vector<int32_t> tokens = tokenizer().encode(text, {.parse_special = false});
  if (const auto bos = added_bos()) tokens.insert(tokens.begin(), *bos);
  return tokens;
}

}  // namespace reprise
