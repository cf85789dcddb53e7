// Losses and gradients of the torch backend.
//
// Golden: the official code's loss.safetensors of TroL and Phantom. Compared: loss, logits and
// every grad.* tensor. TroL's file has no pixels: its `image_features` are what enters the
// projector, so the projector's gradients are compared and the vision tower's are not (reference
// below has them). Reference: tests/data/parity/loss-*.safetensors, plain PyTorch in float64:
// gradients of ALL weights of every block and scheme, vision tower and adapters included.
//
// Phantom's gradients of matrices behind eta = 1e-4 are near 1e-7, so each tensor is compared
// relative to its own largest value, as the READMEs say.
#include <gtest/gtest.h>

#include <cmath>

#include "base/json.h"
#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/paths.h"
#include "train/loss_and_gradients.h"

namespace reprise::test {
namespace {

constexpr double kLossTolerance = 2e-6;
constexpr double kLogitsTolerance = 2e-4;
constexpr double kGoldenTolerance = 2e-3;     // float32's own noise is up to 3e-4 there
constexpr double kReferenceTolerance = 5e-5;  // float64 reference, ordinary sizes

std::vector<int32_t> to_ids(const TensorView& tensor) {
  const std::vector<int64_t> ids = to_ints(tensor);
  return {ids.begin(), ids.end()};
}

std::vector<int32_t> rows_of(std::span<const int32_t> ids, int64_t token) {
  std::vector<int32_t> rows;
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] == token) rows.push_back(static_cast<int32_t>(i));
  return rows;
}

// All rows as one request, without KV rows.
Rows one_request(const Tensor& embeds) {
  Rows rows;
  rows.segments.push_back({nullptr, 0, embeds.dim(0), embeds.dim(0), -1});
  for (int32_t i = 0; i < embeds.dim(0); ++i) rows.positions.push_back(i);
  return rows;
}

void train_all(Model& model, TrainBackend& be) {
  model.visit_tensors([&](const TensorSlot& slot) { be.set_trainable(*slot.tensor, true); });
}

// Every grad.* of the file against the gradients found. Returns how many there were.
int compare_gradients(const WeightFile& file, const LossAndGradients& found, double tolerance) {
  std::map<std::string, const std::vector<float>*> by_name;
  for (const auto& [name, values] : found.gradients) by_name[name] = &values;
  int count = 0;
  double worst = 0;
  for (const TensorView& tensor : file.tensors()) {
    if (!tensor.name.starts_with("grad.")) continue;
    ++count;
    const std::string name = tensor.name.substr(5);
    if (!by_name.contains(name)) {
      ADD_FAILURE() << file.where() << ": the model has no tensor '" << name << "'";
      continue;
    }
    const std::vector<float> expected = to_floats(tensor);
    float largest = 0;
    for (float value : expected) largest = std::max(largest, std::abs(value));
    EXPECT_GT(largest, 0) << name;
    const double off = distance(*by_name[name], expected) / largest;
    worst = std::max(worst, off);
    EXPECT_LE(off, tolerance) << file.where() << ": " << tensor.name;
  }
  testing::Test::RecordProperty(std::filesystem::path(file.where()).parent_path().filename(),
                                fmt::format("worst gradient {:.1e}", worst));
  return count;
}

TEST(Gradients, GoldenLosses) {
  auto be = recording_torch();
  if (!be) GTEST_SKIP() << "built without the torch backend";
  for (const char* name :
       {"trol/phi3-vit", "trol/phi3-vit-window", "trol/internlm2-clip", "trol/internlm2-clip-ntk",
        "phantom/qwen2-vit", "phantom/phi3-vit", "phantom/phi3-vit-window", "phantom/internlm2-vit",
        "phantom/internlm2-vit-ntk"}) {
    SCOPED_TRACE(name);
    const auto folder = golden_root() / name;
    const auto model = Model::load(folder / "model", *be);
    train_all(*model, *be);
    const WeightFile file = open_safetensors(folder / "loss.safetensors").weights;
    const std::vector<int32_t> ids = to_ids(file.get("input_ids"));
    Tensor embeds;
    std::vector<uint8_t> is_image;
    if (const TensorView* given = file.find("inputs_embeds")) {
      embeds = be->from_host(to_floats(*given), {given->shape[1], given->shape[2]});
    } else {
      const TensorView& features = file.get("image_features");
      const Tensor projected =
          model->vision()->project(*be, be->from_host(to_floats(features), features.shape));
      embeds = be->replace_rows(
          model->embed(ids), rows_of(ids, model->config().image_token),
          be->reshape(projected, {features.shape[0] * features.shape[1], projected.dim(-1)}));
      for (const int32_t id : ids) is_image.push_back(id == model->config().image_token);
    }
    const LossAndGradients found =
        loss_and_gradients(*model, *be, embeds, to_ints(file.get("labels")), is_image);
    Rows rows = one_request(embeds);
    rows.is_image = is_image;
    const Tensor logits =
        model->logits(model->final_norm(model->forward(model->prefill_plan(), rows, embeds)));
    EXPECT_LE(distance(be->to_host(logits), to_floats(file.get("logits"))), kLogitsTolerance);
    EXPECT_NEAR(found.loss, to_floats(file.get("loss"))[0], kLossTolerance);
    EXPECT_GE(compare_gradients(file, found, kGoldenTolerance), 8);
  }
}

// The loss of rows that predict the label of the row behind them, as loss_and_gradients has it, but
// through any plan.
double plan_loss(Model& model, TrainBackend& be, const Plan& plan, const Tensor& embeds,
                 std::span<const int64_t> labels) {
  std::vector<int32_t> next(labels.begin() + 1, labels.end());
  next.push_back(-100);
  const auto counted = std::count_if(next.begin(), next.end(), [](int32_t t) { return t != -100; });
  const Tensor logits =
      model.logits(model.final_norm(model.forward(plan, one_request(embeds), embeds)));
  const Tensor loss = be.scale(be.cross_entropy_sum(logits, next), 1.0f / counted);
  be.backward(loss);
  return be.to_host(loss)[0];
}

TEST(Gradients, EveryWeightOfEveryBlockAndScheme) {
  auto be = recording_torch();
  if (!be) GTEST_SKIP() << "built without the torch backend";
  const auto root = test::data_dir() / "parity";
  const Json variants = load_json(root / "variants.json");
  int losses = 0;
  for (const auto& [name, plans] : variants.items()) {
    for (const auto& [variant, plan] : plans.items()) {
      const auto path = root / name / ("loss-" + variant + ".safetensors");
      if (!std::filesystem::exists(path)) continue;
      SCOPED_TRACE(name + "/" + variant);
      const auto model = Model::load(root / name, *be);
      train_all(*model, *be);
      const WeightFile file = open_safetensors(path).weights;
      const WeightFile inputs =
          open_safetensors(root / name / ("case-" + variant + ".safetensors")).weights;
      const std::vector<int32_t> ids = to_ids(inputs.get("input_ids"));
      Tensor embeds = model->embed(ids);
      if (const TensorView* pixels = inputs.find("pixel_values")) {
        const Tensor projected =
            model->vision()->encode(*be, be->from_host(to_floats(*pixels), pixels->shape));
        embeds = be->replace_rows(
            embeds, rows_of(ids, model->config().image_token),
            be->reshape(projected, {projected.dim(0) * projected.dim(1), projected.dim(2)}));
      }
      const std::vector<int64_t> labels = to_ints(file.get("labels"));
      LossAndGradients found;
      PlanOptions options;
      if (const auto text = plan.get<std::string>(); !text.empty()) options.set("plan", text);
      found.loss = plan_loss(*model, *be, model->prefill_plan(options), embeds, labels);
      int weights = 0;
      model->visit_tensors([&](const TensorSlot& slot) {
        found.gradients.push_back({slot.name, be->gradient(*slot.tensor)});
        ++weights;
      });
      EXPECT_NEAR(found.loss, to_floats(file.get("loss"))[0], 5 * kLossTolerance);
      EXPECT_EQ(compare_gradients(file, found, kReferenceTolerance), weights);
      ++losses;
    }
  }
  EXPECT_GE(losses, 13);
}

}  // namespace
}  // namespace reprise::test
