// Weights of a file's own format as F32 values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/dtype.h"

namespace reprise {

// F32 F16 BF16 F64 I32 I64 Q8_0 Q4_0 Q4_1.
bool can_dequantize(DType type);

// Writes values [begin, end) of a dense tensor whose bytes are `bytes` (any alignment) to
// out[0, end - begin). begin and end are multiples of the type's block size.
void dequantize(DType type, std::span<const std::byte> bytes, int64_t begin, int64_t end,
                float* out);

}  // namespace reprise
