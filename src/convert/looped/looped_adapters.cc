// How a looped model's blocks get their adapters: one block at a time, a matrix a thread; with a
// refit, all of them depth by depth.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"
#include "convert/looped/looped_model.h"
#include "convert/looped/low_rank.h"

namespace reprise {
namespace {

// Of alternating least squares; more bring little.
constexpr int kFitRounds = 2;

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

uint64_t LoopedModel::stream_of(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
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
    factors = in_singular_form(std::move(factors), out, in);
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
    factors = in_singular_form(std::move(factors), out, in);
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
      LowRankFactors factors = in_singular_form(
          weighted_low_rank(
              rest, out, in, moments.c, rank_of(i),
              options_.seed ^ stream_of(fmt::format("{}.{}.{}", block, loop, of.matrix))),
          out, in);
      computed.a[i][static_cast<size_t>(loop)] = std::move(factors.a);
      computed.b[i][static_cast<size_t>(loop)] = std::move(factors.b);
    });
    for (const size_t i : tensors)
      run.set(layer_tensors_[i].matrix, with_adapter(computed, i, loop));
  }
  run.end();
}

}  // namespace reprise
