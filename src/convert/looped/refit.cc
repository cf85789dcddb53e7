#include "convert/looped/refit.h"

#include "backend/factory.h"
#include "base/error.h"
#include "convert/looped/moments.h"

namespace reprise {

struct Refit::Window {
  std::vector<int32_t> ids;
  // States before the depth under way and after its attention; of the dense model also behind it.
  Tensor dense, dense_mid, dense_after;
  Tensor converted, converted_mid;
  std::map<std::string, std::vector<float>> dense_inputs;  // [rows, in] by stage
  std::map<std::string, Tensor> inputs;                    // of the converted model
};

namespace {

// What a run of one block shows of itself.
class Seen : public Observer {
 public:
  void on_input(const ValueSeen& seen) override { inputs[std::string(seen.name)] = seen.value; }
  void on_value(const ValueSeen& seen) override {
    if (seen.name == "attn") attention = seen.value;
  }
  std::map<std::string, Tensor> inputs;
  Tensor attention;
};

Tensor run_layer(const Model& model, int layer, const Tensor& x, Observer* observer) {
  Plan plan;
  plan.visit(layer, plan.add_kv_row(), -1, "");
  Sequence sequence;
  Rows rows;
  rows.append(sequence, x.dim(0), x.dim(0));
  return model.forward(plan, rows, x, observer);
}

Tensor bind_values(Backend& be, std::vector<float> values, const Shape& shape, WeightUse use) {
  const auto owner = std::make_shared<const std::vector<float>>(std::move(values));
  return be.bind({.type = DType::F32,
                  .shape = shape,
                  .bytes = std::as_bytes(std::span(*owner)),
                  .owner = owner},
                 use);
}

}  // namespace

const std::vector<std::string>& Refit::stages() {
  static const std::vector<std::string> names = {"attn_in", "o_in", "mlp_in", "down_in"};
  return names;
}

Refit::Refit(const ConversionSource& source, const std::vector<std::vector<int32_t>>& windows,
             int threads)
    : source_(source), pool_(threads) {
  backend_ = make_backend("cpu", {.threads = threads, .activations = Activations::F32});
  model_ = Model::load(source.model.path(), *backend_);
  for (const std::vector<int32_t>& ids : windows) {
    Window& window = windows_.emplace_back();
    window.ids = ids;
    window.dense = window.converted = model_->embed(ids);
  }
}

Refit::~Refit() = default;

void Refit::keep(int layer) {
  for (Window& window : windows_) {
    const bool same = window.dense.data() == window.converted.data();
    window.dense = run_layer(*model_, layer, window.dense, nullptr);
    window.converted = same ? window.dense : run_layer(*model_, layer, window.converted, nullptr);
    if (progress) progress();
  }
}

void Refit::run_dense(int layer) {
  const Block& block = model_->blocks()[static_cast<size_t>(layer)];
  const BlockConfig& kind = model_->config().text.blocks[static_cast<size_t>(layer)];
  std::map<std::string, NormScale> folded;
  if (kind.pre_norm) {
    folded.emplace("attn_in", NormScale(*backend_, block.attn_norm));
    folded.emplace("mlp_in", NormScale(*backend_, block.mlp_norm));
  }
  for (Window& window : windows_) {
    Seen seen;
    const Tensor after = run_layer(*model_, layer, window.dense, &seen);
    window.dense_mid =
        add_branch(*backend_, kind, window.dense, seen.attention, block.attn_post_norm);
    window.dense_after = after;
    for (const auto& [stage, input] : seen.inputs) {
      std::vector<float>& values = window.dense_inputs[stage] = backend_->to_host(input);
      if (const auto norm = folded.find(stage); norm != folded.end()) norm->second.undo(values);
    }
    if (progress) progress();
  }
}

void Refit::begin(int layer, const std::vector<std::vector<float>>& tensors) {
  layer_ = layer;
  run_dense(layer);
  Block& block = model_->blocks()[static_cast<size_t>(layer)];
  dense_ = block;
  size_t at = 0;
  block.visit_tensors(model_->config().text, tensor_names(source_.model, *source_.config), layer,
                      [&](const TensorSlot& slot) {
                        *slot.tensor =
                            bind_values(*backend_, tensors.at(at++), slot.shape, slot.use);
                      });
  REPRISE_CHECK(at == tensors.size());
}

void Refit::set(const std::string& matrix, std::vector<float> values) {
  Block& block = model_->blocks()[static_cast<size_t>(layer_)];
  for (const auto& [key, weight] : block.matrices(model_->config().text))
    if (key == matrix)
      weight->weight =
          bind_values(*backend_, std::move(values), weight->weight.shape(), WeightUse::Matrix);
}

void Refit::run_converted(Window& window, const std::string& stage) {
  Backend& be = *backend_;
  const TextConfig& config = model_->config().text;
  const Block& block = model_->blocks()[static_cast<size_t>(layer_)];
  const BlockConfig& kind = config.blocks[static_cast<size_t>(layer_)];
  Tensor& input = window.inputs[stage];
  if (stage == "attn_in") {
    input = branch_input(be, kind, window.converted, block.attn_norm);
  } else if (stage == "o_in") {
    Seen seen;
    run_layer(*model_, layer_, window.converted, &seen);
    input = seen.inputs.at(stage);
  } else if (stage == "mlp_in") {
    window.converted_mid =
        with_branch(window.converted, window.inputs.at("o_in"), block.attn.o, block.attn_post_norm);
    input =
        branch_input(be, kind, config.parallel_residual ? window.converted : window.converted_mid,
                     block.mlp_norm);
  } else {
    input = mlp_inner(be, config, block.mlp, {}, window.inputs.at("mlp_in"));
  }
}

// The state x with what a matrix gives for its inputs, and the block's norm behind that.
Tensor Refit::with_branch(const Tensor& x, const Tensor& input, const LinearWeight& matrix,
                          const NormWeight& post_norm) const {
  const BlockConfig& kind = model_->config().text.blocks[static_cast<size_t>(layer_)];
  const Tensor branch = backend_->linear(input, matrix);
  return add_branch(*backend_, kind, x, branch_output(*backend_, kind, branch, post_norm),
                    post_norm);
}

RefitMoments Refit::moments(const std::string& stage) {
  RefitMoments moments;
  // Behind a norm the matrix adds nothing that could make up for what the state lacks.
  const bool adds = model_->config().text.blocks[static_cast<size_t>(layer_)].post_norm ==
                    PostNorm::None;
  int64_t tokens = 0, in = 0;
  for (Window& window : windows_) {
    run_converted(window, stage);
    const Tensor& input = window.inputs.at(stage);
    const std::vector<float> x = backend_->to_host(input);
    const int64_t rows = input.dim(0);
    in = input.dim(1);
    tokens += rows;
    add_moments(pool_, rows, x, in, x, in, moments.c);
    add_moments(pool_, rows, window.dense_inputs.at(stage), in, x, in, moments.cross);
    if (adds && (stage == "o_in" || stage == "down_in")) {
      const bool attention = stage == "o_in";
      const std::vector<float> distance =
          backend_->to_host(backend_->add(attention ? window.dense : window.dense_mid,
                                          attention ? window.converted : window.converted_mid, -1));
      add_moments(pool_, rows, distance, model_->config().text.d, x, in, moments.behind);
    }
    if (progress) progress();
  }
  for (std::vector<float>* sum : {&moments.c, &moments.cross, &moments.behind})
    for (float& value : *sum) value /= static_cast<float>(tokens);
  moments.damping = damp_moments(moments.c, in);
  return moments;
}

void Refit::end() {
  Block& block = model_->blocks()[static_cast<size_t>(layer_)];
  for (Window& window : windows_) {
    window.converted = with_branch(window.converted_mid, window.inputs.at("down_in"),
                                   block.mlp.down, block.mlp_post_norm);
    window.dense = window.dense_after;
    window.inputs.clear();
    window.dense_inputs.clear();
    if (progress) progress();
  }
  block = std::move(dense_);
}

}  // namespace reprise
