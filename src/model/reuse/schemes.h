// The schemes' factories, for the registry.
#pragma once

#include <memory>

#include "model/scheme.h"

namespace reprise {

std::unique_ptr<Scheme> make_dense_scheme(const ModelConfig& config);
std::unique_ptr<Scheme> make_replay_scheme(const ModelConfig& config);
std::unique_ptr<Scheme> make_trol_scheme(const ModelConfig& config);
std::unique_ptr<Scheme> make_phantom_scheme(const ModelConfig& config);
std::unique_ptr<Scheme> make_recursive_scheme(const ModelConfig& config);

}  // namespace reprise
