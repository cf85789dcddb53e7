#include "backend/cpu/memory/packing.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "backend/cpu/memory/huge_pages.h"
#include "base/error.h"
#include "base/quant/type.h"

namespace reprise::cpu {
namespace {

constexpr int64_t kBlock = 32;     // values per quantization block
constexpr size_t kAlignment = 64;  // one cache line, one AVX-512 vector
constexpr size_t kSmallestHuge = 2 * kHugePage;

std::byte* allocate(size_t bytes) {
  std::byte* memory = bytes >= kSmallestHuge
                          ? allocate_huge(bytes)
                          : static_cast<std::byte*>(std::aligned_alloc(
                                kAlignment, round_up(std::max<size_t>(bytes, 1), kAlignment)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

#define REPRISE_QUANT(name, values, bytes, gguf, scales, quads) \
  static_assert(quads == 0 || bytes <= kMostBlockBytes);
#include "base/quant/types.def"

}  // namespace

void PackedWeights::Free::operator()(std::byte* memory) const {
  if (bytes >= kSmallestHuge)
    free_huge(memory, bytes);
  else
    std::free(memory);
}

PanelLayout panel_layout(DType type) {
  switch (type) {
#define REPRISE_QUANT(name, ...) \
  case DType::name:              \
    return kPanelLayout<DType::name>;
#include "base/quant/types.def"
    default:
      return {};
  }
}

PackedWeights pack(DType type, int64_t n, int64_t k, const std::byte* file_rows, int panel,
                   ThreadPool* pool) {
  REPRISE_CHECK(k % kBlock == 0 && n >= 0 && panel >= 0, "n {}, k {}, panel {}", n, k, panel);
  if (panel == 0) panel = 16;
  const PanelLayout layout = panel_layout(type);
  REPRISE_CHECK(layout.quads > 0, "type {} can't be packed", dtype_name(type));
  const int64_t blocks = k / kBlock;
  const int64_t groups = (n + panel - 1) / panel;
  const int64_t file_block = block_bytes(type);
  const int64_t quad_bytes = 4 * panel;
  const int64_t group_quants = blocks * layout.quads * quad_bytes;
  const int64_t group_scales = blocks * layout.scales * panel;  // numbers

  PackedWeights packed;
  const size_t quant_bytes = round_up(static_cast<size_t>(groups * group_quants), kAlignment);
  packed.bytes_ = static_cast<int64_t>(quant_bytes) + groups * group_scales * 2;
  const auto bytes = static_cast<size_t>(packed.bytes_);
  packed.memory_ = {allocate(bytes), PackedWeights::Free{bytes}};
  std::byte* const quants = packed.memory_.get();
  uint16_t* const scales = reinterpret_cast<uint16_t*>(quants + quant_bytes);
  packed.matrix_ = {type, panel, n, k, quants, scales};

  const auto pack_group = [&](int64_t group) {
    std::byte* const group_q = quants + group * group_quants;
    uint16_t* const group_s = scales + group * group_scales;
    const int64_t rows = std::min<int64_t>(panel, n - group * panel);
    if (rows < panel) {
      std::memset(group_q, 0, static_cast<size_t>(group_quants));
      std::memset(group_s, 0, static_cast<size_t>(group_scales) * 2);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const std::byte* source = file_rows + (group * panel + r) * blocks * file_block;
      for (int64_t b = 0; b < blocks; ++b, source += file_block) {
        for (int64_t s = 0; s < layout.scales; ++s)
          std::memcpy(group_s + (b * layout.scales + s) * panel + r, source + 2 * s, 2);
        for (int64_t j = 0; j < layout.quads; ++j)
          std::memcpy(group_q + (b * layout.quads + j) * quad_bytes + 4 * r,
                      source + 2 * layout.scales + 4 * j, 4);
      }
    }
  };
  if (pool) {
    pool->run(groups, [&](int64_t group, int) { pack_group(group); });
  } else {
    for (int64_t group = 0; group < groups; ++group) pack_group(group);
  }
  return packed;
}

void unpack_block(const PackedMatrix& w, int64_t row, int64_t block, std::byte* out) {
  const PanelLayout layout = panel_layout(w.type);
  const int64_t at = row / w.panel * (w.k / kBlock) + block;
  const int64_t lane = row % w.panel;
  for (int64_t s = 0; s < layout.scales; ++s, out += 2)
    std::memcpy(out, w.scales + (at * layout.scales + s) * w.panel + lane, 2);
  for (int64_t j = 0; j < layout.quads; ++j, out += 4)
    std::memcpy(out, w.quants + ((at * layout.quads + j) * w.panel + lane) * 4, 4);
}

void unpack_row(const PackedMatrix& w, int64_t row, float* out) {
  REPRISE_CHECK(row >= 0 && row < w.n, "row {} of {}", row, w.n);
  std::byte file_block[kMostBlockBytes];
  const QuantCode& code = quant_code(w.type);
  for (int64_t b = 0; b < w.k / kBlock; ++b) {
    unpack_block(w, row, b, file_block);
    code.dequantize(file_block, out + b * kBlock, 1);
  }
}

}  // namespace reprise::cpu
