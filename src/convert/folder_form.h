// A llama.cpp file as the Hugging Face folder it can be: its tensors under a folder's names, with
// config.json, generation_config.json and the tokenizer's files made of its keys.
#pragma once

#include <string>
#include <vector>

#include "convert/source.h"

namespace reprise {

// The source's weights are then those of a folder and `edits` says how their values are to be
// changed. Notes are for people. Throws Error naming file and key for what no folder can say.
ConversionSource folder_form(const ConversionSource& source, std::vector<std::string>& notes);

// The tensor with its edits made: what it was where it has none.
TensorView edited(const TensorView& tensor, const TensorEdit& edit);

}  // namespace reprise
