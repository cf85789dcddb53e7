// Inputs of a forward pass from a file: token ids and, where there are any, pixels. What traces and
// comparisons of models run on.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/session.h"
#include "formats/safetensors.h"

namespace reprise {

struct TokenInputs {
  std::string where;
  std::vector<int32_t> ids;          // [n]
  std::optional<TensorView> pixels;  // pixel_values F32 [tiles, 3, H, W], normalised
  // Initial states F32 [n, d] of the ids and [m, d] of the tokens that follow; with or without a
  // leading 1.
  std::optional<TensorView> states, decode_states;
  std::optional<TensorView> bytes;  // or pixel_u8 U8 [tiles, 3, H, W], before normalisation
};

// Reads `input_ids` int64 [n] or [1, n] (or `prompt`, as the recursive golden data calls it) and
// the pixels. An `attention_mask` must be all ones. Throws Error naming file and tensor.
TokenInputs read_token_inputs(const std::filesystem::path& path);

// Where the initial states of a trace come from: the file's, and zeros where it has none; with
// `drawn` (somebody asked how) draws instead. steps: tokens to generate. Throws Error naming file and
// tensor where the model has none, or their shape doesn't fit.
std::shared_ptr<const InitialStates> initial_states(const Model& model, const Plan& plan,
                                                    const TokenInputs& inputs, int64_t steps,
                                                    bool drawn);

// The inputs as the prompt that a session takes. Encodes the pixels, which the observer (or null)
// sees. Throws Error where they or the placeholders don't fit the model.
TokenPrompt token_prompt(LoadedModel& loaded, const TokenInputs& inputs,
                         Observer* observer = nullptr);

}  // namespace reprise
