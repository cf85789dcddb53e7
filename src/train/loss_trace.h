// Loss and gradients of labelled inputs from a file: the counterpart of trace/trace.h for
// training.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/loaded_model.h"

namespace reprise {

// Whether the file holds `labels`.
bool has_labels(const std::filesystem::path& file);

// Inputs: labels int64 [n] or [1, n] (-100: not counted; label t is predicted at position t - 1),
// and either inputs_embeds F32 [n, d], or input_ids with, where they hold picture placeholders,
// image_features F32 [tiles, tokens, .] (what enters the projector) or pixel_values.
// Results: loss [1] (mean over counted labels), logits [n, V] that it was made of, and where the
// model's backend trains grad.<tensor> of every weight. Throws Error naming file and tensor.
std::vector<TensorView> trace_loss(LoadedModel& loaded, const std::filesystem::path& file);

}  // namespace reprise
