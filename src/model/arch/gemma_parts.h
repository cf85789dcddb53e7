// What Gemma 2 and 3 have in common: norms of (1 + weight) on both sides of attention and MLP,
// windows on most layers, a scale of scores that isn't that of heads, caps of scores and logits.
#pragma once

#include "model/arch/architecture.h"

namespace reprise::arch {

inline constexpr const char* kGemmaScale = "query_pre_attn_scalar";
inline constexpr const char* kScoreCap = "attn_logit_softcapping";
inline constexpr const char* kLogitCap = "final_logit_softcapping";

// Absent keys' meanings, where the two differ.
struct GemmaDefaults {
  int64_t pattern = 0;  // each layer that it divides the number of, from 1 on, has no window
  double score_cap = 0, logit_cap = 0;  // 0: none
};

void read_gemma_blocks(const DecoderKeys& keys, const GemmaDefaults& absent, TextConfig& text);
const NameTable& gemma_names();

// A GGUF file's keys that llama.cpp derives: layers' windows (json has sliding_window, or there are
// none), and the scale, which of the model of `largest` layers is hidden_size / heads. A cap of 0 is
// none there.
void complete_gemma(Json& json, int64_t pattern, int64_t largest);
void gemma_to_folder(Json& json);

}  // namespace reprise::arch
