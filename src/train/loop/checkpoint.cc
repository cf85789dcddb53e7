#include "train/loop/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "train/loop/diverged.h"

namespace reprise {
namespace {

constexpr const char* kM = "adam.m.";
constexpr const char* kV = "adam.v.";
constexpr const char* kStep = "adam.step.";

}  // namespace

void write_checkpoint(const std::filesystem::path& path, const Checkpoint& checkpoint) {
  std::vector<TensorView> tensors;
  for (const CheckpointEntry& entry : checkpoint.weights) {
    tensors.push_back(make_view(entry.name, entry.shape, entry.values));
    if (entry.adam.step == 0) continue;
    tensors.push_back(make_view(kM + entry.name, entry.shape, entry.adam.m));
    tensors.push_back(make_view(kV + entry.name, entry.shape, entry.adam.v));
    const int64_t step[] = {entry.adam.step};
    tensors.push_back(make_view(kStep + entry.name, Shape{1}, std::span<const int64_t>(step)));
  }
  write_safetensors(path, tensors,
                    {{"format", "reprise checkpoint"},
                     {"step", std::to_string(checkpoint.step)},
                     {"seconds", fmt::format("{:.3f}", checkpoint.seconds)},
                     {"frozen", checkpoint.frozen},
                     {"recipe", checkpoint.recipe},
                     {"files", Json(checkpoint.files).dump()},
                     {"data", checkpoint.data}});
}

Checkpoint read_checkpoint(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) fail("{}: no checkpoint to resume from", path.string());
  const SafetensorsFile file = open_safetensors(path);
  Checkpoint checkpoint;
  const auto number = [&](const char* key, auto& value) {
    const auto it = file.metadata.find(key);
    bool ok = it != file.metadata.end();
    if (ok) {
      const char* end = it->second.data() + it->second.size();
      ok = std::from_chars(it->second.data(), end, value).ec == std::errc();
    }
    if (!ok)
      fail("{}: is no checkpoint of this program: metadata has no number '{}'", path.string(), key);
  };
  number("step", checkpoint.step);
  number("seconds", checkpoint.seconds);
  for (const auto& [key, value] :
       {std::pair{"frozen", &checkpoint.frozen}, std::pair{"recipe", &checkpoint.recipe},
        std::pair{"data", &checkpoint.data}})
    if (const auto it = file.metadata.find(key); it != file.metadata.end()) *value = it->second;
  if (const auto it = file.metadata.find("files"); it != file.metadata.end()) {
    const std::string where = path.string() + ": metadata 'files'";
    const Json files = parse_json(it->second, where);
    for (const auto& [key, value] : files.items())
      checkpoint.files[key] = JsonObject(files, where).get_string(key);
  }
  for (const TensorView& view : file.weights.tensors()) {
    if (view.name.starts_with("adam.")) continue;
    CheckpointEntry entry{view.name, view.shape, to_floats(view), {}};
    if (const TensorView* count = file.weights.find(kStep + view.name)) {
      const std::vector<int64_t> value = to_ints(*count);
      entry.adam.m = to_floats(file.weights.get(kM + view.name));
      entry.adam.v = to_floats(file.weights.get(kV + view.name));
      if (value.size() != 1 || entry.adam.m.size() != entry.values.size() ||
          entry.adam.v.size() != entry.values.size())
        fail("{}: Adam's state of '{}' has the wrong size", path.string(), view.name);
      entry.adam.step = value[0];
    }
    checkpoint.weights.push_back(std::move(entry));
  }
  return checkpoint;
}

Checkpoint take_checkpoint(TrainRun& run, int64_t step) {
  Checkpoint checkpoint;
  checkpoint.step = step;
  checkpoint.frozen = run.weights.frozen;
  checkpoint.recipe = identity_text(run.recipe);
  checkpoint.files = run.files;
  for (const TrainWeight& weight : run.weights.all) {
    if (!weight.trained) continue;
    checkpoint.weights.push_back({weight.name, weight.tensor.shape(),
                                  run.backend.to_host(weight.tensor),
                                  run.backend.adam_state(weight.tensor)});
    // A good checkpoint is never replaced by one that nothing can be made of.
    if (!std::ranges::all_of(checkpoint.weights.back().values,
                             [](float x) { return std::isfinite(x); }))
      diverged(run.recipe, fmt::format("tensor '{}' is NaN or infinite", weight.name), step);
  }
  return checkpoint;
}

void check_checkpoint(const Recipe& recipe, const Checkpoint& checkpoint,
                      const std::filesystem::path& path) {
  check_same_recipe(recipe, checkpoint.recipe, path);
  if (checkpoint.step > recipe.steps)
    fail("{}: {} steps are done, the recipe has {}", path.string(), checkpoint.step, recipe.steps);
}

void check_weights(const Recipe& recipe, const TrainedWeights& weights,
                   const Checkpoint& checkpoint, const std::filesystem::path& path) {
  if (checkpoint.weights.size() != weights.trainable.size())
    fail("{}: has {} trained weights, the recipe trains {}", path.string(),
         checkpoint.weights.size(), weights.trainable.size());
  for (const TrainWeight& weight : weights.all) {
    if (!weight.trained) continue;
    const auto it = std::ranges::find(checkpoint.weights, weight.name, &CheckpointEntry::name);
    if (it == checkpoint.weights.end() || it->shape != weight.tensor.shape())
      fail("{}: tensor '{}' of shape {} is missing: the checkpoint is another model's",
           path.string(), weight.name, shape_string(weight.tensor.shape()));
  }
  if (checkpoint.frozen != weights.frozen)
    fail(
        "{}: the frozen weights are not the ones it was trained with: the model files of {} have "
        "changed",
        path.string(), recipe.path.string());
}

void check_files(const Recipe& recipe, const Fingerprints& files, const Checkpoint& checkpoint,
                 const std::filesystem::path& path) {
  for (const auto& [key, fingerprint] : checkpoint.files) {
    const auto now = files.find(key);
    if (now != files.end() && now->second != fingerprint)
      fail("{}: was trained with another '{}' of {}: what the key names has changed since",
           path.string(), key, recipe.path.string());
  }
}

void restore_checkpoint(TrainRun& run, const Checkpoint& checkpoint,
                        const std::filesystem::path& path) {
  for (const TrainWeight& weight : run.weights.all) {
    if (!weight.trained) continue;
    const auto it = std::ranges::find(checkpoint.weights, weight.name, &CheckpointEntry::name);
    REPRISE_CHECK(it != checkpoint.weights.end());
    run.backend.assign(weight.tensor, it->values);
    if (it->adam.step > 0) run.backend.set_adam_state(weight.tensor, it->adam);
  }
  // Files of earlier versions: every source counted its batches.
  run.batches.seek(checkpoint.data.empty() ? std::to_string(checkpoint.step * run.recipe.accumulate)
                                           : checkpoint.data,
                   path.string() + ": metadata 'data'");
}

}  // namespace reprise
