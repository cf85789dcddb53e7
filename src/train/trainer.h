// Supervised fine-tuning: mean cross entropy over the answers' tokens, AdamW, cosine with warm-up.
//
// Files in the output folder: log.jsonl (a line every log_every steps), plot.svg,
// checkpoint.safetensors (trained weights, Adam's state, the step: the run goes on from it to the
// same losses), quantization.jsonl where weights are in few bits, model.gguf at the end.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/train_backend.h"
#include "model/model.h"
#include "train/adapters/adapters.h"
#include "train/data/batches.h"
#include "train/recipe/recipe.h"
#include "train/train_tokenizer.h"

namespace reprise {

struct StepReport {
  int64_t step = 0;  // steps done
  int64_t steps = 0;
  double loss = 0;  // what is minimised: the mean over the step's counted tokens, and the next term
  std::optional<double> preference_loss;  // sft+po: its mean over pairs
  std::optional<double> preferred;        // share of pairs whose right answer is the likelier one
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  int64_t tokens = 0;        // rows run in this step
  double tokens_per_second = 0;
  double seconds_left = 0;
  std::optional<double> validation_loss;
  std::optional<double>
      validation_exact;  // share of answers whose every token is the most likely one
};

struct TrainOptions {
  std::filesystem::path output;
  bool resume = false;     // go on from the checkpoint; an Error where there is none
  int64_t stop_after = 0;  // stop (with a checkpoint) when this many steps are done; 0: never
  const std::atomic<bool>* cancelled = nullptr;  // asked between steps; stops with a checkpoint
  std::function<void(const StepReport&)> progress;
};

class Trainer {
 public:
  Trainer(const Recipe& recipe, TrainBackend& backend, const TrainOptions& options);
  ~Trainer();

  // Returns true when all steps are done (and model.gguf is written), false when stopped before.
  bool run();

  Model& model() { return *model_; }
  int64_t trainable_parameters() const;
  const std::vector<QuantizedTensor>& quantized() const { return quantized_; }

 private:
  struct Weight {
    std::string name;
    Tensor tensor;
    bool decays;  // matrices and tables
    bool trained = false;
  };

  void make_model();
  // Also lets the tokenizer name the picture's placeholder where the config doesn't.
  ChatFormat make_format();
  // Share of the time budget that is used; 0 without one.
  double time_used() const;
  AnswerLoss batch_loss(const Batch& batch);
  // A step's forward calls; without their pixels where they are several (step makes those anew).
  std::vector<Batch> make_batches(int64_t index) const;
  StepReport step(int64_t index, std::span<Batch> batches);
  void validate(StepReport& report);
  void save_checkpoint(int64_t step);
  int64_t load_checkpoint();
  void choose_trainable();
  void set_up_adapters();
  void export_model();
  void write_log(const StepReport& report);

  Recipe recipe_;
  TrainBackend& backend_;
  TrainOptions options_;
  TrainTokenizer files_tokenizer_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<BatchMaker> batches_;
  Plan plan_;
  std::vector<Weight> weights_;  // all of the model's
  std::vector<Tensor> trainable_;
  std::vector<TrainedAdapter> adapters_;
  std::vector<QuantizedTensor> quantized_;
  std::string frozen_;  // fingerprint of what isn't trained, which checkpoints don't hold
  std::chrono::steady_clock::time_point start_;
  double seconds_before_ = 0;  // trained in runs before this one
  std::vector<StepReport> history_;
};

// Loss and gradients of one batch that is given as tensors: what the parity tests compare.
// Rows [n] with labels (-100: not counted), label t belonging to row t and predicted by row t - 1;
// is_image [n]: 1 at image tokens, empty where there are none.
struct LossAndGradients {
  double loss = 0;                                                    // mean over counted labels
  std::vector<std::pair<std::string, std::vector<float>>> gradients;  // by tensor name
};
LossAndGradients loss_and_gradients(Model& model, TrainBackend& backend, const Tensor& embeds,
                                    std::span<const int64_t> labels,
                                    std::vector<uint8_t> is_image = {});

// Initial values of a new model: matrices and tables normal with `std`, norms 1, biases 0, layer
// scale 0.1, class token and position table normal.
std::vector<float> initial_values(const TensorSlot& slot, double std, uint64_t seed);

}  // namespace reprise
