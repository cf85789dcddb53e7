#include "train/forward.h"

namespace reprise {
namespace {

// Token embeddings, picture tokens replaced by what the vision tower makes of the pictures.
Tensor embed(Model& model, const Batch& batch) {
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

// Keeps the state at each LoopEnd: "exit.<loop>.hidden".
class Exits : public Observer {
 public:
  explicit Exits(std::vector<Tensor>& states) : states_(states) {}
  void observe(const std::string& name, const Tensor& value) override {
    if (wants(name) && name.ends_with(".hidden")) states_.push_back(value);
  }
  bool wants(const std::string& name) const override { return name.starts_with("exit."); }

 private:
  std::vector<Tensor>& states_;
};

}  // namespace

ForwardResult run_forward(Model& model, const Plan& plan, const Batch& batch, bool exits) {
  ForwardResult result;
  Exits observer(result.exits);
  result.state = model.forward(plan, batch.rows, embed(model, batch), exits ? &observer : nullptr);
  return result;
}

}  // namespace reprise
