// A looped model made of a dense decoder: its tensors, computed one block at a time.
//
// For a block and the dense layers tied to it (loop_layout.h): the block's tensors are the mean of
// its sources (one layer, several, or new values); every loop gets low-rank adapters on every matrix
// that bring the block nearer to the layer which that loop stands for.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "convert/looped/calibration.h"
#include "convert/looped/loop_layout.h"
#include "convert/looped/refit.h"
#include "convert/looped/weighted.h"
#include "convert/source.h"
#include "model/scheme_type.h"

namespace reprise {

enum class LoopAdapters {
  Svd,    // truncated decomposition of what the block lacks of the layer
  Zero,   // B = 0, A Gaussian: the block alone, to begin with
  Split,  // two loops, average: odd directions of the layers' difference to one, even to the other
  // The same two with errors weighed by the layers' inputs on a text; the block that split makes is
  // then the best one for its adapters.
  Weighted,
  SplitWeighted,
};

struct LoopOptions {
  LoopStart start = LoopStart::Stepwise;
  int loops = 2;
  int keep_first = 0, keep_last = 0;
  int64_t rank = 0;                           // of all matrices' adapters; 0: none
  std::map<std::string, int64_t> rank_of;     // by matrix, instead
  LoopAdapters adapters = LoopAdapters::Svd;  // Fitted makes its own
  // For Fitted, Weighted and SplitWeighted, and for them alone. Its fold_norms is the one below.
  std::optional<CalibrationOptions> calibrate;
  // Fitted: then the adapters are fitted anew, depth by depth, to the inputs that they get in the
  // converted model (refit.h), on about so many of the calibration's tokens; 0: not.
  int64_t refit_tokens = 12288;
  // Norm weights are multiplied into the matrices behind them first and become 1: then blocks share
  // nothing but matrices, and adapters of full rank give back the dense model.
  bool fold_norms = false;  // Fitted and Untied always do
  uint64_t seed = 1;
};

// What one loop's adapter of one matrix was to make up for, and what it does (Frobenius norms).
struct AdapterReport {
  int block = 0, loop = 0;
  std::string matrix;
  double weight = 0;    // of the dense layer's matrix
  double residual = 0;  // of its distance to the block's
  double missing = 0;   // of the distance that the adapter leaves
  // With a calibration text: the last two as shares of the first, all weighed by the layer's inputs.
  // The square is that of the output's error.
  double weighted_residual = 0, weighted_missing = 0;
};

// How a block's matrix was fitted: the mean over loops of weighted_missing's square, before the
// rounds of the fit and after them.
struct FitReport {
  int block = 0;
  std::string matrix;
  double start = 0, end = 0;
};

class LoopedModel {
 public:
  // Throws Error naming model and option where it can't be looped so. The source must outlive it.
  LoopedModel(const ConversionSource& source, const LoopOptions& options, int threads);

  const LoopLayout& layout() const { return layout_; }
  // Adapters have at most the rank of their matrix: with the ranks that they have.
  LoopShape shape() const;
  // By matrix what was asked for, where that is more.
  std::map<std::string, int64_t> capped_ranks() const;
  bool stores_qkv_apart() const { return source_.config->text.fused_qkv && !text_.fused_qkv; }
  // Tensors that come out, in the order in which they should be asked for. `view` has no data; its
  // type is that of the source's tensor (F32 where it was quantized).
  struct Output {
    TensorView view;
    TensorSlot slot;  // what the looped model knows of it
  };
  const std::vector<Output>& outputs() const { return outputs_; }
  // Matrices done, of how many; `what`: what else is under way (the calibration), or empty.
  using Progress = std::function<void(int64_t done, int64_t total, const std::string& what)>;
  // The values of output `index`. A block's matrices and adapters are computed together and
  // forgotten with the next block's; before the first one the calibration is run. With a refit all
  // blocks are made first, and kept.
  TensorView values(size_t index, const Progress& progress = {});

  // Of what was made before a refit.
  const std::vector<AdapterReport>& reports() const { return reports_; }
  const std::vector<FitReport>& fits() const { return fits_; }
  int64_t calibration_tokens() const { return calibration_ ? calibration_->tokens() : 0; }
  int64_t refit_tokens() const { return refit_tokens_; }  // 0: there was none
  // What the source has and the looped model hasn't: a role's name and its tensors' number.
  const std::map<std::string, int64_t>& dropped() const { return dropped_; }

 private:
  // One of the tensors that every layer has.
  struct LayerTensor {
    std::string source, target;  // names with %, see name_in
    std::vector<int64_t> rows;   // those of the source's tensor that it is; empty: all
    TensorSlot slot;             // of layer 0
    std::string matrix;          // key of a block's matrix; empty for others
    std::string bias_of;         // key of the matrix whose bias it is; empty for others
    std::string norm;            // fold_norms: "attn_norm" or "mlp_norm" in front of the matrix
    bool is_norm = false;        // a norm's weight
  };
  struct From {                          // where an output's values come from
    int layer = -1;                      // of the looped model; -1: not of a layer
    size_t tensor = 0;                   // of layer_tensors_
    int loop = -1;                       // its adapter's
    bool a = false;                      // its A, else its B
    const TensorView* copied = nullptr;  // as it is
  };
  struct ComputedBlock {
    int layer = -1;
    std::vector<std::vector<float>> tensors;            // by layer tensor
    std::vector<std::vector<std::vector<float>>> a, b;  // by layer tensor, by loop
  };

  void check_untied() const;
  void check_calibration();
  void list_layer_tensors();
  void list_outputs();
  void add_output(const TensorSlot& slot, DType type, From from);
  void count_dropped();
  void check_alike() const;
  std::vector<float> stored_values(int layer, size_t tensor) const;
  std::string norm_source(const std::string& key, const char* end) const;
  std::vector<float> dense_values(int layer, size_t tensor) const;
  size_t find_tensor(const std::string& source) const;
  std::vector<float> shared_values(int layer, size_t tensor) const;
  void run_calibration();
  bool refits() const;
  std::vector<float> with_adapter(const ComputedBlock& block, size_t tensor, int loop) const;
  void refit();
  void refit_depth(int loop, int block, Refit& run);
  void compute_block(int layer);
  void add_adapters(int block, size_t tensor, int loop);
  void split_adapters(int block, size_t tensor);
  void fit(int block, size_t tensor);
  int64_t asked_rank(size_t tensor) const;
  int64_t rank_of(size_t tensor) const;  // capped
  std::string name_in(const std::string& pattern, int layer) const;
  // Random numbers of their own for what has this name.
  static uint64_t stream_of(const std::string& name);

  const ConversionSource& source_;
  LoopOptions options_;
  LoopLayout layout_;
  int threads_;
  TextConfig text_;  // of the looped model's blocks
  TensorNames source_names_, names_;
  std::vector<LayerTensor> layer_tensors_;
  std::vector<Output> outputs_;
  std::vector<From> from_;
  std::optional<Calibration> calibration_;
  bool calibrated_ = false;
  int64_t refit_tokens_ = 0;
  std::vector<ComputedBlock> refitted_;  // all of them; empty without a refit
  ComputedBlock block_;
  std::mutex report_mutex_;  // of the next ones, while a block's matrices are worked on
  std::vector<AdapterReport> reports_;
  std::vector<FitReport> fits_;
  std::map<std::string, int64_t> dropped_;
  Progress progress_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace reprise
