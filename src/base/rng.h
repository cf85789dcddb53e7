// Counter-based random numbers (Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC11): value i of a stream depends only on (seed, stream, i), never on what else ran.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace reprise {

class Philox {
 public:
  Philox(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  // 32 random bits; position i of the stream.
  uint32_t bits(uint64_t i) const {
    const auto block = generate(i / 4);
    return block[i % 4];
  }
  // Uniform in [0, 1), 24 bits.
  float uniform(uint64_t i) const { return static_cast<float>(bits(i) >> 8) * 0x1p-24f; }
  // Standard normal by Box-Muller; position i uses bits 2i and 2i + 1.
  float normal(uint64_t i) const {
    const double u = (static_cast<double>(bits(2 * i)) + 1.0) * 0x1p-32;  // (0, 1]
    const double v = static_cast<double>(bits(2 * i + 1)) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v));
  }
  // Next values of the stream, for sequential use.
  uint32_t next_bits() { return bits(counter_++); }
  float next_uniform() { return uniform(counter_++); }
  // Uniform integer in [0, n), n > 0.
  uint32_t next_below(uint32_t n) {
    return static_cast<uint32_t>((static_cast<uint64_t>(next_bits()) * n) >> 32);
  }

 private:
  std::array<uint32_t, 4> generate(uint64_t index) const {
    std::array<uint32_t, 4> c = {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                                 static_cast<uint32_t>(stream_),
                                 static_cast<uint32_t>(stream_ >> 32)};
    uint32_t k0 = static_cast<uint32_t>(seed_);
    uint32_t k1 = static_cast<uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }
  uint64_t seed_;
  uint64_t stream_;
  uint64_t counter_ = 0;
};

}  // namespace reprise
