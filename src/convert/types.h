// Which type each tensor of a converted model is stored as.
//
//   keep           every tensor's own type: the conversion loses nothing
//   f32            all floats and quantized values, exactly
//   f16, bf16      matrices and tables; vectors, gates and a scheme's own matrices keep their
//                  type, since they are small and sensitive
//   a quantized one that is written (q8_0, q4_0, q4_1, q5_0, q5_1)
//                  by role: attention and MLP matrices in this type; embedding, head and
//                  low-rank adapters in Q8_0; vision tower, projector, gates and a scheme's own
//                  matrices as they are (or `delicate`); norms and biases as they are
//   a mix (q4_k_m, ...: mixes.h)
//                  the same, but llama.cpp's choice for the matrices, embedding and head
//
// Where rows don't divide into blocks of 256 a type with blocks of 32 stands in
// (type_for_odd_rows). Where they don't divide into these either, the tensor can't be quantized: it
// becomes F16 (BF16 where it was). A tensor that is quantized already and no larger than asked for stays as it is, and so
// does a vector that an override asks to quantize.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "convert/mixes.h"
#include "formats/tensor_view.h"
#include "model/tensor_table.h"

namespace reprise {

struct TypeRules {
  std::optional<DType> type;  // nullopt: keep; of a mix: that of most matrices
  const TypeMix* mix = nullptr;
  MixModel model;                 // for a mix: what is converted
  std::optional<DType> delicate;  // of vision tower, projector, gates and the like
  // Pattern of names and type (nullopt: keep); the first that matches counts before all else.
  std::vector<std::pair<std::string, std::optional<DType>>> overrides;
};

// OddRows: no quantized type fits the rows; SmallerBlocks: one with smaller blocks does.
enum class TypeNote { None, OddRows, SmallerBlocks, AlreadySmaller, Vector };

struct TypeChoice {
  DType type;
  TypeNote note = TypeNote::None;
};

// slot: what the model knows about the tensor; nullptr where it knows nothing (unused tensors,
// unknown architectures).
TypeChoice choose_type(const TensorView& tensor, const TensorSlot* slot, const TypeRules& rules);

// What set_type takes, for help and messages: "keep, f32, f16, bf16, q8_0, ..., q4_k_m";
// quantized_only: "q8_0, ..., q4_k_m".
std::string type_options(bool quantized_only = false);
// Sets type and mix to one of type_options(), in either case, or to a mix's alias. Throws Error that
// lists them; `option` begins the message.
void set_type(TypeRules& rules, const std::string& text, const std::string& option);
// The name of what was set: "Q4_0", "Q4_K_M"; "keep" without.
std::string type_name(const TypeRules& rules);

// "keep" (nullopt) or a type that is written, of a single tensor. Throws Error that lists them.
std::optional<DType> parse_type(const std::string& text, const std::string& option);
// "PATTERN=TYPE".
std::pair<std::string, std::optional<DType>> parse_override(const std::string& text,
                                                            const std::string& option);

// Throws Error naming option, value and target where the rules ask a Hugging Face folder for
// quantized tensors, which it can't hold.
void check_folder_types(const TypeRules& rules, const std::string& target);

}  // namespace reprise
