// What the GGUF reader and writer share. Not for other modules.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/dtype.h"
#include "formats/gguf.h"

namespace reprise {

inline constexpr uint32_t kGgufMagic = 0x46554747;  // "GGUF"

// general.alignment, 32 without it. Error unless it is a power of two of a sane size.
uint32_t gguf_alignment(const GgufMetadata& metadata);

inline uint64_t gguf_align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

// One file as it is, a part of a split model included.
GgufFile open_gguf_part(const std::filesystem::path& path);

// ggml's number of a tensor type, and back; Error naming file and tensor for what is not supported.
DType gguf_tensor_type(uint32_t id, const std::string& where, std::string_view tensor);
uint32_t gguf_tensor_type_id(DType type, const std::string& where, std::string_view tensor);

}  // namespace reprise
