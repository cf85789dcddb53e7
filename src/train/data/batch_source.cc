#include "train/data/batch_source.h"

#include "train/data/conversation_batches.h"
#include "train/data/text_batches.h"

namespace reprise {

std::unique_ptr<BatchSource> make_batch_source(const Recipe& recipe,
                                               const BatchSourceInputs& inputs) {
  if (!recipe.texts.empty()) return std::make_unique<TextBatches>(recipe, inputs);
  return std::make_unique<ConversationBatches>(recipe, inputs);
}

}  // namespace reprise
