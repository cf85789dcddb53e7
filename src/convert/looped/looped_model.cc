#include "convert/looped/looped_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "convert/looped/low_rank.h"
#include "model/arch/architecture.h"
#include "model/fused_qkv.h"
#include "model/load.h"

namespace reprise {
namespace {

// Of alternating least squares; more bring little.
constexpr int kFitRounds = 2;

// Of new weights; as training begins with (train/train_model.h).
constexpr float kNewDeviation = 0.02f;

uint64_t stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

double norm_of(const std::vector<float>& values) {
  double squares = 0;
  for (const float x : values) squares += double{x} * x;
  return std::sqrt(squares);
}

double missing(const LowRankFactors& factors) {
  const double squares = factors.residual * factors.residual - factors.kept * factors.kept;
  return std::sqrt(std::max(0.0, squares));
}

// Factors with weighted norms, and that of the layer's matrix.
void report_weighted(const LowRankFactors& factors, double norm, AdapterReport& report) {
  if (norm <= 0) return;
  report.weighted_residual = factors.residual / norm;
  report.weighted_missing = missing(factors) / norm;
}

// Frobenius norms of dense - shared, and of what is left of it.
void report_plain(const std::vector<float>& dense, const std::vector<float>& shared,
                  const LowRankFactors& factors, int64_t in, AdapterReport& report) {
  std::vector<float> row(static_cast<size_t>(in));
  double residual = 0, left = 0;
  for (size_t begin = 0, j = 0; begin < dense.size(); begin += row.size(), ++j) {
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = dense[begin + i] - shared[begin + i];
      residual += double{row[i]} * row[i];
    }
    const auto rank = static_cast<size_t>(factors.rank);
    for (size_t r = 0; r < rank; ++r) {
      const float b = factors.b[j * rank + r];
      const float* a = factors.a.data() + r * row.size();
      for (size_t i = 0; i < row.size(); ++i) row[i] -= b * a[i];
    }
    for (const float x : row) left += double{x} * x;
  }
  report.residual = std::sqrt(residual);
  report.missing = std::sqrt(left);
}

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
  if (options.start == LoopStart::Fitted) options_.fold_norms = true;
  source_names_ = tensor_names(source.model, *source.config);
  text_ = text;
  if (text.fused_qkv && text.kind->looped_apart) text_.fused_qkv = text_.grouped_qkv = false;
  names_ = source_names_;
  names_.prefix = names_.matrix_suffix = "";
  check_alike();
  list_layer_tensors();
  list_outputs();
  count_dropped();
  check_calibration();
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

void LoopedModel::run_calibration() {
  if (!calibration_ || calibrated_) return;
  const int last = layout_.dense - layout_.last;
  calibration_->run(layout_.first, last, threads_, [&](int layer, int64_t) {
    if (progress_)
      progress_(done_, total_, fmt::format("calibration, layer {} of {}", layer + 1, last));
  });
  calibrated_ = true;
}

LoopShape LoopedModel::shape() const {
  LoopShape shape = {.loops = layout_.loops, .first = layout_.first, .last = layout_.last};
  for (size_t i = 0; i < layer_tensors_.size(); ++i)
    if (!layer_tensors_[i].matrix.empty() && rank_of(i) > 0)
      shape.ranks[layer_tensors_[i].matrix] = options_.rank_of.contains(layer_tensors_[i].matrix)
                                                  ? options_.rank_of.at(layer_tensors_[i].matrix)
                                                  : options_.rank;
  return shape;
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
      if (other.window == first.window && other.rope == first.rope && other.scale == first.scale &&
          other.qk_norm == first.qk_norm)
        continue;
      fail(
          "{}: layers {} and {} can't share a block: they differ in window ({} and {} keys), rope, "
          "scale or norms; expected --loops and --keep-first for which tied layers are alike",
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
    if (const auto norm = norms.find(key); options_.fold_norms && norm != norms.end())
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

int64_t LoopedModel::rank_of(size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  if (of.matrix.empty()) return 0;
  const auto own = options_.rank_of.find(of.matrix);
  const int64_t rank = own == options_.rank_of.end() ? options_.rank : own->second;
  return std::min({rank, of.slot.shape[0], of.slot.shape[1]});
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

// Of a dense layer; with fold_norms what norms do to each component is done by the matrices and
// biases behind them: W (g * x + s) + b = (W diag(g)) x + (W s + b).
std::vector<float> LoopedModel::dense_values(int layer, size_t tensor) const {
  const LayerTensor& of = layer_tensors_[tensor];
  std::vector<float> values = stored_values(layer, tensor);
  if (!options_.fold_norms) return values;
  const std::string prefix =
      source_names_.layer_prefix(0).substr(0, source_names_.layer_prefix(0).size() - 2);
  const auto norm_name = [&](const std::string& key, const char* end) {
    const std::string name = source_names_.of(key, 0) + end;
    return prefix + "%." + name.substr(prefix.size() + 2);
  };
  for (const char* key : {"attn_norm", "mlp_norm"}) {
    if (of.source == norm_name(key, ".weight"))
      std::fill(values.begin(), values.end(), 1 - of.slot.offset);
    if (of.source == norm_name(key, ".bias")) std::fill(values.begin(), values.end(), 0.0f);
  }
  if (of.norm.empty()) return values;
  if (!of.matrix.empty()) {
    const size_t norm = find_tensor(norm_name(of.norm, ".weight"));
    const std::vector<float> weight = stored_values(layer, norm);
    const float offset = layer_tensors_[norm].slot.offset;
    for (size_t i = 0; i < values.size(); ++i) values[i] *= offset + weight[i % weight.size()];
  } else if (text_.blocks[0].norm.bias) {
    const auto matrix = static_cast<size_t>(
        std::ranges::find_if(layer_tensors_,
                             [&](const LayerTensor& t) { return t.matrix == of.bias_of; }) -
        layer_tensors_.begin());
    const std::vector<float> weights = stored_values(layer, matrix);
    const std::vector<float> shift = stored_values(layer, find_tensor(norm_name(of.norm, ".bias")));
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
      result[j] = of.is_norm ? 1 - of.slot.offset
                  : vector   ? 0.0f
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

void LoopedModel::compute_block(int layer) {
  run_calibration();
  block_ = {.layer = layer};
  block_.tensors.resize(layer_tensors_.size());
  block_.a.resize(layer_tensors_.size());
  block_.b.resize(layer_tensors_.size());
  const int k = layer - layout_.first;
  ThreadPool pool(threads_);
  // Largest first, so that no core waits for the other's last one.
  std::vector<size_t> order(layer_tensors_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](size_t i) { return num_elements(layer_tensors_[i].slot.shape); });
  pool.run(static_cast<int64_t>(order.size()), [&](int64_t task, int) {
    const size_t i = order[static_cast<size_t>(task)];
    if (!layer_tensors_[i].matrix.empty()) block_.tensors[i] = shared_values(layer, i);
  });
  struct Task {
    size_t tensor;
    int loop;
  };
  std::vector<Task> tasks;
  const bool fitted = options_.start == LoopStart::Fitted;
  const bool together = fitted || options_.adapters == LoopAdapters::SplitWeighted;
  for (const size_t i : order) {
    if (layer_tensors_[i].matrix.empty() || (rank_of(i) == 0 && !fitted)) continue;
    block_.a[i].resize(static_cast<size_t>(layout_.loops));
    block_.b[i].resize(static_cast<size_t>(layout_.loops));
    const int parts = together || options_.adapters == LoopAdapters::Split ? 1 : layout_.loops;
    for (int loop = 0; loop < parts; ++loop) tasks.push_back({i, loop});
  }
  const size_t before = reports_.size();
  pool.run(static_cast<int64_t>(tasks.size()), [&](int64_t task, int) {
    const Task& of = tasks[static_cast<size_t>(task)];
    if (together)
      fit(k, of.tensor);
    else if (options_.adapters == LoopAdapters::Split)
      split_adapters(k, of.tensor);
    else
      add_adapters(k, of.tensor, of.loop);
  });
  std::ranges::stable_sort(
      reports_.begin() + static_cast<std::ptrdiff_t>(before), reports_.end(), std::less<>(),
      [](const AdapterReport& report) { return std::pair(report.matrix, report.loop); });
  std::ranges::stable_sort(fits_, std::less<>(), [](const FitReport& report) {
    return std::pair(report.block, report.matrix);
  });
}

void LoopedModel::add_adapters(int block, size_t tensor, int loop) {
  const LayerTensor& of = layer_tensors_[tensor];
  const int64_t out = of.slot.shape[0], in = of.slot.shape[1], rank = rank_of(tensor);
  const uint64_t seed = options_.seed ^ stream_of(fmt::format("{}.{}.{}", block, loop, of.matrix));
  LowRankFactors factors;
  const int layer = layout_.tied(loop, block);
  const std::vector<float> dense = dense_values(layer, tensor);
  const std::vector<float>& shared = block_.tensors[tensor];
  std::vector<double> residual(dense.size());
  for (size_t i = 0; i < dense.size(); ++i) residual[i] = dense[i] - shared[i];
  AdapterReport report = {
      .block = block, .loop = loop, .matrix = of.matrix, .weight = norm_of(dense)};
  if (options_.adapters == LoopAdapters::Weighted) {
    const std::vector<float>& c = calibration_->moments(layer, of.matrix);
    factors = weighted_low_rank(residual, out, in, c, rank, seed);
    const std::vector<double> wide(dense.begin(), dense.end());
    report_weighted(factors, std::sqrt(weighted_squares(wide, out, in, c)), report);
    report_plain(dense, shared, factors, in, report);
  } else if (options_.adapters == LoopAdapters::Zero) {
    factors = zero_low_rank(out, in, rank, seed);
    for (const double x : residual) factors.residual += x * x;
    report.residual = report.missing = std::sqrt(factors.residual);
  } else {
    factors = low_rank(std::move(residual), out, in, rank, seed);
    report.residual = factors.residual;
    report.missing = missing(factors);
  }
  block_.a[tensor][static_cast<size_t>(loop)] = std::move(factors.a);
  block_.b[tensor][static_cast<size_t>(loop)] = std::move(factors.b);
  const std::lock_guard lock(report_mutex_);
  reports_.push_back(std::move(report));
  ++done_;
  if (progress_) progress_(done_, total_, "");
}

// The block's matrix and its adapters together, by weighted.h.
void LoopedModel::fit(int block, size_t tensor) {
  const LayerTensor& of = layer_tensors_[tensor];
  const int64_t out = of.slot.shape[0], in = of.slot.shape[1], rank = rank_of(tensor);
  std::vector<FitTarget> targets;
  for (int loop = 0; loop < layout_.loops; ++loop) {
    const int layer = layout_.tied(loop, block);
    targets.push_back({dense_values(layer, tensor), calibration_->moments(layer, of.matrix)});
  }
  const int rounds = options_.start == LoopStart::Fitted ? kFitRounds : 0;
  SharedFit fit =
      fit_shared(targets, out, in, rank, layout_.loops == 2 ? FitStart::Split : FitStart::Mean,
                 rounds, options_.seed ^ stream_of(fmt::format("{}.{}", block, of.matrix)));
  std::vector<AdapterReport> reports;
  for (int loop = 0; loop < layout_.loops && rank > 0; ++loop) {
    const auto at = static_cast<size_t>(loop);
    LowRankFactors& factors = fit.adapters[at];
    AdapterReport report = {
        .block = block, .loop = loop, .matrix = of.matrix, .weight = norm_of(targets[at].matrix)};
    report_weighted(factors, fit.norms[at], report);
    report_plain(targets[at].matrix, fit.shared, factors, in, report);
    reports.push_back(std::move(report));
    block_.a[tensor][at] = std::move(factors.a);
    block_.b[tensor][at] = std::move(factors.b);
  }
  block_.tensors[tensor] = std::move(fit.shared);
  const std::lock_guard lock(report_mutex_);
  if (rounds > 0) fits_.push_back({block, of.matrix, fit.objective.front(), fit.objective.back()});
  done_ += static_cast<int64_t>(reports.size());
  std::ranges::move(reports, std::back_inserter(reports_));
  if (progress_) progress_(done_, total_, "");
}

// W1 - W2 = D, nearly D_odd + D_even of twice the rank. The block W' = (W1 + W2) / 2 +
// (D_even - D_odd) / 2 with D_odd in the first loop and -D_even in the second is as near to both
// layers as the average with adapters of twice the rank, which would hold the same directions twice.
void LoopedModel::split_adapters(int block, size_t tensor) {
  const LayerTensor& of = layer_tensors_[tensor];
  const int64_t out = of.slot.shape[0], in = of.slot.shape[1], rank = rank_of(tensor);
  const uint64_t seed = options_.seed ^ stream_of(fmt::format("{}.{}", block, of.matrix));
  const std::vector<float> dense[] = {dense_values(layout_.tied(0, block), tensor),
                                      dense_values(layout_.tied(1, block), tensor)};
  std::vector<double> difference(dense[0].size());
  for (size_t i = 0; i < difference.size(); ++i) difference[i] = double{dense[0][i]} - dense[1][i];
  const LowRankFactors both = low_rank(std::move(difference), out, in, 2 * rank, seed);
  std::vector<float>& shared = block_.tensors[tensor];
  std::vector<double> moved(shared.begin(), shared.end());
  for (int loop = 0; loop < 2; ++loop) {
    LowRankFactors half = zero_low_rank(out, in, rank, seed + static_cast<uint64_t>(loop));
    for (int64_t r = 0; r < rank && 2 * r + loop < both.rank; ++r) {
      const int64_t from = 2 * r + loop;
      const auto row = both.a.begin() + from * in;
      std::copy_n(row, in, half.a.begin() + r * in);
      for (int64_t j = 0; j < out; ++j) {
        const float b = both.b[static_cast<size_t>(j * both.rank + from)];
        half.b[static_cast<size_t>(j * rank + r)] = loop == 0 ? b : -b;
        const double half_b = (loop == 0 ? -0.5 : 0.5) * b;
        for (int64_t i = 0; i < in; ++i) moved[static_cast<size_t>(j * in + i)] += half_b * row[i];
      }
    }
    block_.a[tensor][static_cast<size_t>(loop)] = std::move(half.a);
    block_.b[tensor][static_cast<size_t>(loop)] = std::move(half.b);
  }
  std::ranges::transform(moved, shared.begin(), [](double x) { return static_cast<float>(x); });
  const double squares = both.residual * both.residual - both.kept * both.kept;
  const std::lock_guard lock(report_mutex_);
  for (int loop = 0; loop < 2; ++loop)
    reports_.push_back({block, loop, of.matrix, norm_of(dense[loop]), both.residual / 2,
                        std::sqrt(std::max(0.0, squares)) / 2});
  done_ += 2;
  if (progress_) progress_(done_, total_, "");
}

// Where adapters are another matrix's than the source's fused one, its layers can't be run with them.
bool LoopedModel::refits() const {
  return options_.start == LoopStart::Fitted && options_.refit_tokens > 0 && !stores_qkv_apart() &&
         !shape().ranks.empty();
}

std::vector<float> LoopedModel::with_adapter(const ComputedBlock& block, size_t tensor,
                                             int loop) const {
  std::vector<float> values = block.tensors[tensor];
  if (rank_of(tensor) == 0) return values;
  const std::vector<float>& a = block.a[tensor][static_cast<size_t>(loop)];
  const std::vector<float>& b = block.b[tensor][static_cast<size_t>(loop)];
  const auto in = static_cast<size_t>(layer_tensors_[tensor].slot.shape[1]);
  const size_t rank = a.size() / in;
  for (size_t j = 0; j * in < values.size(); ++j)
    for (size_t r = 0; r < rank; ++r)
      for (size_t i = 0; i < in; ++i) values[j * in + i] += b[j * rank + r] * a[r * in + i];
  return values;
}

void LoopedModel::refit() {
  for (int k = 0; k < layout_.blocks; ++k) {
    compute_block(layout_.first + k);
    refitted_.push_back(std::move(block_));
    block_ = {};
  }
  // Spread over the text as all of them are.
  const std::vector<std::vector<int32_t>>& all = calibration_->windows();
  const auto wanted = static_cast<size_t>(
      std::max<int64_t>(1, options_.refit_tokens / static_cast<int64_t>(all[0].size())));
  const size_t count = std::min(wanted, all.size());
  std::vector<std::vector<int32_t>> windows;
  for (size_t i = 0; i < count; ++i) windows.push_back(all[i * all.size() / count]);
  refit_tokens_ = static_cast<int64_t>(count * all[0].size());
  Refit run(source_, windows, threads_);
  int layer = 0;
  const int last = layout_.dense - layout_.last;
  run.progress = [&] {
    if (progress_) progress_(done_, total_, fmt::format("refit, layer {} of {}", layer + 1, last));
  };
  for (; layer < layout_.first; ++layer) run.keep(layer);
  for (; layer < last; ++layer) {
    const int at = layer - layout_.first;
    refit_depth(at / layout_.blocks, at % layout_.blocks, run);
  }
}

void LoopedModel::refit_depth(int loop, int block, Refit& run) {
  const int layer = layout_.tied(loop, block);
  ComputedBlock& computed = refitted_[static_cast<size_t>(block)];
  ThreadPool pool(threads_);
  const auto count = static_cast<int64_t>(layer_tensors_.size());
  std::vector<std::vector<float>> values(layer_tensors_.size());
  pool.run(count, [&](int64_t task, int) {
    const auto i = static_cast<size_t>(task);
    values[i] = layer_tensors_[i].matrix.empty() ? shared_values(layout_.first + block, i)
                                                 : with_adapter(computed, i, loop);
  });
  run.begin(layer, values);
  for (const std::string& stage : Refit::stages()) {
    std::vector<size_t> tensors;
    for (size_t i = 0; i < layer_tensors_.size(); ++i)
      if (const LayerTensor& of = layer_tensors_[i];
          !of.matrix.empty() && rank_of(i) > 0 && input_of(of.matrix) == stage)
        tensors.push_back(i);
    const RefitMoments moments = run.moments(stage);
    pool.run(static_cast<int64_t>(tensors.size()), [&](int64_t task, int) {
      const size_t i = tensors[static_cast<size_t>(task)];
      const LayerTensor& of = layer_tensors_[i];
      const int64_t out = of.slot.shape[0], in = of.slot.shape[1];
      std::vector<double> rest = matrix_for_inputs(dense_values(layer, i), out, in, moments.c,
                                                   moments.damping, moments.cross, moments.behind);
      const std::vector<float>& shared = computed.tensors[i];
      for (size_t j = 0; j < rest.size(); ++j) rest[j] -= shared[j];
      LowRankFactors factors = weighted_low_rank(
          rest, out, in, moments.c, rank_of(i),
          options_.seed ^ stream_of(fmt::format("{}.{}.{}", block, loop, of.matrix)));
      computed.a[i][static_cast<size_t>(loop)] = std::move(factors.a);
      computed.b[i][static_cast<size_t>(loop)] = std::move(factors.b);
    });
    for (const size_t i : tensors)
      run.set(layer_tensors_[i].matrix, with_adapter(computed, i, loop));
  }
  run.end();
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
