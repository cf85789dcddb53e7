// A model: config, weights, scheme; and the forward pass that interprets a plan over rows.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/hf_folder.h"
#include "model/block.h"
#include "model/scheme.h"
#include "model/vision/vision.h"

namespace reprise {

// The files a model was loaded from, whatever their kind. All is empty where it was made in memory.
struct ModelFiles {
  std::filesystem::path path;        // as given
  std::shared_ptr<HfFolder> folder;  // of a loaded model one of the two is set
  std::shared_ptr<GgufFile> gguf;
  // All tensors, those of a scheme's own files (trol_gating.pt) behind the others.
  WeightFile weights;
};

class Model {
 public:
  // A Hugging Face folder or a GGUF file. Throws one Error that lists all that is wrong: keys of
  // the config, missing files, tensors that are missing, unexpected, mis-shaped or of a type that
  // nothing computes with. The backend must outlive the model.
  static std::unique_ptr<Model> load(const std::filesystem::path& path, Backend& backend,
                                     const LoadOptions& options = {});
  // A model with weights made by `initial` (training from scratch).
  static std::unique_ptr<Model> create(
      const ModelConfig& config, Backend& backend,
      const std::function<std::vector<float>(const TensorSlot&)>& initial);

  const ModelConfig& config() const { return config_; }
  // For a config that leaves the image placeholder to the tokenizer. Throws Error when the
  // embedding has no such row.
  void set_image_token(int64_t id);
  const ModelFiles& files() const { return files_; }
  Scheme& scheme() { return *scheme_; }
  const Scheme& scheme() const { return *scheme_; }
  Backend& backend() { return backend_; }
  const VisionTower* vision() const { return vision_ ? &*vision_ : nullptr; }
  std::vector<Block>& blocks() { return blocks_; }

  // Every tensor of the model, in a fixed order.
  void visit_tensors(const TensorVisitor& visitor);
  int64_t parameters();                       // stored weights
  int64_t effective_parameters(const Plan&);  // each visit of a block counted

  // Plans made from user options; checked.
  Plan prefill_plan(const PlanOptions& options = {}) const;
  Plan decode_plan(const PlanOptions& options = {}) const;

  // Token embeddings [ids, d], scaled as the blocks want them. Ids are checked against the embedding's rows (Error).
  Tensor embed(std::span<const int32_t> ids);
  // Runs the plan: x [rows, d] -> the state after the last step [rows, d], before the final norm.
  // Sequences' KV rows are appended to and their lengths advanced.
  Tensor forward(const Plan& plan, const Rows& rows, Tensor x, Observer* observer = nullptr);
  // Training: runs every visit through `wrapper`, which is given the state and what the visit makes
  // of it and may run that again later (gradient checkpointing); rows must live until then. An
  // empty one takes it away.
  using Visitation = std::function<Tensor(const Tensor&)>;
  using VisitWrapper = std::function<Tensor(const Tensor& x, Visitation visit)>;
  void set_visit_wrapper(VisitWrapper wrapper) { visit_wrapper_ = std::move(wrapper); }
  Tensor final_norm(const Tensor& x);   // [rows, d]
  Tensor logits(const Tensor& normed);  // [rows, vocabulary]
  KvSpec kv_spec() const { return kv_spec_; }

 private:
  Model(ModelConfig config, Backend& backend, const LoadOptions& options);
  static std::unique_ptr<Model> load_folder(ModelFiles files, Backend& backend,
                                            const LoadOptions& options);
  // How much a check of the files' tensors may rely on.
  struct TensorCheck {
    bool shapes = true;  // false: the config's sizes don't hold, only names and types count
    std::function<bool(const std::string& name)> may_be_missing;  // empty: none
  };
  void check_tensors(const WeightFile& weights, const TensorCheck& check, Problems& problems);
  void find_head(const WeightFile& weights);
  void bind(const WeightFile& weights);
  // active: the rows that run the visit as a whole (others only write their KV and keep x); null:
  // all.
  Tensor run_visit(const Rows& rows, const Step& step, const std::vector<Tensor>& angles,
                   const Tensor& x, const std::vector<int32_t>* active, Observer* observer);

  ModelConfig config_;
  ModelFiles files_;
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
