// Where the training loop gets its batches from. A source knows its data (conversations, text,
// tokens); the loop knows none of it.
//
// Contract: the batches of a source are a pure function of the recipe and of its position, so a run
// that goes on from a checkpoint sees exactly what an uninterrupted one would have. What a source
// holds in memory is bounded whatever its files' sizes; a batch's heavy inputs can be dropped and
// made again (Batch::drop_inputs).
//
// A new kind of data: one file beside this one and one line in make_batch_source.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "model/config/config.h"
#include "text/chat/chat.h"
#include "text/tokenizer/tokenizer.h"
#include "train/data/batch.h"
#include "train/fingerprint.h"
#include "train/recipe/recipe.h"

namespace reprise {

class BatchSource {
 public:
  virtual ~BatchSource() = default;

  // The next forward call's rows. Throws Error naming the file where data are gone or wrong; the
  // position is then as before.
  virtual Batch next() = 0;
  // Where it stands (what a checkpoint stores: calls done, or epoch and place in it), and back.
  // seek throws Error beginning with `where` for a text that position() doesn't give.
  virtual std::string position() const = 0;
  virtual void seek(const std::string& position, const std::string& where) = 0;

  // Of files whose contents position() doesn't tell apart.
  virtual Fingerprints fingerprints() const { return {}; }

  // Held-out examples: how many, and [begin, end) of them as one batch.
  virtual int64_t validation_size() const = 0;
  virtual Batch validation(int64_t begin, int64_t end) const = 0;
};

// What a source may need beside the recipe.
struct BatchSourceInputs {
  const ModelConfig& config;             // as the tokenizer, it must outlive the source
  const Tokenizer* tokenizer = nullptr;  // null: the model has none, and the data need none
  std::optional<ChatFormat> format;      // the recipe's, the model's or the tokenizer's; none known
  bool wrong_answers = false;            // the objective compares right answers with wrong ones
  std::filesystem::path cache;           // folder for files that a source makes of its data
  std::function<void()> may_stop = [] {};  // called now and then; what it throws ends the work
};

// Throws Error naming the file where data can't be trained on, before a run has begun. The recipe
// must outlive the source.
std::unique_ptr<BatchSource> make_batch_source(const Recipe& recipe,
                                               const BatchSourceInputs& inputs);

}  // namespace reprise
