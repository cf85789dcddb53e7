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

TorchPage& page_of(const KvRow& row, int64_t entry) {
  auto* page =
      dynamic_cast<TorchPage*>(row.pages[static_cast<size_t>(entry / kKvPageTokens)].get());
  REPRISE_CHECK(page != nullptr, "a page of another backend");
  return *page;
}

}  // namespace

std::shared_ptr<KvPage> TorchBackend::new_page(const KvSpec& spec) {
  const auto options = at::TensorOptions().device(device_).dtype(kv_type(spec));
  return std::make_shared<TorchPage>(at::empty({kKvPageTokens, spec.heads, spec.k_dim}, options),
                                     at::empty({kKvPageTokens, spec.heads, spec.v_dim}, options),
                                     meter_);
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

KvRow TorchBackend::fork(const KvRow& row) {
  const c10::AutoGradMode no_graph(false);
  KvRow copy = row;
  if (row.filled() % kKvPageTokens != 0) {
    const TorchPage& last = page_of(row, row.filled() - 1);
    copy.pages.back() = std::make_shared<TorchPage>(last.k.clone(), last.v.clone(), meter_);
  }
  return copy;
}

void TorchBackend::append_kv(KvRow& row, std::span<const int32_t> positions, const at::Tensor& k,
                             const at::Tensor& v) {
  const auto count = static_cast<int64_t>(positions.size());
  REPRISE_CHECK(k.size(1) == row.spec.heads && k.size(2) == row.spec.k_dim &&
                v.size(1) == row.spec.heads && v.size(2) == row.spec.v_dim);
  for (int64_t done = 0; done < count;) {
    const int64_t offset = row.filled() % kKvPageTokens;
    if (offset == 0) {
      row.pages.push_back(new_page(row.spec));
    } else if (row.pages.back().use_count() > 1) {
      // A row cut back into a page it shares with others must not write over their entries.
      const TorchPage& shared = page_of(row, row.filled() - 1);
      row.pages.back() = std::make_shared<TorchPage>(shared.k.clone(), shared.v.clone(), meter_);
    }
    auto& page = static_cast<TorchPage&>(*row.pages.back());
    const int64_t fits = std::min(count - done, kKvPageTokens - offset);
    page.k.narrow(0, offset, fits).copy_(k.narrow(0, done, fits));
    page.v.narrow(0, offset, fits).copy_(v.narrow(0, done, fits));
    for (int64_t i = done; i < done + fits; ++i) {
      const int32_t position = positions[static_cast<size_t>(i)];
      REPRISE_CHECK(row.positions.empty() || position > row.positions.back(),
                    "position {} behind {}", position, row.positions.back());
      row.positions.push_back(position);
    }
    done += fits;
  }
}

}  // namespace reprise
