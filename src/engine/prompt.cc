#include "engine/prompt.h"

#include <algorithm>

namespace reprise {

namespace {

constexpr std::string_view kRawImage = "<image>";  // place of a picture in plain text

// Puts a prompt together, part by part.
class Assembler {
 public:
  explicit Assembler(LoadedModel& loaded) : loaded_(loaded) {}

  void token(int32_t id) { prompt_.tokens.ids.push_back(id); }
  void text(std::string_view text) {
    if (text.empty()) return;
    const std::vector<int32_t> ids =
        loaded_.tokenizer().encode(text, {.continues = !rows_.empty()});
    prompt_.tokens.ids.insert(prompt_.tokens.ids.end(), ids.begin(), ids.end());
  }
  void image(const EncodedImage& image) {
    const auto count = static_cast<size_t>(image.rows.dim(0));
    prompt_.tokens.ids.insert(prompt_.tokens.ids.end(), count,
                              static_cast<int32_t>(loaded_.config().image_token));
    rows_.push_back(image.rows);
    const int64_t end = prompt_.tokens.size();
    prompt_.tokens.pictures.push_back({image.key, end - image.rows.dim(0), end});
  }
  Prompt finish() {
    if (rows_.size() == 1) prompt_.tokens.image_rows = rows_[0];
    if (rows_.size() > 1) prompt_.tokens.image_rows = loaded_.backend().concat(rows_, 0);
    mark_placeholders(loaded_.config(), prompt_.tokens, loaded_.config().where);
    return std::move(prompt_);
  }
  Prompt& prompt() { return prompt_; }

 private:
  LoadedModel& loaded_;
  Prompt prompt_;
  std::vector<Tensor> rows_;  // [tokens, d] each
};

}  // namespace

std::vector<std::shared_ptr<const EncodedImage>> PromptBuilder::encode(
    const std::vector<Picture>& images, const PictureOptions& options, Prompt& prompt) {
  std::vector<std::shared_ptr<const EncodedImage>> encoded;
  encoder_.keep_at_least(images.size());
  for (const Picture& picture : images) {
    double seconds = 0;
    encoded.push_back(encoder_.encode(picture, options, &seconds));
    prompt.vision_seconds += seconds;
    prompt.tiles += encoded.back()->tiles;
  }
  return encoded;
}

Prompt PromptBuilder::chat(const std::vector<ChatTurn>& turns, const PictureOptions& options) {
  const ChatFormat* format = loaded_.chat_format();
  if (format == nullptr) {
    fail(
        "{}: the model has no chat format; use plain completion (--raw) or name one with "
        "--chat-template",
        loaded_.config().where);
  }
  std::vector<ChatMessage> messages;
  std::vector<Picture> images;
  for (const ChatTurn& turn : turns) {
    messages.push_back({turn.role, turn.text, static_cast<int>(turn.images.size())});
    images.insert(images.end(), turn.images.begin(), turn.images.end());
  }
  Assembler assembler(loaded_);
  const auto encoded = encode(images, options, assembler.prompt());
  std::vector<int64_t> image_tokens;
  for (const auto& image : encoded) image_tokens.push_back(image->rows.dim(0));
  for (const PromptPart& part : render_chat(*format, messages, image_tokens)) {
    if (part.image < 0) {
      assembler.text(part.text);
    } else {
      assembler.image(*encoded[static_cast<size_t>(part.image)]);
    }
  }
  Prompt prompt = assembler.finish();
  prompt.stops = format->stop_strings();
  return prompt;
}

Prompt PromptBuilder::raw(std::string_view text, const std::vector<Picture>& images,
                          const PictureOptions& options) {
  Assembler assembler(loaded_);
  const auto encoded = encode(images, options, assembler.prompt());
  if (const auto bos = loaded_.added_bos()) assembler.token(*bos);
  size_t used = 0;
  if (text.find(kRawImage) == std::string_view::npos) {
    for (; used < encoded.size(); ++used) assembler.image(*encoded[used]);
  }
  while (used < encoded.size()) {
    const size_t at = text.find(kRawImage);
    if (at == std::string_view::npos) {
      fail("the prompt has {} times '{}' for {} pictures", used, kRawImage, encoded.size());
    }
    assembler.text(text.substr(0, at));
    assembler.image(*encoded[used++]);
    text.remove_prefix(at + kRawImage.size());
  }
  assembler.text(text);
  return assembler.finish();
}

}  // namespace reprise
