// A model: config, weights, scheme; and the forward pass that interprets a plan over rows.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/model_source.h"
#include "model/block.h"
#include "model/run/runner.h"
#include "model/scheme.h"
#include "model/vision/vision.h"

namespace reprise {

class Model {
 public:
  // A Hugging Face folder or a GGUF file. Throws one Error that lists all that is wrong: keys of
  // the config, missing files, tensors that are missing, unexpected, mis-shaped or of a type that
  // nothing computes with. The backend must outlive the model.
  static std::unique_ptr<Model> load(const std::filesystem::path& path, Backend& backend,
                                     const LoadOptions& options = {});
  // The same of what is open already; `problems`: what opening it noted.
  static std::unique_ptr<Model> load(ModelSource source, Backend& backend,
                                     const LoadOptions& options = {}, Problems problems = {});
  // A model with weights made by `initial` (training from scratch). `scheme`: one that isn't
  // registered, instead of the one that the config names.
  static std::unique_ptr<Model> create(
      const ModelConfig& config, Backend& backend,
      const std::function<std::vector<float>(const TensorSlot&)>& initial,
      std::unique_ptr<Scheme> scheme = nullptr, const LoadOptions& options = {});

  // One without weights, to be asked which tensors a folder of such a model has.
  static std::unique_ptr<Model> describe(const ModelConfig& config, Backend& backend);

  const ModelConfig& config() const { return config_; }
  // For a config that leaves the image placeholder to the tokenizer. Throws Error when the
  // embedding has no such row.
  void set_image_token(int64_t id);
  // The files it was loaded from; empty where it was made in memory.
  const ModelSource& source() const { return source_; }
  const Scheme& scheme() const { return *scheme_; }
  Backend& backend() const { return backend_; }
  const VisionTower* vision() const { return vision_ ? &*vision_ : nullptr; }
  std::vector<Block>& blocks() { return blocks_; }
  const std::vector<Block>& blocks() const { return blocks_; }

  // Every tensor of the model, in a fixed order. Nothing is written by the visit itself; a visitor
  // may bind and replace the tensors where the model isn't const.
  void visit_tensors(const TensorVisitor& visitor);
  using TensorReader = std::function<void(const TensorSlot& slot, const Tensor& bound)>;
  void read_tensors(const TensorReader& reader) const;
  int64_t parameters() const;                       // stored weights
  int64_t effective_parameters(const Plan&) const;  // each visit of a block counted

  // Plans made from user options; checked.
  // Where the options name no plan, the config's counts.
  Plan prefill_plan(const PlanOptions& options = {}) const;
  Plan decode_plan(const PlanOptions& options = {}) const;

  // Throws Error unless tokens can leave this plan as asked: it has loop ends, as many loops, the
  // model a gate where that decides, and nothing behind the loops where states are selected.
  void check_exit(const ExitConfig& exit, const Plan& plan) const;
  // The same as what is wrong: "" for nothing.
  std::string exit_problem(const ExitConfig& exit, const Plan& plan) const;
  // The rule that the model's config has for tokens that decode by this plan; none where it has none
  // or the plan no loops. Throws Error naming file and key where it can't be used.
  ExitConfig stored_exit(const Plan& plan) const;

  // ---- Running. Const: two threads may run one model, each with requests of its own (but for a
  // backend that records gradients).
  // Token embeddings [ids, d], scaled as the blocks want them. Throws Error for an id that the
  // embedding has no row for.
  Tensor embed(std::span<const int32_t> ids) const;
  // Runs the plan in one go, as one cohort: x [rows, d] -> the state after the last step [rows, d],
  // before the final norm. Sequences' KV rows are appended to and their lengths advanced; when it
  // throws, sequences are as they were.
  Tensor forward(const Plan& plan, const Rows& rows, Tensor x, Observer* observer = nullptr) const {
    return run(plan, rows, std::move(x), observer).state;
  }
  struct Results {
    Tensor state;               // as above
    std::vector<Tensor> exits;  // where asked for: [rows, d] at each LoopEnd, before its norm
  };
  Results run(const Plan& plan, const Rows& rows, Tensor x, Observer* observer = nullptr,
              bool exits = false) const;
  Tensor final_norm(const Tensor& x) const;  // [rows, d]
  // The exit gate's logit, [rows, 1], from the state at a loop end before its norm, [rows, d].
  Tensor exit_gate(const Tensor& state) const;
  // What the head reads to give the mean of all loops' logits, by the probabilities that the gate
  // leaves there (engine's ExitOdds): [rows, d] from `ends`, by loop as in Results.
  Tensor expected_normed(std::span<const Tensor> ends) const;
  Tensor logits(const Tensor& normed) const;  // [rows, vocabulary]
  // Whether logits are what the head gives, and nothing more.
  bool head_gives_logits() const;
  const LinearWeight& head() const { return config_.text.tied_head ? embed_ : head_; }
  // One visit of a block; see block.h. `keep` lives as long as the visit may be run again.
  Tensor run_block(int block, const VisitRows& rows, const Tensor& x,
                   const std::shared_ptr<const Rows>& keep) const;
  // By rope of the config: [rows, 2 m], as Backend::rope takes them.
  std::vector<Tensor> rope_angles(const Rows& rows) const;

  // Training: runs every visit through `wrapper`, which is given the state and what the visit makes
  // of it and may run that again later (gradient checkpointing). An empty one takes it away.
  using Visitation = std::function<Tensor(const Tensor&)>;
  using VisitWrapper = std::function<Tensor(const Tensor& x, Visitation visit)>;
  void set_visit_wrapper(VisitWrapper wrapper) { visit_wrapper_ = std::move(wrapper); }
  KvSpec kv_spec() const { return kv_spec_; }

 private:
  // As they were given (checked), with the stored plan where they name none.
  PlanOptions with_stored_plan(PlanOptions options) const;
  Model(ModelConfig config, Backend& backend, const LoadOptions& options,
        std::unique_ptr<Scheme> scheme = nullptr);
  // How much a check of the files' tensors may rely on.
  struct TensorCheck {
    bool shapes = true;  // false: the config's sizes don't hold, only names and types count
    std::function<bool(const std::string& name)> may_be_missing;  // empty: none
  };
  void check_tensors(const WeightFile& weights, const TensorCheck& check, Problems& problems);
  void find_head(const WeightFile& weights);
  void bind(const WeightFile& weights);
  void bind_unit_norms();
  ModelConfig config_;
  ModelSource source_;
  Backend& backend_;
  KvSpec kv_spec_;
  std::unique_ptr<Scheme> scheme_;
  TensorNames names_;
  std::vector<Block> blocks_;
  LinearWeight embed_;  // a table; its matrix is the head too where tied
  LinearWeight head_;
  NormWeight final_norm_;
  std::optional<VisionTower> vision_;
  VisitWrapper visit_wrapper_;
};

// Rope's cosines and sines for rows: [rows, dim] as Backend::rope wants them. Frequencies follow
// each segment's total_length (see RopeConfig), arithmetic as the official code's float32.
Tensor rope_angles(Backend& be, const RopeConfig& config, const Rows& rows);
// Whether positions are turned alike in requests of these two total lengths, in every block.
bool same_rope(const TextConfig& config, int64_t length, int64_t other);

}  // namespace reprise
