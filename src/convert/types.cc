#include "convert/types.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/pattern.h"

namespace reprise {
namespace {

std::string lower(std::string_view name) {
  std::string text(name);
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return text;
}

double bits_per_value(DType type) {
  return 8.0 * static_cast<double>(block_bytes(type)) / static_cast<double>(block_values(type));
}

bool has_values(DType type) { return is_float(type) || is_quantized(type); }

bool is_delicate(Role role) {
  return role == Role::Vision || role == Role::Projector || role == Role::Gate ||
         role == Role::Scheme;
}

// Norms, biases, position tables: nothing computes with quantized ones.
bool is_vector(const TensorView& tensor, const TensorSlot* slot) {
  return slot ? slot->use == WeightUse::Vector : tensor.shape.size() < 2;
}

// What the rules ask for, before it is known whether the tensor can have that type.
std::optional<DType> wanted_type(const TensorView& tensor, const TensorSlot* slot,
                                 const TypeRules& rules) {
  for (const auto& [pattern, type] : rules.overrides)
    if (matches_pattern(pattern, tensor.name)) return type;
  if (!rules.type) return std::nullopt;
  const DType type = *rules.type;
  if (type == DType::F32) return type;
  if (is_vector(tensor, slot)) return std::nullopt;
  if (!is_quantized(type)) {
    const bool small = slot && (slot->role == Role::Gate || slot->role == Role::Scheme);
    return small ? std::nullopt : std::optional(type);
  }
  if (!slot) return std::nullopt;
  if (is_delicate(slot->role)) return rules.delicate;
  switch (slot->role) {
    case Role::Attention:
    case Role::Mlp:
    case Role::Embedding:
    case Role::Head:
      if (rules.mix) return mixed_type(*rules.mix, *slot, tensor.shape.back(), rules.model);
      if (slot->role == Role::Attention || slot->role == Role::Mlp) return type;
      return DType::Q8_0;
    case Role::Adapter:
      return DType::Q8_0;
    default:
      return std::nullopt;
  }
}

}  // namespace

TypeChoice choose_type(const TensorView& tensor, const TensorSlot* slot, const TypeRules& rules) {
  std::optional<DType> wanted = wanted_type(tensor, slot, rules);
  if (!wanted || !has_values(tensor.type) || *wanted == tensor.type) return {tensor.type};
  if (is_quantized(*wanted)) {
    if (is_vector(tensor, slot)) return {tensor.type, TypeNote::Vector};
    const int64_t row = tensor.shape.empty() ? 1 : tensor.shape.back();
    TypeNote note = TypeNote::None;
    if (const auto other = type_for_odd_rows(*wanted); other && row % block_values(*wanted) != 0) {
      wanted = other;
      note = TypeNote::SmallerBlocks;
    }
    if (is_quantized(tensor.type) && bits_per_value(*wanted) >= bits_per_value(tensor.type))
      return {tensor.type, TypeNote::AlreadySmaller};
    if (row % block_values(*wanted) != 0) {
      const bool half = tensor.type == DType::F16 || tensor.type == DType::BF16;
      return {half ? tensor.type : DType::F16, TypeNote::OddRows};
    }
    return {*wanted, note};
  }
  return {*wanted};
}

std::string type_options(bool quantized_only) {
  std::string options = quantized_only ? "" : "keep";
  const auto add = [&](std::string_view name) {
    options += (options.empty() ? "" : ", ") + std::string(name);
  };
  for (const DType type : all_types()) {
    const std::string name = lower(dtype_name(type));
    if (can_quantize(type) && (is_quantized(type) || !quantized_only) && !find_mix(name)) add(name);
  }
  for (const TypeMix& mix : type_mixes()) add(mix.name);
  return options;
}

void set_type(TypeRules& rules, const std::string& text, const std::string& option) {
  rules.mix = find_mix(lower(text));
  rules.type = std::nullopt;
  if (rules.mix) {
    rules.type = rules.mix->base;
    return;
  }
  if (lower(text) == "keep") return;
  for (const DType type : all_types())
    if (can_quantize(type) && lower(dtype_name(type)) == lower(text)) rules.type = type;
  if (!rules.type) fail("{}: unknown type '{}', expected one of {}", option, text, type_options());
}

std::string type_name(const TypeRules& rules) {
  std::string name(rules.mix ? rules.mix->name : rules.type ? dtype_name(*rules.type) : "keep");
  if (rules.mix)
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return std::toupper(c); });
  return name;
}

std::optional<DType> parse_type(const std::string& text, const std::string& option) {
  if (lower(text) == "keep") return std::nullopt;
  std::string known = "keep";
  for (const DType type : all_types()) {
    if (!can_quantize(type)) continue;
    const std::string name = lower(dtype_name(type));
    if (name == lower(text)) return type;
    known += ", " + name;
  }
  fail("{}: unknown type '{}', expected one of {}", option, text, known);
}

std::pair<std::string, std::optional<DType>> parse_override(const std::string& text,
                                                            const std::string& option) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0)
    fail("{}: '{}': expected PATTERN=TYPE, as in '*.down_proj.weight=q8_0'", option, text);
  return {text.substr(0, equals), parse_type(text.substr(equals + 1), option)};
}

void check_folder_types(const TypeRules& rules, const std::string& target) {
  const auto check = [&](const std::string& option, std::optional<DType> type,
                         std::string_view name = {}) {
    if (type && is_quantized(*type))
      fail(
          "{}{}: {} is to be a folder, which holds no quantized tensors; expected keep, f32, f16 or "
          "bf16, or a target that ends in .gguf",
          option, lower(name.empty() ? dtype_name(*type) : name), target);
  };
  check("--type ", rules.type, type_name(rules));
  check("--sensitive ", rules.delicate);
  for (const auto& [pattern, type] : rules.overrides) check("--keep " + pattern + "=", type);
}

}  // namespace reprise
