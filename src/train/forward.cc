#include "train/forward.h"

namespace reprise {
namespace {

// Token embeddings, picture tokens replaced by what the vision tower makes of the pictures.
Tensor embed(const Model& model, const Batch& batch) {
  Backend& be = model.backend();
  const Tensor x = model.embed(batch.ids);
  if (batch.tiles == 0) return x;
  const VisionTower& vision = *model.vision();
  const int64_t size = vision.config().image_size;
  const Tensor pixels = be.from_host(batch.pixels, {batch.tiles, 3, size, size});
  const Tensor rows = vision.project(be, vision.features(be, pixels));
  return be.replace_rows(
      x, batch.image_rows,
      be.reshape(rows, {static_cast<int64_t>(batch.image_rows.size()), rows.cols()}));
}

}  // namespace

Model::Results run_forward(const Model& model, const Plan& plan, const Batch& batch, bool exits) {
  return model.run(plan, batch.rows, embed(model, batch), nullptr, exits);
}

}  // namespace reprise
