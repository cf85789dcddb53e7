// The parts config_from_json is made of.
#pragma once

#include "model/config.h"

namespace reprise {

// A decoder's keys, as LlamaForCausalLM, Qwen2ForCausalLM and Phi3ForCausalLM write them.
TextConfig read_text_config(const JsonObject& json);
// "vision_config" of InternViT and CLIP; shuffle and projector_hidden are left to the caller.
VisionConfig read_vision_config(const JsonObject& json);

}  // namespace reprise
