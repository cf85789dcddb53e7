// Logits that are no numbers, and which weight of the file is to blame.
#pragma once

#include <span>
#include <string>

#include "model/model.h"

namespace reprise {

// Throws Error where a logit is NaN or +infinity: "<what>: logits are NaN; <file>: tensor '<name>'
// holds NaN or infinity". Looks through the file's tensors only then.
void check_logits(const Model& model, std::span<const float> logits, const std::string& what);

}  // namespace reprise
