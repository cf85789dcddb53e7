#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include "backend/torch/torch_backend.h"

namespace reprise {
namespace {

at::ScalarType kv_type(const KvSpec& spec) {
  REPRISE_CHECK(spec.type == DType::F32 || spec.type == DType::F16, "KV of type {}",
                dtype_name(spec.type));
  return spec.type == DType::F16 ? at::kHalf : at::kFloat;
}

const TorchPage& torch_page(const KvPage& page) {
  const auto* ours = dynamic_cast<const TorchPage*>(&page);
  REPRISE_CHECK(ours != nullptr, "a page of another backend");
  return *ours;
}

const TorchPage& page_of(const KvRow& row, int64_t entry) {
  return torch_page(*row.pages[static_cast<size_t>(entry / kKvPageTokens)]);
}

}  // namespace

std::shared_ptr<KvPage> TorchBackend::new_page(const KvSpec& spec) {
  const auto options = at::TensorOptions().device(device_).dtype(kv_type(spec));
  return std::make_shared<TorchPage>(
      spec, at::empty({kKvPageTokens, spec.heads, spec.k_dim}, options),
      at::empty({kKvPageTokens, spec.heads, spec.v_dim}, options), meter_);
}

std::pair<at::Tensor, at::Tensor> TorchBackend::kv_entries(const KvRow& row, int64_t begin,
                                                           int64_t end) const {
  REPRISE_CHECK(0 <= begin && begin <= end && end <= row.filled(), "[{}, {}) of {}", begin, end,
                row.filled());
  std::vector<at::Tensor> k, v;
  for (int64_t at = begin; at < end;) {
    const TorchPage& page = page_of(row, at);
    const int64_t offset = at % kKvPageTokens;
    const int64_t count = std::min(end - at, kKvPageTokens - offset);
    k.push_back(page.k.narrow(0, offset, count));
    v.push_back(page.v.narrow(0, offset, count));
    at += count;
  }
  if (k.empty()) {
    const auto options = at::TensorOptions().device(device_).dtype(at::kFloat);
    return {at::empty({0, row.spec.heads, row.spec.k_dim}, options),
            at::empty({0, row.spec.heads, row.spec.v_dim}, options)};
  }
  return {at::cat(k, 0).to(at::kFloat), at::cat(v, 0).to(at::kFloat)};
}

std::pair<Tensor, Tensor> TorchBackend::read_kv(const KvRow& row, int64_t begin, int64_t end) {
  const c10::AutoGradMode no_graph(false);
  auto [k, v] = kv_entries(row, begin, end);
  return {wrap(std::move(k)), wrap(std::move(v))};
}

void TorchBackend::copy_entries(const KvPage& from, int64_t first, KvPage& to, int64_t at,
                                int64_t count) {
  const c10::AutoGradMode no_graph(false);
  const TorchPage &source = torch_page(from), &target = torch_page(to);
  REPRISE_CHECK(source.spec == target.spec);
  target.k.narrow(0, at, count).copy_(source.k.narrow(0, first, count));
  target.v.narrow(0, at, count).copy_(source.v.narrow(0, first, count));
}

void TorchBackend::store_kv(KvAppend& append, const at::Tensor& k, const at::Tensor& v,
                            std::span<const AttentionSegment> segments) {
  std::vector<int64_t> begins;  // of the segments that are written, in order
  for (const AttentionSegment& s : segments) {
    if (s.write == nullptr) continue;
    const KvSpec& spec = s.write->spec;
    REPRISE_CHECK(k.size(1) == spec.heads && k.size(2) == spec.k_dim && v.size(1) == spec.heads &&
                  v.size(2) == spec.v_dim);
    begins.push_back(append.extend(*s.write, s.positions));
  }
  auto next = begins.begin();
  for (const AttentionSegment& s : segments) {
    if (s.write == nullptr) continue;
    const int64_t begin = *next++;
    for (int64_t done = 0; done < s.rows;) {
      const int64_t offset = (begin + done) % kKvPageTokens;
      const int64_t count = std::min(s.rows - done, kKvPageTokens - offset);
      const TorchPage& page = page_of(*s.write, begin + done);
      page.k.narrow(0, offset, count).copy_(k.narrow(0, s.first_row + done, count));
      page.v.narrow(0, offset, count).copy_(v.narrow(0, s.first_row + done, count));
      done += count;
    }
  }
}

void TorchBackend::append_kv(const Tensor& k, const Tensor& v,
                             std::span<const AttentionSegment> segments) {
  const c10::AutoGradMode no_graph(false);
  REPRISE_CHECK(k.rank() == 3 && v.rank() == 3 && k.dim(0) == v.dim(0) && k.dim(1) == v.dim(1),
                "k {}, v {}", shape_string(k.shape()), shape_string(v.shape()));
  check_segments(segments, k.dim(0));
  KvAppend append(*this);
  store_kv(append, at_of(k), at_of(v), segments);
  append.commit();
}

}  // namespace reprise
