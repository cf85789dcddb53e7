#include "peaks.h"

#include <unistd.h>

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace reprise::bench {

int64_t last_level_cache_bytes() {
#ifdef _SC_LEVEL3_CACHE_SIZE
  const long bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (bytes > 0) return bytes;
#endif
  return int64_t{32} << 20;
}

#if defined(__x86_64__)
namespace {

constexpr int64_t kRounds = 20000;
constexpr int64_t kChains = 12;

__attribute__((target("avx512f"))) uint64_t read_512(const std::byte* data, int64_t bytes) {
  __m512i sum[8] = {};
  const int64_t part = bytes / 4;  // four streams, as a kernel has several panels
  for (int64_t at = 0; at < part; at += 128)
    for (int s = 0; s < 4; ++s) {
      const std::byte* p = data + s * part + at;
      sum[2 * s] = _mm512_or_si512(sum[2 * s], _mm512_loadu_si512(p));
      sum[2 * s + 1] = _mm512_or_si512(sum[2 * s + 1], _mm512_loadu_si512(p + 64));
      _mm_prefetch(reinterpret_cast<const char*>(p + 1024), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(p + 1088), _MM_HINT_T0);
    }
  uint64_t words[8], total = 0;
  for (__m512i& s : sum) {
    std::memcpy(words, &s, 64);
    for (uint64_t w : words) total += w;
  }
  return total;
}

__attribute__((target("avx2"))) uint64_t read_256(const std::byte* data, int64_t bytes) {
  __m256i sum[8] = {};
  const int64_t part = bytes / 4;
  for (int64_t at = 0; at < part; at += 64)
    for (int s = 0; s < 4; ++s) {
      const std::byte* p = data + s * part + at;
      sum[2 * s] =
          _mm256_or_si256(sum[2 * s], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
      sum[2 * s + 1] = _mm256_or_si256(
          sum[2 * s + 1], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32)));
      _mm_prefetch(reinterpret_cast<const char*>(p + 1024), _MM_HINT_T0);
    }
  uint64_t words[4], total = 0;
  for (__m256i& s : sum) {
    std::memcpy(words, &s, 32);
    for (uint64_t w : words) total += w;
  }
  return total;
}

// Twelve sums at a time: more than latency times issue width. In assembly, or the compiler would
// keep the sums in memory to be on the safe side.
#define TWELVE(step)                                                                        \
  step("0") step("1") step("2") step("3") step("4") step("5") step("6") step("7") step("8") \
      step("9") step("10") step("11")
#define REPEAT(body, rounds)                                                                   \
  asm volatile("1:\n" body "dec %0\njnz 1b\n"                                                  \
               : "+r"(rounds)                                                                  \
               :                                                                               \
               : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                 "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

#define VNNI_STEP(i) "vpdpbusd %%zmm15, %%zmm14, %%zmm" i "\n"
#define WIDE_STEP(i)                       \
  "vpmaddubsw %%ymm15, %%ymm14, %%ymm12\n" \
  "vpmaddwd %%ymm13, %%ymm12, %%ymm12\n"   \
  "vpaddd %%ymm12, %%ymm" i ", %%ymm" i "\n"
#define NARROW_STEP(i)                     \
  "vpmaddubsw %%ymm15, %%ymm14, %%ymm12\n" \
  "vpaddw %%ymm12, %%ymm" i ", %%ymm" i "\n"

void dot_vnni() {
  int64_t rounds = kRounds;
  REPEAT(TWELVE(VNNI_STEP), rounds);
}
void dot_avx2_wide() {  // sums in 32 bits at every step, as Q8_0 needs
  int64_t rounds = kRounds;
  REPEAT(TWELVE(WIDE_STEP), rounds);
}
void dot_avx2_narrow() {  // sums in 16 bits, as 4-bit weights allow
  int64_t rounds = kRounds;
  REPEAT(TWELVE(NARROW_STEP), rounds);
}

}  // namespace

uint64_t read_memory(const std::byte* data, int64_t bytes) {
  return __builtin_cpu_supports("avx512f") ? read_512(data, bytes) : read_256(data, bytes);
}

std::vector<DotPeak> dot_peaks(const std::string& isa) {
  if (isa == "avx512-vnni" && __builtin_cpu_supports("avx512vnni"))
    return {{"vpdpbusd zmm", kRounds * kChains * 64 * 2, dot_vnni}};
  if (isa == "avx2" && __builtin_cpu_supports("avx2"))
    return {{"vpmaddubsw + vpmaddwd + vpaddd ymm", kRounds * kChains * 32 * 2, dot_avx2_wide},
            {"vpmaddubsw + vpaddw ymm", kRounds * kChains * 32 * 2, dot_avx2_narrow}};
  return {};
}
#else
uint64_t read_memory(const std::byte* data, int64_t bytes) {
  uint64_t total = 0, word;
  for (int64_t at = 0; at < bytes; at += 8) {
    std::memcpy(&word, data + at, 8);
    total |= word;
  }
  return total;
}

std::vector<DotPeak> dot_peaks(const std::string&) { return {}; }
#endif

}  // namespace reprise::bench
