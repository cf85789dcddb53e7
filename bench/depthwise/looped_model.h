// Looped models of published shapes with random weights, for measuring speed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"

namespace reprise::bench {

// "0.5b-x3", "1.8b-x3" (the 24 blocks of Qwen2 0.5B and InternLM2 1.8B, looped three times, with an
// exit gate), "ouro-1.4b" (24 blocks, four loops), "tiny" (to try the program).
std::vector<std::string> looped_shapes();

// Matrices and tables are Q8_0, all else F32. Throws Error for an unknown shape.
std::unique_ptr<Model> make_looped_model(const std::string& shape, Backend& backend);

}  // namespace reprise::bench
