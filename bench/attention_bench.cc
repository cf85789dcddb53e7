// Attention in decode against read bandwidth: one new token, many requests' KV rows in turn, so
// that keys and values come from memory as they do behind a model's weights. Shapes are those of
// the TroL and Phantom releases (Phantom's heads are twice as wide). Best times, taken in turns, as
// in matmul_bench. Options: --quick, --isa NAME, --shape NAME, --cached (one request's rows again
// and again, 256 tokens long, so that what is seen is the kernel itself).
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "backend/factory.h"
#include "base/thread_pool.h"
#include "peaks.h"

namespace reprise::bench {
namespace {

std::atomic<uint64_t> g_sink;

struct Shape {
  const char* name;
  int heads, kv_heads, width;
};
constexpr Shape kShapes[] = {{"0.5B", 14, 2, 64},  {"0.5B Phantom", 14, 2, 128},
                             {"1.8B", 16, 8, 128}, {"1.8B Phantom", 16, 8, 256},
                             {"3.8B", 32, 32, 96}, {"3.8B Phantom", 32, 32, 192},
                             {"7B", 32, 8, 128},   {"7B Phantom", 32, 8, 256}};

template <class Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

std::vector<float> noise(int64_t count) {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> values(-1, 1);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& v : out) v = values(random);
  return out;
}

// One shape: GB/s of keys and values, beside what the machine reads.
void decode(const Shape& s, DType type, const BackendOptions& options, int64_t context, int rounds,
            bool cached) {
  const auto be = make_cpu_backend(options);
  const AttentionSpec spec = {s.heads, s.kv_heads, s.width, s.width, 0.1f, 0};
  const KvSpec kv = {s.kv_heads, s.width, s.width, type};
  const int64_t row_bytes = context * kv.bytes_per_token();
  const int64_t count = cached ? 1 : 4 * last_level_cache_bytes() / row_bytes + 1;
  const auto fill = [&](int64_t rows) {
    return be->from_host(noise(rows * s.kv_heads * s.width), {rows, s.kv_heads, s.width});
  };
  std::vector<int32_t> positions(static_cast<size_t>(context));
  std::iota(positions.begin(), positions.end(), 0);
  const Tensor keys = fill(context);
  const Tensor prompt =
      be->from_host(noise(context * s.heads * s.width), {context, s.heads, s.width});
  std::vector<KvRow> rows(static_cast<size_t>(count), KvRow{.spec = kv});
  AttentionSpec narrow = spec;
  narrow.window = 1;  // filling them needs no attention
  for (KvRow& row : rows) {
    const AttentionSegment segment = {0, context, positions, &row, &row};
    be->attention(narrow, prompt, keys, keys, {&segment, 1});
  }
  const Tensor query = be->from_host(noise(s.heads * s.width), {1, s.heads, s.width});
  const Tensor entry = fill(1);
  const int32_t at[] = {static_cast<int32_t>(context)};
  const int64_t read_bytes = std::max<int64_t>(count * row_bytes, 4 * last_level_cache_bytes());
  std::vector<std::byte> memory(static_cast<size_t>(read_bytes / 4096 * 4096));
  ThreadPool pool(options.threads);
  const int64_t part = static_cast<int64_t>(memory.size()) / 64 / 4096 * 4096;

  const int repeats = cached ? 200 : 1;
  double ours = 1e30, best = 1e30;
  for (int r = 0; r < rounds; ++r) {
    best = std::min(best, seconds([&] {
                      pool.run(64, [&](int64_t i, int) {
                        g_sink += read_memory(memory.data() + i * part, part);
                      });
                    }));
    ours = std::min(ours, seconds([&] {
                      for (int i = 0; i < repeats; ++i)
                        for (KvRow& row : rows) {
                          const AttentionSegment segment = {0, 1, at, &row, &row};
                          be->attention(spec, query, entry, entry, {&segment, 1});
                          row.truncate(context);
                        }
                    }));
  }
  ours /= repeats;
  const double rate = static_cast<double>(count * row_bytes) / ours * 1e-9;
  const double peak = static_cast<double>(64 * part) / best * 1e-9;
  fmt::print(
      "{:12} {:13} {:3} threads {}  context {:5}  {:6.1f} us  {:6.1f} GB/s of {:6.1f} read  "
      "{:5.1f}%\n",
      options.isa, s.name, dtype_name(type), options.threads, context,
      ours / static_cast<double>(count) * 1e6, rate, peak, 100 * rate / peak);
}

}  // namespace

int run(int argc, char** argv) {
  bool quick = false, cached = false;
  std::string wanted, shape_wanted;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      quick = true;
    } else if (std::strcmp(argv[i], "--cached") == 0) {
      cached = true;
    } else if (std::strcmp(argv[i], "--isa") == 0 && i + 1 < argc) {
      wanted = argv[++i];
    } else if (std::strcmp(argv[i], "--shape") == 0 && i + 1 < argc) {
      shape_wanted = argv[++i];
    } else {
      fmt::print(stderr, "usage: {} [--quick] [--cached] [--isa NAME] [--shape NAME]\n", argv[0]);
      return 2;
    }
  }
  std::vector<int> threads = {1};
  if (ThreadPool::hardware_threads() > 1) threads.push_back(ThreadPool::hardware_threads());
  for (const IsaInfo& info : cpu_instruction_sets()) {
    if (!info.runs || info.emulated || info.name == "scalar") continue;
    if (!wanted.empty() && wanted != info.name) continue;
    for (const int count : threads)
      for (const Shape& shape : kShapes)
        for (const DType type : {DType::F32, DType::F16}) {
          if (!shape_wanted.empty() && shape_wanted != shape.name) continue;
          decode(shape, type, {.threads = count, .isa = info.name}, cached ? 256 : 2000,
                 quick ? 5 : 20, cached);
        }
  }
  return 0;
}

}  // namespace reprise::bench

int main(int argc, char** argv) { return reprise::bench::run(argc, argv); }
