// The recipe's `data` section where it trains on texts.
#pragma once

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <string>

#include "base/json_fwd.h"
#include "train/recipe/recipe.h"
#include "train/recipe/section.h"

namespace reprise {

// Whether the list's first source is a text (text, jsonl or tokens).
bool are_texts(const YAML::Node& sources);
// Reads the whole section; `sources` is its key `train`. Throws Error naming file, line and key.
void read_text_data(Section& section, const YAML::Node& sources, Recipe& recipe,
                    const std::string& where, const std::filesystem::path& folder);
// Adds what must stay the same where a run is resumed.
void identify_texts(const Recipe& recipe, Json& json);

}  // namespace reprise
