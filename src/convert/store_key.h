// A key of our own in the config of a model that is there already.
#pragma once

#include <filesystem>
#include <string>

#include "base/json_fwd.h"

namespace reprise {

// Sets "reprise.<key>" of the model's config. A folder: its config.json is replaced, atomically, all
// else stays; `target` must be empty. A GGUF file, of ours or with llama.cpp's keys: written anew,
// with the same tensors, to `target` (.gguf), where nothing may be yet. Throws Error naming option
// (--store, --store-as) and path otherwise.
void store_key(const std::filesystem::path& model, const std::filesystem::path& target,
               const std::string& key, const Json& value);
// The text of a config.json, its keys in their order, with "reprise.<key>" set; value null: without
// it. `where` is for messages.
std::string with_own_key(const std::string& config, const std::string& where,
                         const std::string& key, const Json* value);

// What of this can't work, known before there is a value. Throws Error.
void check_store(const std::filesystem::path& model, const std::filesystem::path& target);

}  // namespace reprise
