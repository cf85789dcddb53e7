// The model a student learns from: run beside it without gradients, on the same backend.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "backend/train_backend.h"
#include "model/model.h"
#include "text/tokenizer/tokenizer.h"
#include "train/data/batch.h"

namespace reprise {

class Teacher {
 public:
  // bits: of the matrices in its blocks; nullopt: F32. Throws what Model::load does, and one Error
  // naming both models where their vocabularies differ.
  Teacher(const std::filesystem::path& path, std::optional<LowBitKind> bits, const Model& student,
          const Tokenizer* student_tokenizer, TrainBackend& backend);

  // Of the batch's targets [targets, vocabulary]; a constant.
  Tensor logits(const Batch& batch) const;
  // What they are made of by the head: [targets, d].
  Tensor normed(const Batch& batch) const;
  const Model& model() const { return *model_; }
  // Seconds its forward passes took since they were last taken.
  double take_seconds() { return std::exchange(seconds_, 0); }
  // Throws Error where rows of so many tokens are longer than its context.
  void check_context(int64_t tokens) const;
  // Of its files' config and weights, whatever the bits.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  TrainBackend& backend_;
  std::unique_ptr<Model> model_;
  Plan plan_;
  mutable double seconds_ = 0;
  std::string fingerprint_;
};

}  // namespace reprise
