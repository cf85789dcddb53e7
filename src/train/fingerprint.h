// What a run was begun with, as numbers that change with it: a resume is refused where files beside
// the checkpoint have become others. Exact to the bit of every weight; against accidents, not forgery.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "model/model.h"

namespace reprise {

// By the key of the recipe that names what it is of.
using Fingerprints = std::map<std::string, std::string>;

// Changes with the name and with any bit of any value.
uint64_t tensor_fingerprint(const std::string& name, std::span<const float> values);
// Of the config, but for what has no part in training (how tokens leave early when it is run).
std::string config_fingerprint(const ModelConfig& config);
// Of config and all weights as they are bound now: reads each once (a second for a billion).
std::string model_fingerprint(const Model& model);
// Of a file's bytes.
std::string file_fingerprint(const std::filesystem::path& path);

}  // namespace reprise
