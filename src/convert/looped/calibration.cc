#include "convert/looped/calibration.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "backend/factory.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "convert/looped/moments.h"
#include "model/scheme_type.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {
namespace {

constexpr int64_t kWindow = 512;  // tokens that see each other

// Windows of a text as CalibrationOptions says; the last one may be shorter.
std::vector<std::vector<int32_t>> read_windows(const Tokenizer& tokenizer,
                                               const std::filesystem::path& path, int64_t tokens,
                                               int64_t window) {
  constexpr int64_t kBytes = 16;  // a token of any usual text has fewer
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path))
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

// Sums x x^T of what one layer's matrices are applied to.
class LayerMoments : public Observer {
 public:
  // fold_norms: its inputs are those of matrices that do what the block's norms do.
  LayerMoments(Backend& backend, ThreadPool& pool, const Block& block, bool fold_norms)
      : backend_(backend), pool_(pool) {
    if (!fold_norms) return;
    scales_.emplace("attn_in", NormScale(backend, block.attn_norm));
    scales_.emplace("mlp_in", NormScale(backend, block.mlp_norm));
  }

  void on_input(const ValueSeen& seen) override {
    const std::string name(seen.name);
    std::vector<float> x = backend_.to_host(seen.value);
    if (const auto scale = scales_.find(name); scale != scales_.end()) scale->second.undo(x);
    const int64_t width = seen.value.dim(1);
    add_moments(pool_, seen.value.dim(0), x, width, x, width, sums[name]);
  }

  std::map<std::string, std::vector<float>> sums;

 private:
  Backend& backend_;
  ThreadPool& pool_;
  std::map<std::string, NormScale> scales_;
};

}  // namespace

std::string input_of(const std::string& matrix) {
  if (matrix == "o" || matrix == "down") return matrix + "_in";
  return matrix == "up" || matrix.starts_with("gate") ? "mlp_in" : "attn_in";
}

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
    const auto at = static_cast<size_t>(layer);
    LayerMoments moments(*backend, pool, model->blocks()[at],
                         options_.fold_norms && source_.config->text.blocks[at].pre_norm);
    for (size_t w = 0; w < windows_.size(); ++w) {
      Sequence sequence;
      Rows rows;
      rows.append(sequence, window_, window_);
      states[w] =
          model->forward(plan, rows, std::move(states[w]), layer >= first ? &moments : nullptr);
      progress(layer, static_cast<int64_t>(w));
    }
    for (auto& [input, c] : moments.sums) {
      for (float& value : c) value /= static_cast<float>(tokens());
      damp_moments(c, static_cast<int64_t>(std::sqrt(static_cast<double>(c.size()))));
      moments_[{layer, input}] = std::move(c);
    }
  }
}

const std::vector<float>& Calibration::moments(int layer, const std::string& matrix) const {
  const auto found = moments_.find({layer, input_of(matrix)});
  REPRISE_CHECK(found != moments_.end(), "no moments of '{}' in layer {}", matrix, layer);
  return found->second;
}

}  // namespace reprise
