// Gemma 3, its text models: Gemma 2 with norms over each head of q and k, windows on five layers of
// six, which have a rope of their own, no cap of scores (its code reads the key and forgets it) and
// one of logits where asked for. Keys and defaults: Gemma3TextConfig of transformers 5. GGUF files hold 1 + weight; what they leave out is what
// llama.cpp means by that.
#include "base/json.h"
#include "base/json_object.h"
#include "model/arch/gemma_parts.h"
#include "model/config/config_parts.h"

namespace reprise::arch {
namespace {

constexpr int64_t kPattern = 6;
constexpr const char* kPatternKey = "sliding_window_pattern";

void read(const DecoderKeys& keys, TextConfig& text) {
  const int64_t pattern = keys.json.has(kPatternKey)
                              ? keys.json.get_int(kPatternKey, 1, kMostLayers)
                              : kPattern;
  read_gemma_blocks(keys, {.pattern = pattern}, text);
  for (BlockConfig& block : text.blocks) block.qk_norm = QkNorm::Head;
}

void complete(Json& json) { complete_gemma(json, kPattern, /*largest=*/62); }

}  // namespace

Architecture gemma3() {
  return {.name = "Gemma3ForCausalLM",
          .model_type = "gemma3_text",
          .defaults = {.kv_heads = 4,
                       .head_dim = 256,
                       .activation = "gelu_pytorch_tanh",
                       .max_position = 131072,
                       .rope_theta = 1e6,
                       .tied_head = true},
          .rope = {.windowed_theta_key = "rope_local_base_freq", .windowed_theta = 10000},
          .gguf = {.name = "gemma3",
                   .norm_offset_added = true,
                   .optional_biases = true,
                   .keys = {kLogitCap},
                   .windowed_theta = "rope.freq_base_swa",
                   .complete = complete,
                   .to_folder = gemma_to_folder},
          .own_keys = {kGemmaScale, kLogitCap, "rope_local_base_freq"},
          .names = &gemma_names(),
          .read = read};
}

}  // namespace reprise::arch
