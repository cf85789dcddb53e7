// A replay plan kept in a model: the plan of all requests that name none.
#pragma once

#include <filesystem>
#include <string>

namespace reprise {

// Writes the model to `target` with this plan (parse_plan's short form) in place of one that it has:
// as "reprise.plan" of config.json, and in a GGUF file, of ours or of llama.cpp's, as the key
// kPlanKey. Empty: without a stored plan. All else stays as it is. A GGUF file becomes a new GGUF
// file; a folder a new folder, a copy of all that is in it, or where `target` is the model itself,
// it is changed in place. Throws Error naming path or plan: blocks that the model doesn't have, a
// scheme with a plan of its own, a target of another form or one that is there already.
void store_plan(const std::filesystem::path& model, const std::string& plan,
                const std::filesystem::path& target);

}  // namespace reprise
