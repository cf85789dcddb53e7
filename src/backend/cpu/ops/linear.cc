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
  if (!data.packed) {
    kernels_.matmul.dense_f32(x, m, k, data.bytes, weight.weight.dtype(), 0, n, k, out, n);
  } else if (activations_ == Activations::Int8) {
    const Quantized input = quantize(x, m, k, /*here=*/true);
    kernels_.matmul.packed_int8(input.rows, m, data.packed->matrix(), 0, n, out, n);
  } else {
    kernels_.matmul.packed_f32(x, m, k, data.packed->matrix(), 0, n, out, n);
  }
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
  if (!adapter_of_row.empty())
    for (size_t i = 0; i < weights.size(); ++i)
      if (!weights[i]->adapters.empty())
        add_adapters(from, m, k, *weights[i], products[i].out, adapter_of_row);
  return results;
}

// out [m, n] += scale * B (A x), row by row with its own adapter; in F32 throughout, since adapters
// are small and meant to correct.
void CpuBackend::add_adapters(const float* x, int64_t m, int64_t k, const LinearWeight& weight,
                              float* out, std::span<const int32_t> adapter_of_row) {
  std::vector<std::vector<int64_t>> rows_of(weight.adapters.size());
  for (int64_t row = 0; row < m; ++row) {
    const int32_t id = adapter_of_row[static_cast<size_t>(row)];
    if (id < 0) continue;
    REPRISE_CHECK(static_cast<size_t>(id) < rows_of.size(), "adapter {} of {}", id, rows_of.size());
    rows_of[static_cast<size_t>(id)].push_back(row);
  }
  const int64_t n = weight.weight.dim(0);
  for (size_t id = 0; id < rows_of.size(); ++id) {
    const LowRank& adapter = weight.adapters[id];
    const std::vector<int64_t>& rows = rows_of[id];
    if (rows.empty() || !adapter.a) continue;
    const int64_t rank = adapter.a.dim(0), count = static_cast<int64_t>(rows.size());
    REPRISE_CHECK(adapter.a.shape() == (Shape{rank, k}) && adapter.b.shape() == (Shape{n, rank}),
                  "adapter {} {} on a weight of {}", shape_string(adapter.a.shape()),
                  shape_string(adapter.b.shape()), shape_string(weight.weight.shape()));
    Tensor gathered;
    const float* input = x;
    if (count < m) {
      gathered = new_tensor({count, k});
      for (int64_t i = 0; i < count; ++i)
        std::copy_n(x + rows[static_cast<size_t>(i)] * k, k, new_floats(gathered) + i * k);
      input = new_floats(gathered);
    }
    const Tensor low = new_tensor({count, rank});
    const Tensor high = new_tensor({count, n});
    const Product down = {&data_of(adapter.a), adapter.a.dtype(), rank, nullptr, new_floats(low)};
    const Product up = {&data_of(adapter.b), adapter.b.dtype(), n, nullptr, new_floats(high)};
    multiply(input, count, k, {&down, 1}, false);
    multiply(new_floats(low), count, rank, {&up, 1}, false);
    run_chunks(count, n, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        float* to = out + rows[static_cast<size_t>(i)] * n;
        kernels_.vector.add_scaled(to, new_floats(high) + i * n, adapter.scale, n, to);
      }
    });
  }
}

}  // namespace reprise::cpu
