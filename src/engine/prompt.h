// From a conversation or a plain text, with pictures, to what the model takes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/images.h"
#include "engine/loaded_model.h"
#include "engine/picture.h"
#include "engine/session.h"

namespace reprise {

// One message of a conversation.
struct ChatTurn {
  std::string role;  // "system", "user", "assistant"
  std::string text;
  std::vector<Picture> images;  // shown with this message
};

struct Prompt {
  TokenPrompt tokens;
  int64_t tiles = 0;               // of all pictures
  double vision_seconds = 0;       // spent on pictures that were not in the cache
  std::vector<std::string> stops;  // strings that end an answer in the chat format
};

class PromptBuilder {
 public:
  // The model must outlive it.
  // The latest encodings of pictures are kept, a few or so many bytes of them.
  explicit PromptBuilder(LoadedModel& loaded, int64_t keep_bytes = 0)
      : loaded_(loaded), encoder_(loaded.model(), keep_bytes) {}

  // The conversation in the model's chat format, up to where the assistant's next answer begins.
  // Throws Error when the model has no chat format, a picture can't be decoded, or the model doesn't
  // take as many pictures.
  Prompt chat(const std::vector<ChatTurn>& turns, const PictureOptions& options = {});

  // Plain text, a beginning-of-text token in front where the model adds one. Each "<image>" in the
  // text is the place of a picture; without any, pictures go in front. Special tokens written out
  // are recognised.
  Prompt raw(std::string_view text, const std::vector<Picture>& images,
             const PictureOptions& options = {});

 private:
  std::vector<std::shared_ptr<const EncodedImage>> encode(const std::vector<Picture>& images,
                                                          const PictureOptions& options,
                                                          Prompt& prompt);

  LoadedModel& loaded_;
  ImageEncoder encoder_;
};

}  // namespace reprise
