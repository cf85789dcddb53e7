// Gemma 2: Gemma 1 with norms behind attention and MLP too, windows on every other layer, capped
// scores and logits. Keys and defaults: Gemma2Config of transformers. GGUF files hold 1 + weight; what
// they leave out is what llama.cpp means by that.
#include "base/json.h"
#include "model/arch/gemma_parts.h"

namespace reprise::arch {
namespace {

constexpr int64_t kPattern = 2;

void read(const DecoderKeys& keys, TextConfig& text) {
  read_gemma_blocks(keys, {.pattern = kPattern, .score_cap = 50, .logit_cap = 30}, text);
}

void complete(Json& json) {
  constexpr int64_t kLargest = 46, kWindow = 4096;
  if (!json.contains("sliding_window")) json["sliding_window"] = kWindow;
  complete_gemma(json, kPattern, kLargest);
}

}  // namespace

Architecture gemma2() {
  return {.name = "Gemma2ForCausalLM",
          .model_type = "gemma2",
          .defaults = {.kv_heads = 4,
                       .head_dim = 256,
                       .activation = "gelu_pytorch_tanh",
                       .max_position = 8192,
                       .tied_head = true},
          .rope = {},
          .gguf = {.name = "gemma2",
                   .norm_offset_added = true,
                   .optional_biases = true,
                   .keys = {kScoreCap, kLogitCap},
                   .complete = complete,
                   .to_folder = gemma_to_folder},
          .own_keys = {kGemmaScale, kScoreCap, kLogitCap},
          .names = &gemma_names(),
          .read = read};
}

}  // namespace reprise::arch
