// Mixes of quantized types as llama.cpp's files have them: Q4_K_M and the like. The name says the
// type of most matrices; those whose errors matter more have more bits, in some layers or in all.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config/config.h"
#include "model/tensor_table.h"

namespace reprise {

struct TypeMix {
  std::string_view name;   // "q4_k_m"
  std::string_view alias;  // "q4_k"; may be empty
  DType base;
  int file_type;  // general.file_type
};
const std::vector<TypeMix>& type_mixes();
// By name or alias in lower case; null where there is none.
const TypeMix* find_mix(std::string_view name);

// What a mix depends on besides the tensor.
struct MixModel {
  int layers = 0;     // those that the file has
  int group = 1;      // query heads that share a KV head
  bool tied = false;  // the embedding is the head too
};
MixModel mix_model(const TextConfig& text, bool has_head);

// The type of a matrix of the language model with rows of `row` values, which may not divide into
// its blocks.
DType mixed_type(const TypeMix& mix, const TensorSlot& slot, int64_t row, const MixModel& model);

// What llama.cpp takes in place of a type with blocks of 256 where rows don't divide into them: a
// larger type with blocks of 32. Nullopt for other types.
std::optional<DType> type_for_odd_rows(DType type);

}  // namespace reprise
