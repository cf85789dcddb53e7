// KV rows on pages.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "base/half.h"

namespace reprise::cpu {
namespace {

// Elements of one entry, `stride` apart in a page: keys lie component by component there.
template <class T>
void store_entry(const T* from, int64_t count, int64_t stride, std::byte* to) {
  T* at = reinterpret_cast<T*>(to);
  for (int64_t i = 0; i < count; ++i) at[i * stride] = from[i];
}
void load_entry(const std::byte* from, DType type, int64_t count, int64_t stride, float* out) {
  const auto load = [&](const auto* at, const auto& to_float) {
    for (int64_t i = 0; i < count; ++i) out[i] = to_float(at[i * stride]);
  };
  if (type == DType::F32)
    load(reinterpret_cast<const float*>(from), [](float x) { return x; });
  else
    load(reinterpret_cast<const uint16_t*>(from), f16_to_float);
}

int64_t page_bytes(const KvSpec& spec) { return kKvPageTokens * spec.bytes_per_token(); }

}  // namespace

std::shared_ptr<KvPage> CpuBackend::new_page(const KvSpec& spec) {
  REPRISE_CHECK(spec.heads > 0 && spec.k_dim > 0 && spec.v_dim > 0);
  if (spec.type != DType::F32 && spec.type != DType::F16)
    fail("KV entries of type {} aren't supported, expected F32 or F16", dtype_name(spec.type));
  return std::make_shared<CpuKvPage>(memory_->allocate(page_bytes(spec), Account::Kv), spec);
}

// Makes room for a segment's entries in its row and notes their positions.
void CpuBackend::extend_row(const AttentionSegment& segment) {
  KvRow& row = *segment.write;
  const int64_t filled = row.filled();
  REPRISE_CHECK(filled == 0 || segment.positions[0] > row.positions.back(),
                "position {} is appended after {}", segment.positions[0], row.positions.back());
  REPRISE_CHECK(static_cast<int64_t>(row.pages.size()) * kKvPageTokens >= filled);
  if (filled % kKvPageTokens != 0) {  // a page that another row reads too isn't written to
    std::shared_ptr<KvPage>& last = row.pages[static_cast<size_t>(filled / kKvPageTokens)];
    if (last.use_count() > 1) {
      auto copy = new_page(row.spec);
      std::memcpy(static_cast<CpuKvPage&>(*copy).memory.get(),
                  static_cast<CpuKvPage&>(*last).memory.get(),
                  static_cast<size_t>(page_bytes(row.spec)));
      last = std::move(copy);
    }
  }
  const int64_t pages = (filled + segment.rows + kKvPageTokens - 1) / kKvPageTokens;
  while (static_cast<int64_t>(row.pages.size()) < pages) row.pages.push_back(new_page(row.spec));
  row.positions.insert(row.positions.end(), segment.positions.begin(), segment.positions.end());
}

void CpuBackend::append_kv(const AttentionSpec& spec, const float* k, const float* v,
                           std::span<const AttentionSegment> segments) {
  for (const AttentionSegment& segment : segments) {
    if (!segment.write || segment.rows == 0) continue;
    KvRow& row = *segment.write;
    REPRISE_CHECK(row.spec.heads == spec.kv_heads && row.spec.k_dim == spec.k_dim &&
                      row.spec.v_dim == spec.v_dim,
                  "a KV row of {} heads, {} + {} wide for attention of {} heads, {} + {}",
                  row.spec.heads, row.spec.k_dim, row.spec.v_dim, spec.kv_heads, spec.k_dim,
                  spec.v_dim);
    const int64_t filled = row.filled();
    extend_row(segment);
    const int64_t heads = spec.kv_heads, entries = filled + segment.rows;
    const bool f16 = row.spec.type == DType::F16;
    const auto store_page = [&](int64_t index) {
      const CpuKvPage& page = page_of(row, index);
      std::vector<uint16_t> half(static_cast<size_t>(f16 ? std::max(spec.k_dim, spec.v_dim) : 0));
      const auto store = [&](const float* from, int64_t count, int64_t stride, std::byte* to) {
        if (!f16) return store_entry(from, count, stride, to);
        kernels_.vector.to_f16(from, count, half.data());
        store_entry(half.data(), count, stride, to);
      };
      const int64_t begin = std::max(filled, index * kKvPageTokens);
      const int64_t end = std::min(entries, (index + 1) * kKvPageTokens);
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t at = begin; at < end; ++at) {
          const int64_t token = at % kKvPageTokens;
          const int64_t entry = (segment.first_row + at - filled) * heads + h;
          store(k + entry * spec.k_dim, spec.k_dim, kKvPageTokens, page.key(h, token));
          store(v + entry * spec.v_dim, spec.v_dim, 1, page.value(h, token));
        }
    };
    // A page is one thread's: its entries share lines.
    const int64_t first = filled / kKvPageTokens;
    const int64_t pages = (entries - 1) / kKvPageTokens + 1 - first;
    run_chunks(pages, segment.rows * heads * (spec.k_dim + spec.v_dim) / pages,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) store_page(first + i);
               });
  }
}

std::pair<Tensor, Tensor> CpuBackend::read_kv(const KvRow& row, int64_t begin, int64_t end) {
  REPRISE_CHECK(begin >= 0 && begin <= end && end <= row.filled(), "entries [{}, {}) of {}", begin,
                end, row.filled());
  const int64_t heads = row.spec.heads, k_dim = row.spec.k_dim, v_dim = row.spec.v_dim;
  Tensor k = new_tensor({end - begin, heads, k_dim});
  Tensor v = new_tensor({end - begin, heads, v_dim});
  run_chunks(end - begin, heads * (k_dim + v_dim), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const CpuKvPage& page = page_of(row, (begin + i) / kKvPageTokens);
      const int64_t token = (begin + i) % kKvPageTokens;
      for (int64_t h = 0; h < heads; ++h) {
        load_entry(page.key(h, token), row.spec.type, k_dim, kKvPageTokens,
                   new_floats(k) + (i * heads + h) * k_dim);
        load_entry(page.value(h, token), row.spec.type, v_dim, 1,
                   new_floats(v) + (i * heads + h) * v_dim);
      }
    }
  });
  return {std::move(k), std::move(v)};
}

KvRow CpuBackend::fork(const KvRow& row) {
  KvRow copy = row;
  if (row.filled() % kKvPageTokens != 0) {
    auto page = new_page(row.spec);
    std::memcpy(static_cast<CpuKvPage&>(*page).memory.get(),
                page_of(row, row.filled() / kKvPageTokens).memory.get(),
                static_cast<size_t>(page_bytes(row.spec)));
    copy.pages[static_cast<size_t>(row.filled() / kKvPageTokens)] = std::move(page);
  }
  return copy;
}

}  // namespace reprise::cpu
