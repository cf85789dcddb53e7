// Which type each tensor of a converted model is stored as.
//
//   keep           every tensor's own type: the conversion loses nothing
//   f32            all floats and quantized values, exactly
//   f16, bf16      matrices and tables; vectors, gates and a scheme's own matrices keep their
//                  type, since they are small and sensitive
//   a quantized one that is written (q8_0, q4_0, q4_1: can_quantize)
//                  by role: attention and MLP matrices in this type; embedding, head and
//                  low-rank adapters in Q8_0; vision tower, projector, gates and a scheme's own
//                  matrices as they are (or `delicate`); norms and biases as they are
//
// A row that doesn't divide into the type's blocks can't be quantized: such a tensor becomes F16
// (BF16 where it was). A tensor that is quantized already and no larger than asked for stays as it is, and so
// does a vector that an override asks to quantize.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/tensor_view.h"
#include "model/tensor_table.h"

namespace reprise {

struct TypeRules {
  std::optional<DType> type;      // nullopt: keep
  std::optional<DType> delicate;  // of vision tower, projector, gates and the like
  // Pattern of names and type (nullopt: keep); the first that matches counts before all else.
  std::vector<std::pair<std::string, std::optional<DType>>> overrides;
};

enum class TypeNote { None, OddRows, AlreadySmaller, Vector };

struct TypeChoice {
  DType type;
  TypeNote note = TypeNote::None;
};

// slot: what the model knows about the tensor; nullptr where it knows nothing (unused tensors,
// unknown architectures).
TypeChoice choose_type(const TensorView& tensor, const TensorSlot* slot, const TypeRules& rules);

// What parse_type takes, for help and messages: "keep, f32, f16, bf16, q8_0, q4_0, q4_1";
// quantized_only: "q8_0, q4_0, q4_1".
std::string type_options(bool quantized_only = false);
// One of type_options() in either case; "keep" is nullopt. Throws Error that lists them; `option`
// begins the message.
std::optional<DType> parse_type(const std::string& text, const std::string& option);
// "PATTERN=TYPE".
std::pair<std::string, std::optional<DType>> parse_override(const std::string& text,
                                                            const std::string& option);

// Throws Error naming option, value and target where the rules ask a Hugging Face folder for
// quantized tensors, which it can't hold.
void check_folder_types(const TypeRules& rules, const std::string& target);

}  // namespace reprise
