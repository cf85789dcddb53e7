// What a stopped training run needs to go on: weights, Adam's state, the step, the place in the
// data.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "train/fingerprint.h"
#include "train/loop/run.h"

namespace reprise {

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
  std::string data;    // BatchSource::position; empty in files of earlier versions
  Fingerprints files;  // of what the run was begun with beside them; empty in earlier versions
  std::vector<CheckpointEntry> weights;
};

// A safetensors file: every trained weight by its name, Adam's moments as "adam.m.<name>",
// "adam.v.<name>", "adam.step.<name>" (int64 [1]), the rest in the metadata. Written atomically.
void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint);
// Throws Error when the file is missing, damaged or no checkpoint.
Checkpoint read_checkpoint(const std::filesystem::path& path);

// What a run needs to go on after `step` steps; `data` and `seconds` are left to the caller. Throws
// Diverged where a weight isn't finite.
Checkpoint take_checkpoint(TrainRun& run, int64_t step);
// Throws Error beginning with `path` where the checkpoint is another recipe's or has more steps.
void check_checkpoint(const Recipe& recipe, const Checkpoint& checkpoint,
                      const std::filesystem::path& path);
// Where it is another model's: other weights are trained or frozen.
void check_weights(const Recipe& recipe, const TrainedWeights& weights,
                   const Checkpoint& checkpoint, const std::filesystem::path& path);
// Where one of `files` is another one now, by its key in the recipe.
void check_files(const Recipe& recipe, const Fingerprints& files, const Checkpoint& checkpoint,
                 const std::filesystem::path& path);
// Sets weights, Adam's state and the place in the data of a checkpoint that was checked. Throws Error
// beginning with `path` where the data are others.
void restore_checkpoint(TrainRun& run, const Checkpoint& checkpoint,
                        const std::filesystem::path& path);

}  // namespace reprise
