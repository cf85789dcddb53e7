#include "convert/looped/calibration.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "backend/factory.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "convert/looped/low_rank.h"
#include "model/scheme_type.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {
namespace {

constexpr int64_t kWindow = 512;  // tokens that see each other
constexpr float kDamping = 0.01f;

// Windows of a text as CalibrationOptions says; the last one may be shorter.
std::vector<std::vector<int32_t>> read_windows(const Tokenizer& tokenizer,
                                               const std::filesystem::path& path, int64_t tokens,
                                               int64_t window) {
  constexpr int64_t kBytes = 16;  // a token of any usual text has fewer
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path))
    fail("--calibrate {}: can't be read, expected a plain text file", path.string());
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path));
  const auto encode = [&](int64_t begin, int64_t bytes, bool from_line) {
    std::string text(static_cast<size_t>(std::min(bytes, size - begin)), '\0');
    file.seekg(begin);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (const size_t line = text.find('\n'); from_line && line < text.size() / 2)
      text.erase(0, line + 1);
    return tokenizer.encode(text, {.parse_special = false});
  };
  const auto first = [](const std::vector<int32_t>& ids, int64_t begin, int64_t count) {
    const auto end = std::min(begin + count, static_cast<int64_t>(ids.size()));
    return std::vector<int32_t>(ids.begin() + begin, ids.begin() + end);
  };
  std::vector<std::vector<int32_t>> windows;
  const int64_t count = std::max<int64_t>(1, tokens / window);
  if (size < count * window * kBytes) {
    const std::vector<int32_t> ids = encode(0, size, false);
    for (int64_t w = 0; w < count && w * window < static_cast<int64_t>(ids.size()); ++w)
      windows.push_back(first(ids, w * window, window));
  } else {
    for (int64_t w = 0; w < count; ++w)
      windows.push_back(first(encode(size / count * w, window * kBytes, w > 0), 0, window));
  }
  return windows;
}

// The input that a matrix shares with others, as run_block names it.
std::string input_of(const std::string& matrix) {
  if (matrix == "o" || matrix == "down") return matrix + "_in";
  return matrix == "up" || matrix.starts_with("gate") ? "mlp_in" : "attn_in";
}

// Sums x x^T of what one layer's matrices are applied to.
class Moments : public Observer {
 public:
  Moments(Backend& backend, ThreadPool& pool) : backend_(backend), pool_(pool) {}

  void on_input(const ValueSeen& seen) override {
    Input& input = inputs_[std::string(seen.name)];
    input.width = seen.value.dim(1);
    input.rows = seen.value.dim(0);
    input.x = backend_.to_host(seen.value);
  }

  // What a folded model's matrices get is not scaled by the norm.
  void unscale(const std::string& name, std::span<const float> scale,
               std::span<const float> shift) {
    Input& input = inputs_.at(name);
    for (int64_t row = 0; row < input.rows; ++row)
      for (int64_t i = 0; i < input.width; ++i) {
        float& x = input.x[static_cast<size_t>(row * input.width + i)];
        const float by = scale[static_cast<size_t>(i)];
        if (!shift.empty()) x -= shift[static_cast<size_t>(i)];
        x = by != 0 ? x / by : 0;  // its column of the folded matrix is zero
      }
  }

  // Adds the inputs seen since. Tasks are blocks of rows of a matrix, the lower triangle.
  void add() {
    constexpr int64_t kRows = 256;
    struct Task {
      Input* input;
      int64_t begin, end;
    };
    std::vector<Task> tasks;
    for (auto& [name, input] : inputs_) {
      input.sum.resize(static_cast<size_t>(input.width * input.width));
      for (int64_t begin = 0; begin < input.width; begin += kRows)
        tasks.push_back({&input, begin, std::min(begin + kRows, input.width)});
    }
    std::ranges::stable_sort(tasks, std::greater<>(), [](const Task& task) { return task.end; });
    pool_.run(static_cast<int64_t>(tasks.size()), [&](int64_t at, int) {
      const auto& [input, begin, end] = tasks[static_cast<size_t>(at)];
      const auto width = static_cast<int>(input->width);
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(end - begin),
                  static_cast<int>(end), static_cast<int>(input->rows), 1, input->x.data() + begin,
                  width, input->x.data(), width, 1, input->sum.data() + begin * width, width);
    });
  }

  // Mean over `tokens`, both triangles, damped.
  std::map<std::string, std::vector<float>> take(int64_t tokens) {
    std::map<std::string, std::vector<float>> all;
    for (auto& [name, input] : inputs_) {
      std::vector<float>& c = input.sum;
      const auto n = static_cast<size_t>(input.width);
      const auto by = static_cast<float>(1 / static_cast<double>(tokens));
      double diagonal = 0;
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j <= i; ++j) c[j * n + i] = c[i * n + j] *= by;
        diagonal += c[i * n + i];
      }
      if (!std::isfinite(diagonal)) fail("inputs '{}' of a layer aren't finite", name);
      // All zero (a layer of zeros): any weight does.
      const auto damping =
          diagonal > 0 ? kDamping * static_cast<float>(diagonal / static_cast<double>(n)) : 1.0f;
      for (size_t i = 0; i < n; ++i) c[i * n + i] += damping;
      all[name] = std::move(c);
    }
    return all;
  }

 private:
  struct Input {
    int64_t width = 0, rows = 0;
    std::vector<float> x, sum;
  };
  Backend& backend_;
  ThreadPool& pool_;
  std::map<std::string, Input> inputs_;
};

struct Affine {
  std::vector<float> scale, shift;
};
Affine affine_of(Backend& be, const NormWeight& norm) {
  Affine affine = {be.to_host(norm.weight),
                   norm.bias ? be.to_host(norm.bias) : std::vector<float>()};
  for (float& x : affine.scale) x += norm.offset;
  return affine;
}

}  // namespace

Calibration::Calibration(const ConversionSource& source, const CalibrationOptions& options)
    : source_(source), options_(options) {
  const std::string file = options.text.string();
  if (source.config->scheme != default_scheme().name)
    fail("--calibrate {}: {} has the scheme '{}', expected a plain decoder", file, source.path(),
         source.config->scheme);
  if (!has_tokenizer(source.model))
    fail("--calibrate {}: {} has no tokenizer for the text", file, source.path());
  const std::unique_ptr<Tokenizer> tokenizer = tokenizer_of(source.model);
  window_ = kWindow;
  if (const int64_t limit = source.config->text.max_position; limit > 0)
    window_ = std::min(window_, limit);
  windows_ = read_windows(*tokenizer, options.text, options.tokens, window_);
  const auto found = windows_.empty() ? 0 : static_cast<int64_t>(windows_[0].size());
  std::erase_if(windows_,
                [&](const auto& window) { return static_cast<int64_t>(window.size()) < window_; });
  if (windows_.empty())
    fail("--calibrate {}: has {} tokens, expected at least one window of {}", file, found, window_);
  const std::vector<int32_t> added = tokenizer->encode("", {.add_special = true});
  const std::optional<int32_t> bos = tokenizer->ids().bos;
  if (bos && !added.empty() && added[0] == *bos)
    for (std::vector<int32_t>& window : windows_) window[0] = *bos;
}

int64_t Calibration::tokens() const { return static_cast<int64_t>(windows_.size()) * window_; }

void Calibration::run(int first, int last, int threads,
                      const std::function<void(int layer, int64_t window)>& progress) {
  blas_runs_in_callers_thread();
  const std::unique_ptr<Backend> backend =
      make_backend("cpu", {.threads = threads, .activations = Activations::F32});
  const std::unique_ptr<Model> model = Model::load(source_.model.path(), *backend);
  ThreadPool pool(threads);
  std::vector<Tensor> states;
  for (const std::vector<int32_t>& window : windows_) states.push_back(model->embed(window));
  for (int layer = 0; layer < last; ++layer) {
    // A layer's keys and values are only its own, so that layers can be run one by one.
    Plan plan;
    plan.visit(layer, plan.add_kv_row(), -1, "");
    Moments moments(*backend, pool);
    const Block& block = model->blocks()[static_cast<size_t>(layer)];
    const Affine attn = affine_of(*backend, block.attn_norm),
                 mlp = affine_of(*backend, block.mlp_norm);
    for (size_t w = 0; w < windows_.size(); ++w) {
      Sequence sequence;
      Rows rows;
      rows.append(sequence, window_, window_);
      const bool seen = layer >= first;
      states[w] = model->forward(plan, rows, std::move(states[w]), seen ? &moments : nullptr);
      if (seen) {
        if (options_.fold_norms) {
          moments.unscale("attn_in", attn.scale, attn.shift);
          moments.unscale("mlp_in", mlp.scale, mlp.shift);
        }
        moments.add();
      }
      progress(layer, static_cast<int64_t>(w));
    }
    if (layer >= first)
      for (auto& [input, c] : moments.take(tokens())) moments_[{layer, input}] = std::move(c);
  }
}

const std::vector<float>& Calibration::moments(int layer, const std::string& matrix) const {
  const auto found = moments_.find({layer, input_of(matrix)});
  REPRISE_CHECK(found != moments_.end(), "no moments of '{}' in layer {}", matrix, layer);
  return found->second;
}

}  // namespace reprise
