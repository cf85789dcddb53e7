// A model folder as on Hugging Face: config.json, weights as one or many safetensors files, and
// whatever tokenizer files there are.
#pragma once

#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/json_fwd.h"
#include "formats/weights.h"

namespace reprise {

struct HfFolder {
  std::filesystem::path path;
  JsonValue config;                            // config.json
  std::optional<JsonValue> generation_config;  // generation_config.json
  std::optional<JsonValue> tokenizer_config;   // tokenizer_config.json
  // Files that exist, for whoever reads their format.
  std::optional<std::filesystem::path> tokenizer_json;
  std::optional<std::filesystem::path> tokenizer_model;
  std::optional<std::filesystem::path> vocab_json;
  std::optional<std::filesystem::path> merges_txt;
  std::optional<std::filesystem::path> special_tokens_map;
  std::optional<std::filesystem::path> added_tokens;
  // model.safetensors, or else the shards of model.safetensors.index.json.
  WeightFile weights;
  // With `problems` below. weights_known: false where neither a file nor an index could be read, so
  // that nothing is known about what the model has; unread_tensors: those that the index names and
  // whose shard could not be read, or lacks them.
  bool weights_known = true;
  std::set<std::string> unread_tensors;

  // Throws one Error that lists all that is wrong: no folder, config.json or weights missing, a
  // JSON file that can't be parsed, missing or damaged shards, ...
  // With `problems` these are noted there, and the folder holds what could be read (config: null
  // where it could not).
  static HfFolder open(const std::filesystem::path& path, Problems* problems = nullptr);

  // Another file of the folder ("trol_gating.pt"); nullopt when it isn't there.
  std::optional<std::filesystem::path> find_file(const std::string& name) const;
  // Whether there is a file with a vocabulary: tokenizer.json, tokenizer.model or vocab.json.
  bool has_vocabulary() const { return tokenizer_json || tokenizer_model || vocab_json; }
};

}  // namespace reprise
