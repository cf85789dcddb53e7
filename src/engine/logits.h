// What is asked of logits: whether they are numbers (and which weight of the file is to blame where
// they are not), and how far two are apart.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "model/model.h"

namespace reprise {

// Throws Error where a logit is NaN or +infinity: "<what>: logits are NaN; <file>: tensor '<name>'
// holds NaN or infinity". Looks through the file's tensors only then.
void check_logits(const Model& model, std::span<const float> logits, const std::string& what);

// -log softmax(logits)[token], in nats and float64. token is one of them.
double negative_log_likelihood(std::span<const float> logits, int32_t token);

// KL(softmax(p) || softmax(q)) in nats.
double kl_divergence(std::span<const float> p, std::span<const float> q);

}  // namespace reprise
