// Parts of config.json that releases of vision-language models share: a decoder's own config inside
// ("llm_config"), a vision tower, and what they leave to their code. Each release's reader
// (SchemeRelease::read) puts them together.
#pragma once

#include <string>

#include "model/config/config.h"

namespace reprise {

// "llm_config" where it is there, else the whole: the part that names the decoder's architecture.
const Json& decoder_part(const Json& config);
// The value of a key where it is a string; else "".
std::string string_or_empty(const Json& object, const char* key);
// Whether "architectures" is just this name.
bool has_architecture(const Json& config, const char* name);

// Reads "llm_config", "vision_config" and "downsample_ratio" of an InternViT tower in front of a
// decoder, as InternVL writes them: tensors named "language_model.*", pictures in tiles, a stored
// head that counts whatever tie_word_embeddings says. The placeholder is left to the caller. `hint`
// ends the message where there is no "llm_config".
void read_wrapped_decoder(const JsonObject& json, ModelConfig& config, const char* hint = "");

// One square of that many pixels a side, with the mean and the deviation of OpenAI's CLIP.
ImageConfig clip_image(int size);

// The preset of read_wrapped_decoder's tiles.
inline constexpr const char* kTilesPreset =
    "official tiles: 1 to 6 and a thumbnail, ImageNet mean and std";

}  // namespace reprise
