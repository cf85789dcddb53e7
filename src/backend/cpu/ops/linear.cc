// Matrix products: which kernel, on which tiles, and the low-rank adapters on top.
#include <algorithm>

#include "backend/cpu/cpu_backend.h"

namespace reprise::cpu {
namespace {

// A tile is this many rows of the input by about this many bytes of weights, so that both stay in
// the second-level cache while they meet; and a multiple of this many columns (rows of the weight),
// which kernels take a few panels of at once.
constexpr int64_t kTileRows = 128;
constexpr int64_t kTileBytes = 64 << 10;
constexpr int64_t kTileColumns = 64;
constexpr int64_t kRowAlignment = 64;
// An adapter on few rows, of at most this many steps, is one thread's work from gathering to adding.
constexpr int64_t kSmallAdapter = 1 << 18;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t tile_columns(DType type, int64_t k) {
  const int64_t row_bytes = std::max<int64_t>(1, k / block_values(type) * block_bytes(type));
  return std::max<int64_t>(1, kTileBytes / row_bytes / kTileColumns) * kTileColumns;
}

}  // namespace

CpuBackend::Quantized CpuBackend::quantize(const float* x, int64_t m, int64_t k, bool here) {
  const int64_t blocks = k / 32;
  const auto aligned = [](int64_t bytes) { return ceil_div(bytes, kRowAlignment) * kRowAlignment; };
  const int64_t q_bytes = aligned(m * k), scale_bytes = aligned(m * blocks * 4);
  Quantized out;
  out.memory = memory_->allocate(q_bytes + 4 * scale_bytes, Account::Workspace);
  auto* q = reinterpret_cast<int8_t*>(out.memory.get());
  auto* scale = reinterpret_cast<float*>(out.memory.get() + q_bytes);
  auto* sum = reinterpret_cast<int32_t*>(out.memory.get() + q_bytes + scale_bytes);
  auto* half_sum = reinterpret_cast<int32_t*>(out.memory.get() + q_bytes + 2 * scale_bytes);
  const auto rows = [&](int64_t begin, int64_t end) {
    kernels_.matmul.quantize(x + begin * k, end - begin, k, k, q + begin * k,
                             scale + begin * blocks, sum + begin * blocks,
                             half_sum + 2 * begin * blocks);
  };
  if (here)
    rows(0, m);
  else
    run_chunks(m, k, rows);
  out.rows = {q, scale, sum, half_sum};
  return out;
}

// out = x w^T + bias for every product; x [m, k].
void CpuBackend::multiply(const float* x, int64_t m, int64_t k, std::span<const Product> products,
                          bool int8_activations) {
  const bool quantized =
      int8_activations && std::any_of(products.begin(), products.end(),
                                      [](const Product& p) { return p.weight->packed != nullptr; });
  const Quantized input = quantized ? quantize(x, m, k, /*here=*/false) : Quantized{};
  const MatmulKernels& kernels = kernels_.matmul;

  // Tasks run through the row tiles of one stretch of weights before they go on to the next, so
  // that weights are read from memory once.
  const int64_t row_tiles = ceil_div(m, kTileRows);
  std::vector<int64_t> first_task = {0};
  int64_t work = 0;
  for (const Product& p : products) {
    first_task.push_back(first_task.back() + row_tiles * ceil_div(p.n, tile_columns(p.type, k)));
    work += m * k * p.n / 8;  // a step of a product is cheaper than one of the other loops
  }
  run_tasks(first_task.back(), work, [&](int64_t task) {
    const auto which = std::upper_bound(first_task.begin(), first_task.end(), task) - 1;
    const Product& p = products[static_cast<size_t>(which - first_task.begin())];
    const int64_t columns = tile_columns(p.type, k);
    const int64_t row = (task - *which) % row_tiles * kTileRows;
    const int64_t rows = std::min(kTileRows, m - row);
    const int64_t n0 = (task - *which) / row_tiles * columns;
    const int64_t n1 = std::min(p.n, n0 + columns);
    float* out = p.out + row * p.n;
    if (!p.weight->packed) {
      kernels.dense_f32(x + row * k, rows, k, p.weight->bytes, p.type, n0, n1, k, out, p.n);
    } else if (quantized) {
      const int64_t blocks = k / 32;
      const QuantizedRows part = {input.rows.q + row * k, input.rows.scale + row * blocks,
                                  input.rows.sum + row * blocks,
                                  input.rows.half_sum + 2 * row * blocks};
      kernels.packed_int8(part, rows, p.weight->packed->matrix(), n0, n1, out, p.n);
    } else {
      kernels.packed_f32(x + row * k, rows, k, p.weight->packed->matrix(), n0, n1, out, p.n);
    }
    if (p.bias)
      for (int64_t i = 0; i < rows; ++i)
        kernels_.vector.add_scaled(out + i * p.n + n0, p.bias + n0, 1.0f, n1 - n0,
                                   out + i * p.n + n0);
  });
}

void CpuBackend::multiply_here(const float* x, int64_t m, const LinearWeight& weight, float* out) {
  const CpuData& data = data_of(weight.weight);
  const int64_t n = weight.weight.dim(0), k = weight.weight.dim(1);
  if (data.packed && activations_ == Activations::Int8) {
    const Quantized input = quantize(x, m, k, /*here=*/true);
    kernels_.matmul.packed_int8(input.rows, m, data.packed->matrix(), 0, n, out, n);
  } else {
    multiply_f32_here(x, m, weight.weight, out);
  }
}

void CpuBackend::multiply_f32_here(const float* x, int64_t m, const Tensor& weight, float* out) {
  const CpuData& data = data_of(weight);
  const int64_t n = weight.dim(0), k = weight.dim(1);
  if (data.packed)
    kernels_.matmul.packed_f32(x, m, k, data.packed->matrix(), 0, n, out, n);
  else
    kernels_.matmul.dense_f32(x, m, k, data.bytes, weight.dtype(), 0, n, k, out, n);
}

std::vector<Tensor> CpuBackend::linear(const Tensor& x,
                                       std::span<const LinearWeight* const> weights,
                                       std::span<const int32_t> adapter_of_row) {
  const int64_t k = x.cols(), m = x.rows();
  const float* from = floats(x);
  REPRISE_CHECK(adapter_of_row.empty() || static_cast<int64_t>(adapter_of_row.size()) == m,
                "{} adapter ids for {} rows", adapter_of_row.size(), m);
  std::vector<Tensor> results;
  std::vector<Product> products;
  for (const LinearWeight* w : weights) {
    REPRISE_CHECK(w->weight.rank() == 2 && w->weight.dim(1) == k, "{} by a weight of {}",
                  shape_string(x.shape()), shape_string(w->weight.shape()));
    const int64_t n = w->weight.dim(0);
    REPRISE_CHECK(!w->bias || w->bias.size() == n);
    Shape shape = x.shape();
    shape.back() = n;
    results.push_back(new_tensor(std::move(shape)));
    products.push_back({&data_of(w->weight), w->weight.dtype(), n,
                        w->bias ? floats(w->bias) : nullptr, new_floats(results.back())});
  }
  if (m == 0) return results;
  multiply(from, m, k, products, activations_ == Activations::Int8);
  if (!adapter_of_row.empty()) add_adapters(from, m, k, weights, products, adapter_of_row);
  return results;
}

// out [m, n] += scale * B (A x) for every product, row by row with its own adapter; in F32 throughout,
// since adapters are small and meant to correct.
void CpuBackend::add_adapters(const float* x, int64_t m, int64_t k,
                              std::span<const LinearWeight* const> weights,
                              std::span<const Product> products,
                              std::span<const int32_t> adapter_of_row) {
  std::vector<int32_t> ids(adapter_of_row.begin(), adapter_of_row.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  if (ids.front() < 0) ids.erase(ids.begin());
  std::vector<AdapterProduct> small;
  std::vector<std::vector<int64_t>> rows_of;
  rows_of.reserve(ids.size());
  int64_t work = 0;
  for (const int32_t id : ids) {
    std::vector<int64_t>& rows = rows_of.emplace_back();
    for (int64_t row = 0; row < m; ++row)
      if (adapter_of_row[static_cast<size_t>(row)] == id) rows.push_back(row);
    for (size_t i = 0; i < weights.size(); ++i) {
      const std::vector<LowRank>& adapters = weights[i]->adapters;
      if (adapters.empty()) continue;
      REPRISE_CHECK(static_cast<size_t>(id) < adapters.size(), "adapter {} of {}", id,
                    adapters.size());
      const LowRank& adapter = adapters[static_cast<size_t>(id)];
      if (!adapter.a) continue;
      const int64_t n = products[i].n, rank = adapter.a.dim(0);
      REPRISE_CHECK(adapter.a.shape() == (Shape{rank, k}) && adapter.b.shape() == (Shape{n, rank}),
                    "adapter {} {} on a weight of {}", shape_string(adapter.a.shape()),
                    shape_string(adapter.b.shape()), shape_string(weights[i]->weight.shape()));
      const AdapterProduct product = {&adapter, rows, k, n, products[i].out};
      const int64_t steps = std::ssize(rows) * rank * (k + n);
      if (steps > kSmallAdapter) {
        add_adapter(x, product);
      } else {
        small.push_back(product);
        work += steps / 8;
      }
    }
  }
  run_tasks(std::ssize(small), work,
            [&](int64_t task) { add_adapter_here(x, small[static_cast<size_t>(task)]); });
}

void CpuBackend::add_adapter(const float* x, const AdapterProduct& p) {
  const int64_t rank = p.adapter->a.dim(0), count = std::ssize(p.rows);
  const Tensor gathered = new_tensor({count, p.k});
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(x + p.rows[static_cast<size_t>(i)] * p.k, p.k, new_floats(gathered) + i * p.k);
  const Tensor low = new_tensor({count, rank});
  const Tensor high = new_tensor({count, p.n});
  const Product down = {&data_of(p.adapter->a), p.adapter->a.dtype(), rank, nullptr,
                        new_floats(low)};
  const Product up = {&data_of(p.adapter->b), p.adapter->b.dtype(), p.n, nullptr, new_floats(high)};
  multiply(new_floats(gathered), count, p.k, {&down, 1}, false);
  multiply(new_floats(low), count, rank, {&up, 1}, false);
  run_chunks(count, p.n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = p.out + p.rows[static_cast<size_t>(i)] * p.n;
      kernels_.vector.add_scaled(to, new_floats(high) + i * p.n, p.adapter->scale, p.n, to);
    }
  });
}

// The same on the calling thread, within a task.
void CpuBackend::add_adapter_here(const float* x, const AdapterProduct& p) {
  const int64_t rank = p.adapter->a.dim(0), count = std::ssize(p.rows);
  thread_local std::vector<float> scratch;
  const auto floats = static_cast<size_t>(count * (p.k + rank + p.n));
  if (scratch.size() < floats) scratch.resize(floats);
  const float* input = x + p.rows[0] * p.k;
  float* const gathered = scratch.data();
  float* const low = gathered + count * p.k;
  float* const high = low + count * rank;
  if (count > 1) {
    for (int64_t i = 0; i < count; ++i)
      std::copy_n(x + p.rows[static_cast<size_t>(i)] * p.k, p.k, gathered + i * p.k);
    input = gathered;
  }
  multiply_f32_here(input, count, p.adapter->a, low);
  multiply_f32_here(low, count, p.adapter->b, high);
  for (int64_t i = 0; i < count; ++i) {
    float* to = p.out + p.rows[static_cast<size_t>(i)] * p.n;
    kernels_.vector.add_scaled(to, high + i * p.n, p.adapter->scale, p.n, to);
  }
}

}  // namespace reprise::cpu
