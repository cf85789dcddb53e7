// Where a converted model stands when it is run: the inputs of each of its depths, which errors of
// the depths before have changed, beside the dense model's. Depth by depth, its adapters are then
// fitted anew to give the dense model's outputs for the inputs that they really get.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"
#include "convert/source.h"

namespace reprise {

// Means over tokens, of the inputs x of some matrices in the converted model and y in the dense one.
struct RefitMoments {
  std::vector<float> c;      // x x^T [in, in], damped as Calibration::moments
  std::vector<float> cross;  // y x^T [in, in]
  // (h - g) x^T [d, in], the distance of the residual streams h of the dense model and g of the
  // converted one which the matrix adds to; empty for one that adds to neither, or a norm's result.
  std::vector<float> behind;
  double damping = 0;  // of c
};

class Refit {
 public:
  // The inputs of matrices, in the order in which a depth has them (run_block's names).
  static const std::vector<std::string>& stages();

  // Windows of tokens that are run. Inputs are those of the model with folded norms.
  Refit(const ConversionSource& source, const std::vector<std::vector<int32_t>>& windows,
        int threads);
  ~Refit();

  // A depth that is the dense layer itself.
  void keep(int layer);
  // A depth: the dense layer it stands for, and the converted layer's tensors in the order of
  // Block::visit_tensors, adapters multiplied in.
  void begin(int layer, const std::vector<std::vector<float>>& tensors);
  // Stage after stage: the moments of its inputs, then new values of the matrices that have them.
  RefitMoments moments(const std::string& stage);
  void set(const std::string& matrix, std::vector<float> values);
  void end();

  // Called after every window that was run; may throw to stop.
  std::function<void()> progress;

 private:
  struct Window;
  void run_dense(int layer);
  void run_converted(Window& window, const std::string& stage);
  Tensor with_branch(const Tensor& x, const Tensor& input, const LinearWeight& matrix,
                     const NormWeight& post_norm) const;

  const ConversionSource& source_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  std::vector<Window> windows_;
  int layer_ = 0;
  Block dense_;  // the layer's own, while the model has the converted one
};

}  // namespace reprise
