// The parts config_from_json is made of.
#pragma once

#include "model/config/config.h"

namespace reprise {

// A decoder's keys, as LlamaForCausalLM, Qwen2ForCausalLM, Phi3ForCausalLM and InternLM2ForCausalLM
// write them.
TextConfig read_text_config(const JsonObject& json);
// The same where "architectures" names something around the decoder and the family is known.
TextConfig read_text_config(const JsonObject& json, TextFamily family, std::string architecture);
// "vision_config" of InternViT and CLIP; shuffle and projector_hidden are left to the caller.
VisionConfig read_vision_config(const JsonObject& json);

// Adds the ids of "eos_token_id" (config.json, generation_config.json), which may be absent, that
// `tokens` doesn't have yet. Throws Error, or notes it, where it is no id or list of ids.
void read_end_tokens(const JsonObject& json, std::vector<int64_t>& tokens);

// Whether read_text_config knows this name of "architectures".
bool is_text_architecture(const std::string& name);

}  // namespace reprise
