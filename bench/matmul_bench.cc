// Matrix kernels against what this machine can do: products with one row of activations against
// read bandwidth, products with many against the peak of integer dot products. Every kernel takes
// turns with the peak it is held against, and the best time of each counts, so that other work on
// the machine disturbs both alike. Options: --quick, --isa NAME, --type NAME (a quantized
// type, repeatable; all without).
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/kernels/kernels.h"
#include "backend/cpu/kernels/matmul_tables.h"
#include "backend/cpu/memory/packing.h"
#include "backend/factory.h"
#include "base/quant/type.h"
#include "peaks.h"

namespace reprise::bench {
namespace {

using cpu::MatmulKernels;
using cpu::PackedWeights;

std::atomic<uint64_t> g_sink;

double seconds(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct Pair {
  double kernel;
  double peak;
};

// Best seconds of both, taken in turns.
Pair in_turns(int rounds, const std::function<void()>& kernel, const std::function<void()>& peak) {
  Pair best = {1e30, 1e30};
  for (int r = 0; r < rounds; ++r) {
    best.peak = std::min(best.peak, seconds(peak));
    best.kernel = std::min(best.kernel, seconds(kernel));
  }
  return best;
}

std::vector<std::byte> random_rows(DType type, int64_t n, int64_t k) {
  std::mt19937_64 rng(1);
  const int64_t block = block_bytes(type);
  std::vector<std::byte> rows(static_cast<size_t>(n * (k / block_values(type)) * block));
  for (size_t at = 0; at + 8 <= rows.size(); at += 8) {
    const uint64_t word = rng();
    std::memcpy(&rows[at], &word, 8);
  }
  // Any quants and codes, and no F16 number that is too large.
  for (std::byte& byte : rows) byte &= std::byte{0x3f};
  if (is_quantized(type) &&
      quant_layout(type).code == ScaleCode::Exponent)  // nor too small a scale
    for (size_t at = 0; at < rows.size(); at += static_cast<size_t>(block))
      rows[at] |= std::byte{0x60};
  return rows;
}

struct Activations {
  std::vector<float> x;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum, half_sum;

  Activations(const MatmulKernels& kernels, int64_t m, int64_t k)
      : x(static_cast<size_t>(m * k)),
        q(x.size()),
        scale(x.size() / 32),
        sum(x.size() / 32),
        half_sum(x.size() / 16) {
    std::mt19937 rng(2);
    std::normal_distribution<float> normal;
    for (float& value : x) value = normal(rng);
    kernels.quantize(x.data(), m, k, k, q.data(), scale.data(), sum.data(), half_sum.data());
  }
  cpu::QuantizedRows rows(int64_t row, int64_t k) const {
    return {q.data() + row * k, scale.data() + row * k / 32, sum.data() + row * k / 32,
            half_sum.data() + row * k / 16};
  }
};

// The cut of a product among threads, as in ops_linear.cc.
int64_t strip_columns(DType type, int64_t k) {
  const int64_t row_bytes = k / block_values(type) * block_bytes(type);
  return std::max<int64_t>(1, (64 << 10) / row_bytes / 64) * 64;
}
constexpr int64_t kTileRows = 128;

void product(ThreadPool& pool, const MatmulKernels& kernels, const Activations& x, int64_t m,
             const PackedWeights& w, std::vector<float>& out) {
  const cpu::PackedMatrix& matrix = w.matrix();
  const int64_t strip = strip_columns(matrix.type, matrix.k);
  const int64_t row_tiles = (m + kTileRows - 1) / kTileRows;
  const int64_t strips = (matrix.n + strip - 1) / strip;
  pool.run(strips * row_tiles, [&](int64_t task, int) {
    const int64_t row = task % row_tiles * kTileRows, n0 = task / row_tiles * strip;
    kernels.packed_int8(x.rows(row, matrix.k), std::min(kTileRows, m - row), matrix, n0,
                        std::min(matrix.n, n0 + strip), out.data() + row * matrix.n, matrix.n);
  });
}

struct Isa {
  std::string name;
  const cpu::Kernels* kernels;
};

std::vector<Isa> instruction_sets(const std::string& wanted) {
  std::vector<Isa> list;
  for (const IsaInfo& info : cpu_instruction_sets()) {
    if (!info.runs || info.emulated || (!wanted.empty() && wanted != info.name)) continue;
    const cpu::Kernels* kernels = info.name == "avx512-vnni" ? cpu::avx512_vnni_kernels()
                                  : info.name == "avx2"      ? cpu::avx2_kernels()
                                                             : &cpu::scalar_kernels();
    list.push_back({info.name, kernels});
  }
  return list;
}

// One row of activations: streams of weights, four times the cache.
void gemv(const Isa& isa, ThreadPool& pool, const std::vector<DType>& types, int64_t bytes,
          int rounds) {
  const MatmulKernels& kernels = isa.kernels->matmul;
  std::vector<std::byte> memory(static_cast<size_t>(bytes), std::byte{1});
  const int64_t parts = 64, part = bytes / parts / 4096 * 4096;
  const auto read = [&] {
    pool.run(parts, [&](int64_t i, int) { g_sink += read_memory(memory.data() + i * part, part); });
  };
  const auto report = [&](DType type, int64_t k, int64_t weight_bytes, Pair best) {
    const double bandwidth = static_cast<double>(part * parts) / best.peak * 1e-9;
    const double rate = static_cast<double>(weight_bytes) / best.kernel * 1e-9;
    fmt::print("{:12} {:5} k {:5} m   1  threads {}  {:7.1f} GB/s  of {:6.1f} read  {:5.1f}%\n",
               isa.name, dtype_name(type), k, pool.threads(), rate, bandwidth,
               100 * rate / bandwidth);
  };
  for (const DType type : types) {
    for (int64_t k : {576, 2048}) {
      if (k % block_values(type) != 0) continue;
      const int64_t row_bytes = k / block_values(type) * block_bytes(type);
      const int64_t n = bytes / row_bytes / 64 * 64;
      const std::vector<std::byte> rows = random_rows(type, n, k);
      const PackedWeights w = cpu::pack(type, n, k, rows.data(), kernels.panel, &pool);
      const Activations x(kernels, 1, k);
      std::vector<float> out(static_cast<size_t>(n));
      report(type, k, w.bytes(),
             in_turns(
                 rounds, [&] { product(pool, kernels, x, 1, w, out); }, read));
    }
  }
  const int64_t k = 576, n = bytes / (2 * k);
  const std::vector<std::byte> dense(static_cast<size_t>(2 * n * k), std::byte{0});
  const Activations x(kernels, 1, k);
  std::vector<float> out(static_cast<size_t>(n));
  const auto dense_product = [&] {
    pool.run((n + 63) / 64, [&](int64_t i, int) {
      kernels.dense_f32(x.x.data(), 1, k, dense.data(), DType::BF16, 64 * i,
                        std::min(n, 64 * i + 64), k, out.data(), n);
    });
  };
  report(DType::BF16, k, 2 * n * k, in_turns(rounds, dense_product, read));
}

// Many rows: the weights of one MLP matrix of models of 135M, 0.5B and 1.8B weights.
void gemm(const Isa& isa, ThreadPool& pool, const std::vector<DType>& types, int rounds) {
  const MatmulKernels& kernels = isa.kernels->matmul;
  const std::vector<DotPeak> peaks = dot_peaks(isa.name);
  struct Shape {
    DType type;
    int64_t n, k;
  };
  std::vector<Shape> shapes;
  for (const DType type : types)
    for (const auto& [n, k] : {std::pair{1536, 576}, {4864, 896}, {896, 4864}, {8192, 2048}})
      if (k % block_values(type) == 0) shapes.push_back({type, n, k});
  for (const DotPeak& peak : peaks) {
    for (const Shape& s : shapes) {
      const std::vector<std::byte> rows = random_rows(s.type, s.n, s.k);
      const PackedWeights w = cpu::pack(s.type, s.n, s.k, rows.data(), kernels.panel, &pool);
      for (int64_t m : {8, 128, 512}) {
        const Activations x(kernels, m, s.k);
        std::vector<float> out(static_cast<size_t>(m * s.n));
        const int repeat =
            static_cast<int>(std::max<int64_t>(1, (int64_t{1} << 28) / (m * s.n * s.k)));
        const Pair best = in_turns(
            rounds,
            [&] {
              for (int r = 0; r < repeat; ++r) product(pool, kernels, x, m, w, out);
            },
            [&] { pool.run(pool.threads(), [&](int64_t, int) { peak.run(); }); });
        const double most = static_cast<double>(peak.ops_per_run * pool.threads()) / best.peak;
        const double rate = 2.0 * static_cast<double>(repeat * m * s.n * s.k) / best.kernel;
        fmt::print(
            "{:12} {:5} [{:4}, {:4}] m {:3}  threads {}  {:7.1f} GOP/s  of {:6.1f} {}  {:5.1f}%\n",
            isa.name, dtype_name(s.type), s.n, s.k, m, pool.threads(), rate * 1e-9, most * 1e-9,
            peak.name, 100 * rate / most);
      }
    }
  }
}

}  // namespace

int run(int argc, char** argv) {
  bool quick = false;
  std::string isa_name;
  std::vector<DType> types;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
      isa_name = argv[++i];
    } else if (std::strcmp(argv[i], "--type") == 0 && i + 1 < argc) {
      const std::string name = argv[++i];
      const std::vector<DType> known = quantized_types();
      const auto type = std::ranges::find(known, name, dtype_name);
      if (type == known.end()) {
        fmt::print(stderr, "--type {}: expected one of {}\n", name, type_names(known));
        return 2;
      }
      types.push_back(*type);
    } else {
      fmt::print(stderr, "usage: {} [--quick] [--isa NAME] [--type NAME]\n", argv[0]);
      return 2;
    }
  }
  if (types.empty()) types = quantized_types();
  const int64_t bytes = std::max<int64_t>(4 * last_level_cache_bytes(), int64_t{128} << 20);
  std::vector<int> threads = {1};
  if (ThreadPool::hardware_threads() > 1) threads.push_back(ThreadPool::hardware_threads());
  for (const Isa& isa : instruction_sets(isa_name)) {
    if (isa.name == "scalar") continue;  // the oracle is not meant to be fast
    for (int count : threads) {
      ThreadPool pool(count);
      gemv(isa, pool, types, bytes, quick ? 5 : 20);
      gemm(isa, pool, types, quick ? 5 : 20);
    }
  }
  return 0;
}

}  // namespace reprise::bench

int main(int argc, char** argv) { return reprise::bench::run(argc, argv); }
