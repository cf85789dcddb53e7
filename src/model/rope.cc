// Rope's angles. Arithmetic follows the official implementations, which work in float32: inverse
// frequencies, then position * frequency, each rounded to float32.
#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "model/model.h"

namespace reprise {
namespace {

// YaRN: components that turn more than beta_fast times within the original context keep their
// frequency, those that turn less than beta_slow times have it divided by the factor, and between
// lies a ramp over the components' index.
void blend_yarn(const RopeConfig& config, std::vector<float>& inverse) {
  // Index of the (real-valued) component that turns so often.
  const auto index = [&](double rotations) {
    const double wavelength =
        static_cast<double>(config.original_max_position) / (rotations * 2 * std::numbers::pi);
    return config.dim * std::log(wavelength) / (2 * std::log(config.theta));
  };
  double low = index(config.beta_fast), high = index(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, config.dim - 1.0);
  if (low == high) high += 0.001;  // as officially: a step, not a division by zero
  for (size_t i = 0; i < inverse.size(); ++i) {
    const float at =
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float kept = 1 - std::clamp(at, 0.0f, 1.0f);
    const float divided = 1.0f / (static_cast<float>(config.factor) * (1.0f / inverse[i]));
    inverse[i] = divided * (1 - kept) + inverse[i] * kept;
  }
}

std::vector<float> inverse_frequencies(const RopeConfig& config, int64_t total_length) {
  const int half = config.dim / 2;
  float theta = static_cast<float>(config.theta);
  if (config.kind == RopeConfig::Kind::Dynamic && total_length > config.max_position) {
    // theta' = theta (f n / M - (f - 1))^(d / (d - 2)), n the request's length
    const double stretch = config.factor * static_cast<double>(total_length) /
                               static_cast<double>(config.max_position) -
                           (config.factor - 1);
    theta = static_cast<float>(config.theta * std::pow(stretch, config.dim / (config.dim - 2.0)));
  }
  std::vector<float> inverse(static_cast<size_t>(half));
  for (int i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.dim);
    float frequency = std::pow(theta, exponent);
    if (config.kind == RopeConfig::Kind::LongRope) {
      const auto& factors =
          total_length > config.original_max_position ? config.long_factor : config.short_factor;
      frequency *= static_cast<float>(factors[static_cast<size_t>(i)]);
    }
    inverse[static_cast<size_t>(i)] = 1.0f / frequency;
  }
  if (config.kind == RopeConfig::Kind::Linear)
    for (float& f : inverse) f /= static_cast<float>(config.factor);
  if (config.kind == RopeConfig::Kind::Llama3) {
    // Low frequencies are divided by the factor, high ones kept, those between blended (Llama 3.1).
    const double low = static_cast<double>(config.original_max_position) / config.low_freq_factor;
    const double high = static_cast<double>(config.original_max_position) / config.high_freq_factor;
    for (float& f : inverse) {
      const double wavelength = 2 * std::numbers::pi / f;
      if (wavelength > low) {
        f = static_cast<float>(f / config.factor);
      } else if (wavelength >= high) {
        const double smooth = (static_cast<double>(config.original_max_position) / wavelength -
                               config.low_freq_factor) /
                              (config.high_freq_factor - config.low_freq_factor);
        f = static_cast<float>((1 - smooth) * f / config.factor + smooth * f);
      }
    }
  }
  if (config.kind == RopeConfig::Kind::Yarn) blend_yarn(config, inverse);
  return inverse;
}

bool same_rope(const RopeConfig& config, int64_t length, int64_t other) {
  if (config.kind == RopeConfig::Kind::Dynamic)
    return length == other || std::max(length, other) <= config.max_position;
  if (config.kind == RopeConfig::Kind::LongRope)
    return (length > config.original_max_position) == (other > config.original_max_position);
  return true;
}

}  // namespace

bool same_rope(const TextConfig& config, int64_t length, int64_t other) {
  return std::ranges::all_of(
      config.ropes, [&](const RopeConfig& rope) { return same_rope(rope, length, other); });
}

Tensor rope_angles(Backend& be, const RopeConfig& config, const Rows& rows) {
  const int64_t half = config.dim / 2;
  std::vector<float> angles(static_cast<size_t>(rows.size() * config.dim));
  const float factor = static_cast<float>(config.attention_factor);
  std::map<int64_t, std::vector<float>> by_length;  // few distinct lengths in a call
  for (const RowSegment& segment : rows.segments) {
    auto& inverse = by_length[segment.total_length];
    if (inverse.empty()) inverse = inverse_frequencies(config, segment.total_length);
    for (int64_t r = segment.first_row; r < segment.first_row + segment.rows; ++r) {
      float* out = angles.data() + r * config.dim;
      const auto position = static_cast<float>(rows.positions[static_cast<size_t>(r)]);
      for (int64_t i = 0; i < half; ++i) {
        const float angle = position * inverse[static_cast<size_t>(i)];
        out[i] = std::cos(angle) * factor;
        out[half + i] = std::sin(angle) * factor;
      }
    }
  }
  return be.from_host(angles, {rows.size(), config.dim});
}

}  // namespace reprise
