#include "convert/mixes.h"

#include <algorithm>

namespace reprise {
namespace {

// The first and the last eighth of the layers, and every third between.
bool has_more_bits(int layer, int layers) {
  const int eighth = layers / 8;
  return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

DType type_of_values(std::string_view mix, int layer, const MixModel& model, DType base) {
  DType type = base;
  if (mix == "q2_k") type = model.group >= 4 ? DType::Q4_K : DType::Q3_K;
  if (mix == "q3_k_m") type = layer < 2 ? DType::Q5_K : DType::Q4_K;
  if (mix == "q3_k_l") type = DType::Q5_K;
  if (mix == "q4_k_s" && layer < 4) type = DType::Q5_K;
  if ((mix == "q4_k_m" || mix == "q5_k_m") && has_more_bits(layer, model.layers))
    type = DType::Q6_K;
  // Models of 70B weights: these matrices are an eighth of the others.
  const bool large = model.layers == 80 && model.group > 1;
  return large && (type == DType::Q3_K || type == DType::Q4_K) ? DType::Q5_K : type;
}

DType type_of_down(std::string_view mix, int layer, const MixModel& model, DType base) {
  if (mix == "q2_k") return DType::Q3_K;
  if (mix == "q3_k_m") return layer < model.layers / 16 ? DType::Q5_K : DType::Q4_K;
  if (mix == "q3_k_l") return DType::Q5_K;
  if (mix == "q4_k_s" && layer < model.layers / 8) return DType::Q5_K;
  if ((mix == "q4_k_m" || mix == "q5_k_m") && has_more_bits(layer, model.layers))
    return DType::Q6_K;
  return base;
}

}  // namespace

const std::vector<TypeMix>& type_mixes() {
  static const std::vector<TypeMix> mixes = {
      {"q2_k", "", DType::Q2_K, 10},       {"q3_k_s", "", DType::Q3_K, 11},
      {"q3_k_m", "q3_k", DType::Q3_K, 12}, {"q3_k_l", "", DType::Q3_K, 13},
      {"q4_k_s", "", DType::Q4_K, 14},     {"q4_k_m", "q4_k", DType::Q4_K, 15},
      {"q5_k_s", "", DType::Q5_K, 16},     {"q5_k_m", "q5_k", DType::Q5_K, 17},
      {"q6_k", "", DType::Q6_K, 18}};
  return mixes;
}

const TypeMix* find_mix(std::string_view name) {
  for (const TypeMix& mix : type_mixes())
    if (name == mix.name || (!name.empty() && name == mix.alias)) return &mix;
  return nullptr;
}

MixModel mix_model(const TextConfig& text, bool has_head) {
  return {.layers = text.layers,
          .group = text.heads / std::max(1, text.kv_heads),
          .tied = text.tied_head && !has_head};
}

DType mixed_type(const TypeMix& mix, const TensorSlot& slot, int64_t row, const MixModel& model) {
  if (slot.role == Role::Head || (slot.role == Role::Embedding && model.tied))
    return row % block_values(mix.base) == 0 ? DType::Q6_K : DType::Q8_0;
  const std::string_view key = slot.key;
  if (key == "v" || key == "qkv") return type_of_values(mix.name, slot.layer, model, mix.base);
  if (key == "down") return type_of_down(mix.name, slot.layer, model, mix.base);
  if (key == "o") {
    if (mix.name == "q2_k") return DType::Q3_K;
    if (mix.name == "q3_k_m") return DType::Q4_K;
    if (mix.name == "q3_k_l") return DType::Q5_K;
  }
  return mix.base;
}

std::optional<DType> type_for_odd_rows(DType type) {
  switch (type) {
    case DType::Q2_K:
    case DType::Q3_K:
      return DType::Q4_0;
    case DType::Q4_K:
      return DType::Q5_0;
    case DType::Q5_K:
      return DType::Q5_1;
    case DType::Q6_K:
      return DType::Q8_0;
    default:
      return std::nullopt;
  }
}

}  // namespace reprise
