#include "formats/gguf_layout.h"

#include <bit>

#include "base/error.h"

namespace reprise {
namespace {

constexpr const char* kAlignmentKey = "general.alignment";
constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1 << 20;

// All of ggml's numbers, to name in messages what is not supported here.
struct TypeName {
  uint32_t id;
  std::string_view name;
};
constexpr TypeName kTypeNames[] = {
    {0, "F32"},         {1, "F16"},         {2, "Q4_0"},   {3, "Q4_1"},    {6, "Q5_0"},
    {7, "Q5_1"},        {8, "Q8_0"},        {9, "Q8_1"},   {10, "Q2_K"},   {11, "Q3_K"},
    {12, "Q4_K"},       {13, "Q5_K"},       {14, "Q6_K"},  {15, "Q8_K"},   {16, "IQ2_XXS"},
    {17, "IQ2_XS"},     {18, "IQ3_XXS"},    {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"},
    {22, "IQ2_S"},      {23, "IQ4_XS"},     {24, "I8"},    {25, "I16"},    {26, "I32"},
    {27, "I64"},        {28, "F64"},        {29, "IQ1_M"}, {30, "BF16"},   {31, "Q4_0_4_4"},
    {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"},   {34, "TQ1_0"}, {35, "TQ2_0"},  {36, "IQ4_NL_4_4"},
    {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {39, "MXFP4"}, {40, "NVFP4"},  {41, "Q1_0"},
    {42, "Q2_0"}};
// Integers and F64 are never computed with: buffers that a folder's files hold beside the weights.
std::string supported_names() {
  std::vector<DType> types = all_types();
  std::erase_if(types, [](DType type) { return gguf_type_id(type) < 0; });
  return type_names(types);
}

}  // namespace

DType gguf_tensor_type(uint32_t id, const std::string& where, std::string_view tensor) {
  for (const DType type : all_types())
    if (gguf_type_id(type) >= 0 && static_cast<uint32_t>(gguf_type_id(type)) == id) return type;
  for (const TypeName& type : kTypeNames)
    if (type.id == id)
      fail("{}: tensor '{}' has type {}, which is not supported, expected {}", where, tensor,
           type.name, supported_names());
  fail("{}: tensor '{}' has the unknown type number {}", where, tensor, id);
}

uint32_t gguf_tensor_type_id(DType type, const std::string& where, std::string_view tensor) {
  if (const int id = gguf_type_id(type); id >= 0) return static_cast<uint32_t>(id);
  fail("{}: tensor '{}' can't be stored as {}, expected {}", where, tensor, dtype_name(type),
       supported_names());
}

uint32_t gguf_alignment(const GgufMetadata& metadata) {
  if (!metadata.has(kAlignmentKey)) return kDefaultAlignment;
  const uint32_t alignment = metadata.get_u32(kAlignmentKey);
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment)
    metadata.fail_at(kAlignmentKey, fmt::format("expected a power of two up to {}, found {}",
                                                kMaxAlignment, alignment));
  return alignment;
}

}  // namespace reprise
