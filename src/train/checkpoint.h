// What a stopped training run needs to go on: weights, Adam's state, the step; and its log.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "backend/train_backend.h"

namespace reprise {

struct StepReport;

struct CheckpointEntry {
  std::string name;
  Shape shape;
  std::vector<float> values;
  AdamState adam;  // step 0: none yet
};

struct Checkpoint {
  int64_t step = 0;    // steps done
  double seconds = 0;  // spent on them
  std::string frozen;  // fingerprint of the weights that aren't trained and not in the file
  std::string recipe;  // identity_text; empty in files of earlier versions
  std::vector<CheckpointEntry> weights;
};

// A safetensors file: every trained weight by its name, Adam's moments as "adam.m.<name>",
// "adam.v.<name>", "adam.step.<name>" (int64 [1]), the rest in the metadata. Written atomically.
void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint);
// Throws Error when the file is missing, damaged or no checkpoint.
Checkpoint read_checkpoint(const std::filesystem::path& path);

// log.jsonl: one report a line.
void append_log(const std::filesystem::path& path, const StepReport& report);
// The reports up to and including `last_step`; a torn last line is left out.
std::vector<StepReport> read_log(const std::filesystem::path& path, int64_t last_step);
void rewrite_log(const std::filesystem::path& path, const std::vector<StepReport>& reports);

}  // namespace reprise
