// Phantom's operations on heads. In decode these are a few dozen tiny products per layer: what
// costs is waking threads and allocating, so each operation is one set of tasks, and a task takes a
// few heads of a row through all steps in its own scratch memory. Every head is on its own, so how
// they are cut into tasks doesn't matter.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"

namespace reprise::cpu {
namespace {

// Heads of a task: few in decode, so that several threads find some; more where there are many.
constexpr int64_t kFewHeads = 8;
constexpr int64_t kManyHeads = 48;

float* scratch(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(static_cast<size_t>(floats));
  return memory.data();
}

void check_square(const LinearWeight* w, int64_t dim) {
  REPRISE_CHECK(w && w->weight.shape() == (Shape{dim, dim}) && !w->bias && w->adapters.empty(),
                "a matrix of heads of width {}", dim);
}

// In decode a matrix of heads comes from memory, a few kilobytes at a time: too little for the
// hardware to guess what comes next.
void prefetch(const LinearWeight& w) {
  constexpr int64_t kLine = 64;
  const std::byte* from = data_of(w.weight).bytes;
  if (!from) return;  // packed
  const int64_t bytes = tensor_bytes(w.weight.dtype(), w.weight.shape());
  for (int64_t at = 0; at < bytes; at += kLine) __builtin_prefetch(from + at, 0, 2);
}

}  // namespace

std::vector<Tensor> CpuBackend::fused_cross_heads(std::span<const HeadCross> parts, float scale,
                                                  std::span<const int32_t> source_of_row) {
  std::vector<Tensor> results;
  std::vector<int64_t> first_task = {0};
  int64_t work = 0;
  for (const HeadCross& part : parts) {
    REPRISE_CHECK(part.x.rank() == 3 &&
                  part.x.dim(0) == static_cast<int64_t>(source_of_row.size()));
    const int64_t heads = part.x.dim(1), dim = part.x.dim(2), count = part.x.dim(0) * heads;
    check_square(part.q, dim);
    check_square(part.o, dim);
    REPRISE_CHECK(!part.keys.empty() && part.keys.size() == part.values.size());
    const int64_t n = part.keys[0].dim(0);
    for (const auto& list : {part.keys, part.values})
      for (const Tensor& t : list)
        REPRISE_CHECK(t.shape() == (Shape{n, dim}) && n > 0, "{} for heads of width {}",
                      shape_string(t.shape()), dim);
    results.push_back(new_tensor({part.x.dim(0), heads, 2 * dim}));
    const int64_t step = count > 4 * kManyHeads ? kManyHeads : kFewHeads;
    first_task.push_back(first_task.back() + (count + step - 1) / step);
    // Reading the matrices counts too: for one row it takes as long as the products.
    work += (count * dim * (2 * dim + 2 * n + 64) + 16 * dim * dim) / 8;
  }
  const auto sources = static_cast<int32_t>(parts.empty() ? 0 : parts[0].keys.size());
  for (const int32_t source : source_of_row) REPRISE_CHECK(source >= 0 && source < sources);

  run_tasks(first_task.back(), work, [&](int64_t task) {
    const auto at = std::upper_bound(first_task.begin(), first_task.end(), task) - 1;
    const auto index = static_cast<size_t>(at - first_task.begin());
    const HeadCross& part = parts[index];
    const int64_t heads = part.x.dim(1), dim = part.x.dim(2), n = part.keys[0].dim(0);
    const int64_t all = part.x.dim(0) * heads;
    const int64_t step = all > 4 * kManyHeads ? kManyHeads : kFewHeads;
    const int64_t begin = (task - *at) * step, end = std::min(all, begin + step);
    const int64_t count = end - begin;
    const float* x = floats(part.x) + begin * dim;
    if (count <= kFewHeads) {
      prefetch(*part.q);
      prefetch(*part.o);
    }

    float* const queries = scratch(2 * count * dim + count * (n + kAttendPad) + kAttendBlock * dim);
    float* const mixed = queries + count * dim;
    float* const attend_scratch = mixed + count * dim;
    multiply_here(x, count, *part.q, queries);
    kernels_.vector.unary(UnaryKind::Gelu, queries, count * dim, queries);
    AttendQuery calls[kManyHeads];
    for (int64_t i = 0; i < count;) {  // the heads of one source at a time
      const int32_t source = source_of_row[static_cast<size_t>((begin + i) / heads)];
      int64_t of_source = 0;
      for (; i < count && source_of_row[static_cast<size_t>((begin + i) / heads)] == source; ++i)
        calls[of_source++] = {queries + i * dim, mixed + i * dim, 0, n};
      const KvRun run = {.k = floats(part.keys[static_cast<size_t>(source)]),
                         .v = floats(part.values[static_cast<size_t>(source)]),
                         .count = n,
                         .k_stride = dim,
                         .v_stride = dim};
      kernels_.vector.attend(calls, of_source, &run, 1, dim, dim, scale, /*softcap=*/0,
                             attend_scratch);
    }
    float* const y = queries;
    multiply_here(mixed, count, *part.o, y);
    kernels_.vector.unary(UnaryKind::Gelu, y, count * dim, y);
    float* const out = new_floats(results[index]) + begin * 2 * dim;
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(x + i * dim, dim, out + i * 2 * dim);
      kernels_.vector.scale(y + i * dim, part.factor, dim, out + i * 2 * dim + dim);
    }
  });
  return results;
}

std::pair<Tensor, Tensor> CpuBackend::fused_gate_halves(const Tensor& x, float factor,
                                                        const LinearWeight& first,
                                                        const LinearWeight& second) {
  REPRISE_CHECK(x.rank() == 3 && x.dim(2) % 2 == 0, "{}", shape_string(x.shape()));
  const int64_t rows = x.dim(0), heads = x.dim(1), dim = x.dim(2) / 2;
  for (const LinearWeight* w : {&first, &second})
    REPRISE_CHECK(
        w->weight.shape() == (Shape{1, dim}) && w->bias.size() == 1 && w->adapters.empty(),
        "a gate {} on heads of width {}", shape_string(w->weight.shape()), dim);
  const float* from = floats(x);
  const float first_bias = *floats(first.bias), second_bias = *floats(second.bias);
  Tensor out = new_tensor({rows, heads, dim});
  Tensor weight = new_tensor({rows, heads, 1});
  float* const to = new_floats(out);
  float* const w = new_floats(weight);
  run_chunks(rows * heads, 4 * dim, [&](int64_t begin, int64_t end) {
    const int64_t count = end - begin;
    float* const o1 = scratch((2 * dim + 2) * count);  // [count, dim], then o2 the same way
    float* const o2 = o1 + count * dim;
    float* const f = o2 + count * dim;
    float* const g = f + count;
    for (int64_t i = 0; i < count; ++i) {
      const float* head = from + (begin + i) * 2 * dim;
      std::copy_n(head, dim, o1 + i * dim);
      kernels_.vector.add_scaled(head, head + dim, factor, dim, o2 + i * dim);
    }
    multiply_here(o1, count, first, f);
    multiply_here(o2, count, second, g);
    for (int64_t i = 0; i < count; ++i) f[i] = (f[i] + first_bias) - (g[i] + second_bias);
    kernels_.vector.unary(UnaryKind::Sigmoid, f, count, w + begin);
    for (int64_t i = 0; i < count; ++i)
      kernels_.vector.lerp(o2 + i * dim, o1 + i * dim, w[begin + i], dim, to + (begin + i) * dim);
  });
  return {std::move(out), std::move(weight)};
}

}  // namespace reprise::cpu
