// KV rows on pages.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "base/half.h"

namespace reprise::cpu {
namespace {

const CpuKvPage& cpu_page(const KvPage& page) { return static_cast<const CpuKvPage&>(page); }

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

// Writes the entries of one page, k and v of one token after the other.
class PageWriter {
 public:
  PageWriter(const CpuKvPage& page, const VectorKernels& kernels)
      : page_(page), kernels_(kernels) {}

  void key(int64_t head, int64_t token, const float* k) {
    store(k, page_.spec.k_dim, kKvPageTokens, page_.key(head, token));
  }
  void value(int64_t head, int64_t token, const float* v) {
    store(v, page_.spec.v_dim, 1, page_.value(head, token));
  }

 private:
  void store(const float* from, int64_t count, int64_t stride, std::byte* to) {
    if (page_.spec.type == DType::F32) return store_entry(from, count, stride, to);
    for (int64_t i = 0; i < count; i += kPart) {  // nothing is allocated: it can't fail
      const int64_t part = std::min(kPart, count - i);
      kernels_.to_f16(from + i, part, half_);
      store_entry(half_, part, stride, to + i * stride * int64_t{sizeof(uint16_t)});
    }
  }

  static constexpr int64_t kPart = 256;
  const CpuKvPage& page_;
  const VectorKernels& kernels_;
  uint16_t half_[kPart];
};

}  // namespace

std::shared_ptr<KvPage> CpuBackend::new_page(const KvSpec& spec) {
  REPRISE_CHECK(spec.heads > 0 && spec.k_dim > 0 && spec.v_dim > 0);
  if (spec.type != DType::F32 && spec.type != DType::F16)
    fail("KV entries of type {} aren't supported, expected F32 or F16", dtype_name(spec.type));
  return std::make_shared<CpuKvPage>(memory_->allocate(spec.bytes_per_page(), Account::Kv), spec);
}

void CpuBackend::copy_entries(const KvPage& from, int64_t first, KvPage& to, int64_t at,
                              int64_t count) {
  REPRISE_CHECK(from.spec == to.spec && 0 <= first && first + count <= kKvPageTokens && 0 <= at &&
                at + count <= kKvPageTokens);
  const CpuKvPage &source = cpu_page(from), &target = cpu_page(to);
  const KvSpec& spec = from.spec;
  if (first == 0 && at == 0) {  // the whole page in one piece
    std::memcpy(target.memory.get(), source.memory.get(),
                static_cast<size_t>(spec.bytes_per_page()));
    return;
  }
  const int64_t element = block_bytes(spec.type), row = kKvPageTokens * element;
  for (int64_t h = 0; h < spec.heads; ++h) {
    for (int64_t d = 0; d < spec.k_dim; ++d)
      std::memcpy(target.key(h, at) + d * row, source.key(h, first) + d * row,
                  static_cast<size_t>(count * element));
    std::memcpy(target.value(h, at), source.value(h, first),
                static_cast<size_t>(count * spec.v_dim * element));
  }
}

void CpuBackend::store_kv(KvAppend& append, const Tensor& k, const Tensor& v,
                          std::span<const AttentionSegment> segments) {
  const int64_t heads = k.dim(1), k_dim = k.dim(2), v_dim = v.dim(2);
  const float* keys = floats(k);
  const float* values = floats(v);
  std::vector<int64_t> begins;  // of the segments that are written, in order
  for (const AttentionSegment& segment : segments) {
    if (!segment.write) continue;
    const KvSpec& spec = segment.write->spec;
    REPRISE_CHECK(spec.heads == heads && spec.k_dim == k_dim && spec.v_dim == v_dim,
                  "a KV row of {} heads, {} + {} wide for entries of {} heads, {} + {}", spec.heads,
                  spec.k_dim, spec.v_dim, heads, k_dim, v_dim);
    begins.push_back(append.extend(*segment.write, segment.positions));
  }
  auto next = begins.begin();
  for (const AttentionSegment& segment : segments) {
    if (!segment.write) continue;
    const KvRow& row = *segment.write;
    const int64_t filled = *next++, entries = filled + segment.rows;
    if (segment.rows == 0) continue;
    const auto store_page = [&](int64_t index) {
      PageWriter writer(page_of(row, index), kernels_.vector);
      const int64_t begin = std::max(filled, index * kKvPageTokens);
      const int64_t end = std::min(entries, (index + 1) * kKvPageTokens);
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t at = begin; at < end; ++at) {
          const int64_t token = at % kKvPageTokens;
          const int64_t entry = (segment.first_row + at - filled) * heads + h;
          writer.key(h, token, keys + entry * k_dim);
          writer.value(h, token, values + entry * v_dim);
        }
    };
    // A page is one thread's: its entries share lines.
    const int64_t first = filled / kKvPageTokens;
    const int64_t pages = kv_pages(entries) - first;
    run_chunks(pages, segment.rows * heads * (k_dim + v_dim) / pages,
               [&](int64_t begin, int64_t end) {
                 for (int64_t i = begin; i < end; ++i) store_page(first + i);
               });
  }
}

void CpuBackend::append_kv(const Tensor& k, const Tensor& v,
                           std::span<const AttentionSegment> segments) {
  REPRISE_CHECK(k.rank() == 3 && v.rank() == 3 && k.dim(0) == v.dim(0) && k.dim(1) == v.dim(1),
                "k {}, v {}", shape_string(k.shape()), shape_string(v.shape()));
  check_segments(segments, k.dim(0));
  KvAppend append(*this);
  store_kv(append, k, v, segments);
  append.commit();
}

std::pair<Tensor, Tensor> CpuBackend::rounded_kv(const Tensor& k, const Tensor& v,
                                                 std::span<const AttentionSegment> segments) {
  std::pair<Tensor, Tensor> rounded;
  for (const AttentionSegment& segment : segments) {
    if (!segment.own_entries || segment.own_type() == DType::F32 || segment.rows == 0) continue;
    if (!rounded.first) rounded = {new_tensor(k.shape()), new_tensor(v.shape())};
    const auto round = [&](const Tensor& from, const Tensor& to) {
      const int64_t width = from.dim(1) * from.dim(2);
      const float* x = floats(from) + segment.first_row * width;
      float* out = new_floats(to) + segment.first_row * width;
      run_chunks(segment.rows * width, 1, [&](int64_t begin, int64_t end) {
        constexpr int64_t kPart = 256;
        uint16_t half[kPart];
        for (int64_t i = begin; i < end; i += kPart) {
          const int64_t count = std::min(kPart, end - i);
          kernels_.vector.to_f16(x + i, count, half);
          std::transform(half, half + count, out + i, f16_to_float);
        }
      });
    };
    round(k, rounded.first);
    round(v, rounded.second);
  }
  return rounded;
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

}  // namespace reprise::cpu
