#include "train/objectives/teacher.h"

#include "base/clock.h"
#include "base/error.h"
#include "text/tokenizer/tokenizer_files.h"
#include "train/fingerprint.h"
#include "train/forward.h"
#include "train/objectives/objective.h"
#include "train/train_tokenizer.h"

namespace reprise {
namespace {

// "folder/model", or what its config calls itself where it was made in memory.
std::string name_of(const Model& model) {
  const std::string path = model.source().path().string();
  return path.empty() ? model.config().where : path;
}

void check_vocabulary(const Model& teacher, const Model& student,
                      const Tokenizer* student_tokenizer) {
  const int64_t theirs = teacher.config().text.vocab, ours = student.config().text.vocab;
  if (theirs != ours)
    fail("teacher {} has a vocabulary of {} tokens, student {} one of {}; expected the same",
         name_of(teacher), theirs, name_of(student), ours);
  if (!student_tokenizer || !has_tokenizer(teacher.source())) return;
  const auto tokenizer = train_tokenizer_of(teacher.source(), "").make();
  const int32_t both = std::min(tokenizer->vocab_size(), student_tokenizer->vocab_size());
  for (int32_t id = 0; id < both; ++id)
    if (tokenizer->token_bytes(id) != student_tokenizer->token_bytes(id))
      fail("teacher {} and student {} have other vocabularies: token {} is '{}' and '{}'",
           name_of(teacher), name_of(student), id, tokenizer->token_bytes(id),
           student_tokenizer->token_bytes(id));
}

// Off for the time of a scope; then on, as it is everywhere else in training.
class NoRecording {
 public:
  explicit NoRecording(TrainBackend& backend) : backend_(backend) { backend_.set_recording(false); }
  ~NoRecording() { backend_.set_recording(true); }
  NoRecording(const NoRecording&) = delete;
  NoRecording& operator=(const NoRecording&) = delete;

 private:
  TrainBackend& backend_;
};

}  // namespace

Teacher::Teacher(const std::filesystem::path& path, std::optional<LowBitKind> bits,
                 const Model& student, const Tokenizer* student_tokenizer, TrainBackend& backend)
    : backend_(backend), model_(Model::load(path, backend)) {
  check_vocabulary(*model_, student, student_tokenizer);
  plan_ = model_->prefill_plan();
  fingerprint_ = model_fingerprint(*model_);
  if (!bits) return;
  model_->visit_tensors([&](const TensorSlot& slot) {
    if (slot.use == WeightUse::Matrix && (slot.role == Role::Attention || slot.role == Role::Mlp))
      backend_.quantize_weight(*slot.tensor, *bits);
  });
}

Tensor Teacher::logits(const Batch& batch) const {
  const Tensor state = normed(batch);
  const NoRecording scope(backend_);
  return model_->logits(state);
}

void Teacher::check_context(int64_t tokens) const {
  const int64_t limit = context_limit(model_->config().text);
  if (limit > 0 && tokens > limit)
    fail("teacher {}: its context has {} tokens, rows have {}", name_of(*model_), limit, tokens);
}

Tensor Teacher::normed(const Batch& batch) const {
  const auto start = Clock::now();
  for (const RowSegment& segment : batch.rows.segments) check_context(segment.total_length);
  const NoRecording scope(backend_);
  const Tensor state = run_forward(*model_, plan_, batch).state;
  Tensor normed = model_->final_norm(target_states(backend_, batch, state));
  seconds_ += seconds_since(start);
  return normed;
}

}  // namespace reprise
