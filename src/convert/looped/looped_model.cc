#include "convert/looped/looped_model.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "model/arch/architecture.h"
#include "model/fused_qkv.h"
#include "model/load.h"

namespace reprise {
namespace {

// Of new weights; as training begins with (train/train_model.h).
constexpr float kNewDeviation = 0.02f;

}  // namespace

LoopedModel::LoopedModel(const ConversionSource& source, const LoopOptions& options, int threads)
    : source_(source), options_(options), threads_(threads) {
  if (!source.config)
    fail("{}: can't be looped, its architecture is unknown here ({})", source.path(),
         source.unknown);
  const SchemeType* type = find_scheme(source.config->scheme);
  if (type && type->looping.section)
    fail("{}: its layers are looped already (scheme '{}'); expected a dense model", source.path(),
         source.config->scheme);
  const TextConfig& text = source.config->text;
  layout_ = make_loop_layout(options.start, text.layers, options.loops, options.keep_first,
                             options.keep_last, source.path());
  if ((options.adapters == LoopAdapters::Split ||
       options.adapters == LoopAdapters::SplitWeighted) &&
      (options.loops != 2 || options.start != LoopStart::Average))
    fail(
        "--adapters {}: shares the directions of two layers out, expected --loops 2 and --init average",
        options.adapters == LoopAdapters::Split ? "split" : "split-weighted");
  if (options.start == LoopStart::Fitted || options.start == LoopStart::Untied)
    options_.fold_norms = true;
  source_names_ = tensor_names(source.model, *source.config);
  text_ = text;
  if (text.fused_qkv && text.kind->looped_apart) text_.fused_qkv = text_.grouped_qkv = false;
  names_ = source_names_;
  names_.prefix = names_.matrix_suffix = "";
  check_alike();
  list_layer_tensors();
  check_untied();
  list_outputs();
  count_dropped();
  check_calibration();
}

// Adapters hold all that layers have of their own, so nothing but matrices may differ between them.
void LoopedModel::check_untied() const {
  if (layout_.start != LoopStart::Untied) return;
  if (options_.adapters == LoopAdapters::Zero)
    fail("--init untied: adapters are all there is, expected --adapters svd or weighted");
  for (size_t i = 0; i < layer_tensors_.size(); ++i) {
    const LayerTensor& of = layer_tensors_[i];
    if (!of.matrix.empty() && rank_of(i) == 0)
      fail("--init untied: matrix '{}' has rank 0 and would be lost; expected --rank or --rank-of",
           of.matrix);
    const bool folded =
        text_.blocks[0].pre_norm && (of.source == norm_source("attn_norm", ".weight") ||
                                     of.source == norm_source("mlp_norm", ".weight"));
    if (of.matrix.empty() && !folded)
      fail(
          "--init untied: {} has a '{}' in every layer, which isn't a matrix; expected a model "
          "without biases and without norms inside of attention and behind it",
          source_.path(), name_in(of.source, 0));
  }
}

void LoopedModel::check_calibration() {
  const bool fitted = options_.start == LoopStart::Fitted;
  const std::string user = fitted                                        ? "--init fitted"
                           : options_.adapters == LoopAdapters::Weighted ? "--adapters weighted"
                           : options_.adapters == LoopAdapters::SplitWeighted
                               ? "--adapters split-weighted"
                               : "";
  if (user.empty() && options_.calibrate)
    fail(
        "--calibrate {}: nothing weighs errors by a text, expected --init fitted, --adapters weighted "
        "or --adapters split-weighted",
        options_.calibrate->text.string());
  if (user.empty()) return;
  if (!options_.calibrate)
    fail("{}: weighs errors by what {} does with a text, expected --calibrate TEXT", user,
         source_.path());
  options_.calibrate->fold_norms = options_.fold_norms;
  calibration_.emplace(source_, *options_.calibrate);
}

LoopShape LoopedModel::shape() const {
  LoopShape shape = {.loops = layout_.loops, .first = layout_.first, .last = layout_.last};
  for (size_t i = 0; i < layer_tensors_.size(); ++i)
    if (!layer_tensors_[i].matrix.empty() && rank_of(i) > 0)
      shape.ranks[layer_tensors_[i].matrix] = rank_of(i);
  return shape;
}

std::map<std::string, int64_t> LoopedModel::capped_ranks() const {
  std::map<std::string, int64_t> capped;
  for (size_t i = 0; i < layer_tensors_.size(); ++i)
    if (asked_rank(i) > rank_of(i)) capped[layer_tensors_[i].matrix] = asked_rank(i);
  return capped;
}

// Layers with one block must be of one kind.
void LoopedModel::check_alike() const {
  const std::vector<BlockConfig>& blocks = source_.config->text.blocks;
  for (int k = 0; k < layout_.blocks; ++k) {
    std::vector<int> shared = layout_.sources[static_cast<size_t>(k)];
    for (int loop = 0; loop < layout_.loops; ++loop) shared.push_back(layout_.tied(loop, k));
    const BlockConfig& first = blocks[static_cast<size_t>(shared[0])];
    for (const int layer : shared) {
      const BlockConfig& other = blocks[static_cast<size_t>(layer)];
      if (other.window == first.window && other.rope == first.rope && other.scale == first.scale)
        continue;
      fail(
          "{}: layers {} and {} can't share a block: they differ in window ({} and {} keys), rope "
          "or scale; expected --loops and --keep-first for which tied layers are alike",
          source_.path(), shared[0] + 1, layer + 1, first.window, other.window);
    }
  }
}

std::string LoopedModel::name_in(const std::string& pattern, int layer) const {
  const size_t at = pattern.find('%');
  return pattern.substr(0, at) + std::to_string(layer) + pattern.substr(at + 1);
}

void LoopedModel::list_layer_tensors() {
  Block block;
  std::map<const Tensor*, std::string> matrices, biases;
  for (const auto& [key, weight] : block.matrices(text_)) {
    matrices[&weight->weight] = key;
    biases[&weight->bias] = key;
  }
  // A name with the layer's number taken out: it stands behind the prefix of all layers.
  const auto pattern = [](const std::string& name, const std::string& layer_prefix) {
    REPRISE_CHECK(name.starts_with(layer_prefix) && layer_prefix.ends_with("0."), "{}", name);
    return layer_prefix.substr(0, layer_prefix.size() - 2) + "%." +
           name.substr(layer_prefix.size());
  };
  std::vector<std::string> targets;
  block.visit_tensors(text_, names_, 0,
                      [&](const TensorSlot& slot) { targets.push_back(slot.name); });
  const std::map<std::string, const char*> norms = {
      {"q", "attn_norm"},   {"k", "attn_norm"}, {"v", "attn_norm"},     {"qkv", "attn_norm"},
      {"gate", "mlp_norm"}, {"up", "mlp_norm"}, {"gate_up", "mlp_norm"}};
  const std::string prefix = source_names_.layer_prefix(0);
  size_t at = 0;
  block.visit_tensors(text_, source_names_, 0, [&](const TensorSlot& slot) {
    LayerTensor tensor;
    tensor.target = pattern(targets[at++], names_.layer_prefix(0));
    tensor.slot = slot;
    tensor.slot.tensor = nullptr;
    tensor.is_norm = slot.role == Role::Norm && slot.name.ends_with(".weight");
    std::string key;
    if (const auto found = matrices.find(slot.tensor); found != matrices.end())
      key = tensor.matrix = found->second;
    else if (const auto bias = biases.find(slot.tensor); bias != biases.end())
      key = tensor.bias_of = bias->second;
    tensor.source = pattern(slot.name, prefix);
    if (stores_qkv_apart() && (key == "q" || key == "k" || key == "v")) {
      tensor.source = pattern(source_names_.of("qkv", 0) + source_names_.matrix_suffix +
                                  (tensor.matrix.empty() ? ".bias" : ".weight"),
                              prefix);
      tensor.rows = fused_qkv_rows(source_.config->text, key);
    }
    if (const auto norm = norms.find(key);
        options_.fold_norms && text_.blocks[0].pre_norm && norm != norms.end())
      tensor.norm = norm->second;
    layer_tensors_.push_back(std::move(tensor));
  });
  const auto has = [&](const std::string& key, std::string LayerTensor::*of) {
    return std::ranges::any_of(layer_tensors_,
                               [&](const LayerTensor& tensor) { return tensor.*of == key; });
  };
  for (const LayerTensor& tensor : layer_tensors_)
    if (!tensor.norm.empty() && !tensor.matrix.empty() && text_.blocks[0].norm.bias &&
        !has(tensor.matrix, &LayerTensor::bias_of))
      fail("--fold-norms: norms of {} have biases, but matrix '{}' has none to take them up",
           source_.path(), tensor.matrix);
  std::string known;
  for (const LayerTensor& tensor : layer_tensors_)
    if (!tensor.matrix.empty()) known += (known.empty() ? "" : ", ") + tensor.matrix;
  for (const auto& [matrix, rank] : options_.rank_of)
    if (!has(matrix, &LayerTensor::matrix))
      fail("--rank-of {}: {} has no such matrix, expected one of {}", matrix, source_.path(),
           known);
}

size_t LoopedModel::find_tensor(const std::string& source) const {
  for (size_t i = 0; i < layer_tensors_.size(); ++i)
    if (layer_tensors_[i].source == source) return i;
  REPRISE_CHECK(false, "{}", source);
}

int64_t LoopedModel::asked_rank(size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  if (of.matrix.empty()) return 0;
  const auto own = options_.rank_of.find(of.matrix);
  return own == options_.rank_of.end() ? options_.rank : own->second;
}

int64_t LoopedModel::rank_of(size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  if (of.matrix.empty()) return 0;
  return std::min({asked_rank(tensor), of.slot.shape[0], of.slot.shape[1]});
}

void LoopedModel::add_output(const TensorSlot& slot, DType type, From from) {
  Output output;
  output.slot = slot;
  output.slot.tensor = nullptr;
  output.view.name = slot.name;
  output.view.shape = slot.shape;
  output.view.type = is_quantized(type) ? DType::F32 : type;
  outputs_.push_back(std::move(output));
  from_.push_back(from);
}

void LoopedModel::list_outputs() {
  const TextConfig& text = source_.config->text;
  const std::string source_layers =
      source_names_.layer_prefix(0).substr(0, source_names_.layer_prefix(0).size() - 2);
  // What is outside of the layers, in the file's order: embedding, final norm, head.
  const auto of_language_model = [&](const TensorSlot& slot) {
    return slot.role == Role::Embedding || slot.role == Role::Head || slot.role == Role::Norm ||
           slot.role == Role::Bias;
  };
  for (const TensorView& tensor : source_.weights.tensors()) {
    const TensorSlot* slot = source_.slot(tensor.name);
    if (!slot || !of_language_model(*slot) || tensor.name.starts_with(source_layers) ||
        !tensor.name.starts_with(source_names_.prefix))
      continue;
    if (slot->role == Role::Norm && tensor.name.find("vision") != std::string::npos) continue;
    TensorSlot target = *slot;
    target.name = tensor.name.substr(source_names_.prefix.size());
    if (slot->role == Role::Embedding) target.shape[0] = std::min(target.shape[0], text.vocab);
    add_output(target, tensor.type, {.copied = &tensor});
  }
  const SchemeLooping& looping = looping_scheme().looping;
  for (int layer = 0; layer < layout_.layers(); ++layer) {
    for (size_t i = 0; i < layer_tensors_.size(); ++i) {
      const LayerTensor& tensor = layer_tensors_[i];
      // As its first source is stored; all layers are alike in that, as a rule.
      const int like = !layout_.looped(layer) ? (layer < layout_.first ? layer : layout_.dense - 1)
                                              : layout_.tied(0, layer - layout_.first);
      const DType type = source_.weights.get(name_in(tensor.source, like)).type;
      TensorSlot slot = tensor.slot;
      slot.name = name_in(tensor.target, layer);
      slot.layer = layer;
      add_output(slot, type, {.layer = layer, .tensor = i});
      const int64_t rank = rank_of(i);
      if (!layout_.looped(layer) || rank == 0) continue;
      for (int loop = 0; loop < layout_.loops; ++loop) {
        const std::string name = looping.adapter(names_.layer_prefix(layer), loop, tensor.matrix);
        TensorSlot adapter;
        adapter.use = WeightUse::Matrix;
        adapter.role = Role::Adapter;
        adapter.name = name + ".A";
        adapter.shape = {rank, tensor.slot.shape[1]};
        add_output(adapter, type, {.layer = layer, .tensor = i, .loop = loop, .a = true});
        adapter.name = name + ".B";
        adapter.shape = {tensor.slot.shape[0], rank};
        add_output(adapter, type, {.layer = layer, .tensor = i, .loop = loop, .a = false});
        ++total_;
      }
    }
  }
}

void LoopedModel::count_dropped() {
  std::map<std::string, int64_t> taken;
  for (const From& from : from_)
    if (from.copied) ++taken[from.copied->name];
  for (int layer = 0; layer < layout_.dense; ++layer)
    for (const LayerTensor& tensor : layer_tensors_) ++taken[name_in(tensor.source, layer)];
  for (const TensorView& tensor : source_.weights.tensors()) {
    if (taken.contains(tensor.name)) continue;
    const TensorSlot* slot = source_.slot(tensor.name);
    ++dropped_[slot ? role_name(*slot) : "other"];
  }
}

std::vector<float> LoopedModel::stored_values(int layer, size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  const TensorView& view = source_.weights.get(name_in(of.source, layer));
  std::vector<float> values = to_floats(view);
  if (!std::ranges::all_of(values, [](float x) { return std::isfinite(x); }))
    fail("{}: tensor '{}' holds values that aren't finite", source_.path(), view.name);
  if (of.rows.empty()) return values;
  const size_t width = of.matrix.empty() ? 1 : static_cast<size_t>(of.slot.shape[1]);
  std::vector<float> part;
  part.reserve(of.rows.size() * width);
  for (const int64_t row : of.rows) {
    const auto begin = values.begin() + row * static_cast<std::ptrdiff_t>(width);
    part.insert(part.end(), begin, begin + static_cast<std::ptrdiff_t>(width));
  }
  return part;
}

// The LayerTensor::source of the norm `key`'s ".weight" or ".bias".
std::string LoopedModel::norm_source(const std::string& key, const char* end) const {
  const std::string prefix =
      source_names_.layer_prefix(0).substr(0, source_names_.layer_prefix(0).size() - 2);
  const std::string name = source_names_.of(key, 0) + end;
  return prefix + "%." + name.substr(prefix.size() + 2);
}

// Of a dense layer; with fold_norms what norms do to each component is done by the matrices and
// biases behind them: W (g * x + s) + b = (W diag(g)) x + (W s + b).
std::vector<float> LoopedModel::dense_values(int layer, size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  std::vector<float> values = stored_values(layer, tensor);
  if (!options_.fold_norms || !text_.blocks[0].pre_norm) return values;
  for (const char* key : {"attn_norm", "mlp_norm"}) {
    if (of.source == norm_source(key, ".weight"))
      std::fill(values.begin(), values.end(), 1 - of.slot.offset);
    if (of.source == norm_source(key, ".bias")) std::fill(values.begin(), values.end(), 0.0f);
  }
  if (of.norm.empty()) return values;
  if (!of.matrix.empty()) {
    const size_t norm = find_tensor(norm_source(of.norm, ".weight"));
    const std::vector<float> weight = stored_values(layer, norm);
    const float offset = layer_tensors_[norm].slot.offset;
    for (size_t i = 0; i < values.size(); ++i) values[i] *= offset + weight[i % weight.size()];
  } else if (text_.blocks[0].norm.bias) {
    const auto matrix = static_cast<size_t>(
        std::ranges::find_if(layer_tensors_,
                             [&](const LayerTensor& t) { return t.matrix == of.bias_of; }) -
        layer_tensors_.begin());
    const std::vector<float> weights = stored_values(layer, matrix);
    const std::vector<float> shift =
        stored_values(layer, find_tensor(norm_source(of.norm, ".bias")));
    for (size_t row = 0; row < values.size(); ++row) {
      double sum = values[row];
      for (size_t i = 0; i < shift.size(); ++i)
        sum += double{weights[row * shift.size() + i]} * shift[i];
      values[row] = static_cast<float>(sum);
    }
  }
  return values;
}

// Of a layer that is kept, or what the loops of a block share before adapters are split off.
std::vector<float> LoopedModel::shared_values(int layer, size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  if (!layout_.looped(layer))
    return dense_values(layer < layout_.first ? layer : layer - layout_.layers() + layout_.dense,
                        tensor);
  const std::vector<int>& sources = layout_.sources[static_cast<size_t>(layer - layout_.first)];
  if (sources.size() == 1) return dense_values(sources[0], tensor);
  const auto n = static_cast<size_t>(num_elements(of.slot.shape));
  std::vector<float> result(n);
  if (sources.empty()) {
    const bool vector = of.slot.use == WeightUse::Vector;
    const Philox random(options_.seed, stream_of(name_in(of.target, layer)));
    for (size_t j = 0; j < n; ++j)
      result[j] = of.is_norm                                     ? 1 - of.slot.offset
                  : vector || layout_.start == LoopStart::Untied ? 0.0f
                                                                 : kNewDeviation * random.normal(j);
    return result;
  }
  std::vector<double> sum(n);
  for (const int source : sources) {
    const std::vector<float> values = dense_values(source, tensor);
    for (size_t j = 0; j < n; ++j) sum[j] += values[j];
  }
  for (size_t j = 0; j < n; ++j)
    result[j] = static_cast<float>(sum[j] / static_cast<double>(sources.size()));
  return result;
}

TensorView LoopedModel::values(size_t index, const Progress& progress) {
  progress_ = progress;
  const Output& output = outputs_[index];
  const From& from = from_[index];
  if (from.copied) {
    TensorView view = *from.copied;
    view.name = output.view.name;
    if (view.shape != output.view.shape) {  // rows of the embedding that no output has
      view.data =
          view.data.subspan(0, static_cast<size_t>(tensor_bytes(view.type, output.view.shape)));
      view.shape = output.view.shape;
    }
    return view;
  }
  // Norms and biases, and all of a layer that is kept, need no decomposition. Writers may sort
  // tensors by type, which must not take the blocks apart.
  if (from.loop < 0 && (layer_tensors_[from.tensor].matrix.empty() || !layout_.looped(from.layer)))
    return make_view(output.view.name, output.view.shape, shared_values(from.layer, from.tensor));
  if (refits() && refitted_.empty()) refit();
  if (refitted_.empty() && block_.layer != from.layer) compute_block(from.layer);
  const ComputedBlock& block =
      refitted_.empty() ? block_ : refitted_[static_cast<size_t>(from.layer - layout_.first)];
  const std::vector<float>& values =
      from.loop < 0 ? block.tensors[from.tensor]
                    : (from.a ? block.a : block.b)[from.tensor][static_cast<size_t>(from.loop)];
  return make_view(output.view.name, output.view.shape, values);
}

}  // namespace reprise
