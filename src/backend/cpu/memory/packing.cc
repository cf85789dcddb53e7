#include "backend/cpu/memory/packing.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "backend/cpu/memory/huge_pages.h"
#include "base/error.h"

namespace reprise::cpu {
namespace {

constexpr int kBlock = 32;          // values of a run of quads
constexpr uint16_t kSign = 0x8000;  // of an F16
constexpr size_t kAlignment = 64;   // one cache line, one AVX-512 vector
constexpr size_t kSmallestHuge = 2 * kHugePage;

std::byte* allocate(size_t bytes) {
  std::byte* memory = bytes >= kSmallestHuge
                          ? allocate_huge(bytes)
                          : static_cast<std::byte*>(std::aligned_alloc(
                                kAlignment, round_up(std::max<size_t>(bytes, 1), kAlignment)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

// A record of PackedMatrix: numbers, then codes.
struct RecordLayout {
  int64_t numbers;  // bytes
  int64_t codes;
  int64_t bytes() const { return numbers + codes; }
};
RecordLayout record_layout(const QuantLayout& layout, int64_t panel) {
  return {2 * layout.numbers * panel,
          layout.values / layout.part * code_bytes(layout.code) * panel};
}

// Whether the second number is negated in records.
bool is_negated(const QuantLayout& layout) {
  return layout.numbers == 2 && layout.code != ScaleCode::None;
}

// Pairs of bits of 32 values in two quads.
void put_pairs(const uint8_t* q, int shift, std::byte* quads) {
  for (int i = 0; i < 8; ++i) {
    int byte = 0;
    for (int pair = 0; pair < 4; ++pair) byte |= (q[8 * pair + i] >> shift & 3) << 2 * pair;
    quads[i] = static_cast<std::byte>(byte);
  }
}
void put_highest(const uint8_t* q, int shift, std::byte* quad) {
  for (int i = 0; i < 4; ++i) {
    int byte = 0;
    for (int bit = 0; bit < 8; ++bit) byte |= (q[4 * bit + i] >> shift & 1) << bit;
    quad[i] = static_cast<std::byte>(byte);
  }
}

// The quads of 32 quants, one row of a panel, and back.
void make_quads(int bits, const uint8_t* q, std::byte* quads) {
  if (bits == 8) {
    std::memcpy(quads, q, kBlock);
  } else if (bits >= 4) {
    for (int i = 0; i < 16; ++i) quads[i] = static_cast<std::byte>((q[i] & 15) | q[16 + i] << 4);
    if (bits == 5) put_highest(q, 4, quads + 16);
    if (bits == 6) put_pairs(q, 4, quads + 16);
  } else {
    put_pairs(q, 0, quads);
    if (bits == 3) put_highest(q, 2, quads + 8);
  }
}
void add_pairs(const std::byte* quads, int shift, uint8_t* q) {
  for (int i = 0; i < kBlock; ++i) {
    const int byte = std::to_integer<int>(quads[i % 8]);
    q[i] = static_cast<uint8_t>(q[i] | (byte >> (i / 8 * 2) & 3) << shift);
  }
}
void add_highest(const std::byte* quad, int shift, uint8_t* q) {
  for (int i = 0; i < kBlock; ++i) {
    const int byte = std::to_integer<int>(quad[i % 4]);
    q[i] = static_cast<uint8_t>(q[i] | (byte >> (i / 4) & 1) << shift);
  }
}
void read_quads(int bits, const std::byte* quads, uint8_t* q) {
  if (bits == 8) {
    std::memcpy(q, quads, kBlock);
  } else if (bits >= 4) {
    split_halves(quads, 16, q);
    if (bits == 5) add_highest(quads + 16, 4, q);
    if (bits == 6) add_pairs(quads + 16, 4, q);
  } else {
    std::memset(q, 0, kBlock);
    add_pairs(quads, 0, q);
    if (bits == 3) add_highest(quads + 8, 2, q);
  }
}

}  // namespace

void PackedWeights::Free::operator()(std::byte* memory) const {
  if (bytes >= kSmallestHuge)
    free_huge(memory, bytes);
  else
    std::free(memory);
}

PackedWeights pack(DType type, int64_t n, int64_t k, const std::byte* file_rows, int panel,
                   ThreadPool* pool) {
  if (panel == 0) panel = 16;
  const QuantLayout& layout = quant_layout(type);
  REPRISE_CHECK(k % layout.values == 0 && n >= 0 && panel >= 0, "n {}, k {}, panel {}", n, k,
                panel);
  const auto split = quant_code(type).split;
  const int64_t blocks = k / layout.values, runs = layout.values / kBlock;
  const int64_t groups = (n + panel - 1) / panel;
  const int64_t quad_bytes = 4 * panel, run_bytes = layout.bits * quad_bytes;
  const int64_t group_quants = blocks * runs * run_bytes;
  const RecordLayout record = record_layout(layout, panel);
  const int64_t codes = record.codes / panel;  // of a row's block

  PackedWeights packed;
  const size_t quant_bytes = round_up(static_cast<size_t>(groups * group_quants), kAlignment);
  packed.bytes_ = static_cast<int64_t>(quant_bytes) + groups * blocks * record.bytes();
  const auto bytes = static_cast<size_t>(packed.bytes_);
  packed.memory_ = {allocate(bytes), PackedWeights::Free{bytes}};
  std::byte* const quants = packed.memory_.get();
  std::byte* const records = quants + quant_bytes;
  packed.matrix_ = {type, panel, n, k, quants, records};

  const auto pack_group = [&](int64_t group) {
    std::byte* const group_q = quants + group * group_quants;
    std::byte* const group_r = records + group * blocks * record.bytes();
    const int64_t rows = std::min<int64_t>(panel, n - group * panel);
    if (rows < panel) {
      std::memset(group_q, 0, static_cast<size_t>(group_quants));
      std::memset(group_r, 0, static_cast<size_t>(blocks * record.bytes()));
    }
    QuantBlock block;
    std::byte quads[kBlock];
    for (int64_t r = 0; r < rows; ++r) {
      const std::byte* source = file_rows + (group * panel + r) * blocks * layout.bytes;
      for (int64_t b = 0; b < blocks; ++b, source += layout.bytes) {
        split(source, block);
        if (is_negated(layout)) block.numbers[1] ^= kSign;
        std::byte* const to = group_r + b * record.bytes();
        for (int64_t i = 0; i < layout.numbers; ++i)
          std::memcpy(to + 2 * (i * panel + r), &block.numbers[i], 2);
        for (int64_t i = 0; i < codes; ++i)
          to[record.numbers + i * panel + r] = static_cast<std::byte>(block.codes[i]);
        for (int64_t run = 0; run < runs; ++run) {
          make_quads(layout.bits, block.quants + run * kBlock, quads);
          std::byte* const q = group_q + (b * runs + run) * run_bytes + 4 * r;
          for (int64_t j = 0; j < layout.bits; ++j)
            std::memcpy(q + j * quad_bytes, quads + 4 * j, 4);
        }
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

PanelBlock read_block(const PackedMatrix& w, int64_t row, int64_t block) {
  const QuantLayout& layout = quant_layout(w.type);
  const RecordLayout record = record_layout(layout, w.panel);
  const int64_t runs = layout.values / kBlock;
  const int64_t group = row / w.panel, lane = row % w.panel;
  PanelBlock out;
  out.parts = kBlock / layout.part;
  out.has_minimum = layout.numbers == 2;

  const std::byte* from =
      w.records + (group * (w.k / layout.values) + block / runs) * record.bytes();
  uint16_t numbers[2] = {};
  for (int64_t i = 0; i < layout.numbers; ++i)
    std::memcpy(&numbers[i], from + 2 * (i * w.panel + lane), 2);
  if (is_negated(layout)) numbers[1] ^= kSign;
  const int64_t width = code_bytes(layout.code);
  for (int64_t part = 0; part < out.parts; ++part) {
    uint8_t code[2] = {};
    for (int64_t i = 0; i < width; ++i)
      code[i] = std::to_integer<uint8_t>(
          from[record.numbers + ((block % runs * out.parts + part) * width + i) * w.panel + lane]);
    out.scale[part] = part_scale(layout, numbers, code);
  }

  std::byte quads[kBlock];
  const int64_t at = (group * (w.k / kBlock) + block) * layout.bits;
  for (int64_t j = 0; j < layout.bits; ++j)
    std::memcpy(quads + 4 * j, w.quants + ((at + j) * w.panel + lane) * 4, 4);
  uint8_t q[kBlock];
  read_quads(layout.bits, quads, q);
  for (int i = 0; i < kBlock; ++i) out.level[i] = static_cast<int16_t>(quant_level(layout, q[i]));
  return out;
}

void values_of(const PanelBlock& block, float* out) {
  for (int i = 0; i < kBlock; ++i) {
    const auto [scale, minimum] = block.scale[block.parts == 2 ? i / 16 : 0];
    out[i] = scale * static_cast<float>(block.level[i]);
    if (block.has_minimum) out[i] += minimum;
  }
}

void unpack_row(const PackedMatrix& w, int64_t row, float* out) {
  REPRISE_CHECK(row >= 0 && row < w.n, "row {} of {}", row, w.n);
  for (int64_t b = 0; b < w.k / kBlock; ++b) values_of(read_block(w, row, b), out + b * kBlock);
}

}  // namespace reprise::cpu
