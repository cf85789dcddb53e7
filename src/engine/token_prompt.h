// A prompt at the level of token ids: what sessions and the scheduler run.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/picture.h"
#include "model/model.h"

namespace reprise {

// Where a picture's placeholders lie in a prompt's ids.
struct PromptPicture {
  PictureKey key;
  int64_t begin = 0, end = 0;  // ids[begin, end)
  bool operator==(const PromptPicture&) const = default;
};

// A prompt as the model takes it.
struct TokenPrompt {
  std::vector<int32_t> ids;
  std::vector<uint8_t> is_image;  // [ids]: 1 at image placeholders; empty where there are none
  Tensor image_rows;              // [placeholders, d] in the order of the placeholders; or none
  // In the order of the prompt. Placeholders of none of them are of a picture that isn't known: it
  // is equal to no other.
  std::vector<PromptPicture> pictures;
  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// How many tokens two prompts begin with in common, the pictures behind placeholders included: to
// the first other id, or to where a picture begins that is another or isn't known.
int64_t common_tokens(const TokenPrompt& a, const TokenPrompt& b);

// Throws Error when the prompt is empty or its placeholders don't match its image rows.
void check_prompt(const TokenPrompt& prompt);
// What goes into the first block for tokens [begin, end): [end - begin, d], image rows in place.
Tensor embed_prompt(const Model& model, const TokenPrompt& prompt, int64_t begin, int64_t end);

}  // namespace reprise
