// What the parts of the training loop work on. The trainer owns all of it.
#pragma once

#include "backend/train_backend.h"
#include "model/model.h"
#include "train/data/batch_source.h"
#include "train/fingerprint.h"
#include "train/objectives/objective.h"
#include "train/recipe/recipe.h"
#include "train/weights.h"

namespace reprise {

struct TrainRun {
  const Recipe& recipe;
  TrainBackend& backend;
  Model& model;
  const Plan& plan;
  TrainedWeights& weights;
  Objective& objective;
  BatchSource& batches;
  Fingerprints files = {};  // of what it was begun with, by key of the recipe
};

}  // namespace reprise
