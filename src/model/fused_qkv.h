// Where q, k and v are in a fused matrix, for whoever takes one apart.
#pragma once

#include <string>
#include <vector>

#include "model/config/config.h"

namespace reprise {

// The rows of the fused matrix (and of its bias) that are `key`'s, "q", "k" or "v": as many, and in
// the same order, as a matrix of its own has. The config is one with TextConfig::fused_qkv.
std::vector<int64_t> fused_qkv_rows(const TextConfig& config, const std::string& key);

}  // namespace reprise
