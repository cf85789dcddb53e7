// Operations that only move values.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace reprise::cpu {
namespace {

int dimension(const Tensor& x, int dim) {
  const int at = dim < 0 ? x.rank() + dim : dim;
  REPRISE_CHECK(at >= 0 && at < x.rank(), "dimension {} of {}", dim, shape_string(x.shape()));
  return at;
}

// Product of the dimensions [begin, end).
int64_t extent(const Shape& shape, int begin, int end) {
  int64_t product = 1;
  for (int i = begin; i < end; ++i) product *= shape[static_cast<size_t>(i)];
  return product;
}

void copy_floats(const float* from, int64_t count, float* to) {
  if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

}  // namespace

Tensor CpuBackend::reshape(const Tensor& x, Shape shape) {
  REPRISE_CHECK(num_elements(shape) == x.size(), "{} as {}", shape_string(x.shape()),
                shape_string(shape));
  REPRISE_CHECK(!data_of(x).packed || shape == x.shape(), "a packed weight can't be reshaped");
  return view(x, std::move(shape), 0);
}

Tensor CpuBackend::slice(const Tensor& x, int dim, int64_t begin, int64_t end) {
  const int at = dimension(x, dim);
  REPRISE_CHECK(begin >= 0 && begin <= end && end <= x.dim(at), "[{}, {}) of {}", begin, end,
                shape_string(x.shape()));
  REPRISE_CHECK(!data_of(x).packed, "a packed weight can't be sliced");
  Shape shape = x.shape();
  shape[static_cast<size_t>(at)] = end - begin;
  const int64_t outer = extent(x.shape(), 0, at);
  const int64_t inner = extent(x.shape(), at + 1, x.rank());
  if (outer == 1) return view(x, std::move(shape), begin * inner * block_bytes(x.dtype()));

  const float* from = floats(x);
  Tensor out = new_tensor(std::move(shape));
  float* to = new_floats(out);
  const int64_t width = (end - begin) * inner, stride = x.dim(at) * inner;
  run_chunks(outer, width, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      copy_floats(from + i * stride + begin * inner, width, to + i * width);
  });
  return out;
}

Tensor CpuBackend::concat(std::span<const Tensor> parts, int dim) {
  REPRISE_CHECK(!parts.empty());
  const int at = dimension(parts[0], dim);
  Shape shape = parts[0].shape();
  int64_t total = 0;
  for (const Tensor& part : parts) {
    REPRISE_CHECK(part.rank() == parts[0].rank());
    for (int i = 0; i < part.rank(); ++i)
      REPRISE_CHECK(i == at || part.dim(i) == parts[0].dim(i), "{} beside {}",
                    shape_string(part.shape()), shape_string(parts[0].shape()));
    total += part.dim(at);
  }
  shape[static_cast<size_t>(at)] = total;
  const int64_t outer = extent(shape, 0, at), inner = extent(shape, at + 1, parts[0].rank());
  Tensor out = new_tensor(std::move(shape));
  float* to = new_floats(out);
  run_chunks(outer, total * inner, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      float* at_part = to + i * total * inner;
      for (const Tensor& part : parts) {
        const int64_t width = part.dim(at) * inner;
        copy_floats(floats(part) + i * width, width, at_part);
        at_part += width;
      }
    }
  });
  return out;
}

Tensor CpuBackend::gather_rows(const Tensor& x, std::span<const int32_t> indices) {
  REPRISE_CHECK(x.rank() >= 1);
  Shape shape = x.shape();
  shape[0] = static_cast<int64_t>(indices.size());
  const int64_t width = extent(x.shape(), 1, x.rank());
  const float* from = floats(x);
  Tensor out = new_tensor(std::move(shape));
  float* to = new_floats(out);
  for (const int32_t index : indices)
    REPRISE_CHECK(index >= 0 && index < x.dim(0), "row {} of {}", index, x.dim(0));
  run_chunks(out.dim(0), width, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      copy_floats(from + indices[static_cast<size_t>(i)] * width, width, to + i * width);
  });
  return out;
}

Tensor CpuBackend::replace_rows(const Tensor& x, std::span<const int32_t> indices,
                                const Tensor& rows) {
  REPRISE_CHECK(x.rank() >= 1 && rows.rank() == x.rank() &&
                    rows.dim(0) == static_cast<int64_t>(indices.size()),
                "{} rows of {} by {}", indices.size(), shape_string(x.shape()),
                shape_string(rows.shape()));
  const int64_t width = extent(x.shape(), 1, x.rank());
  REPRISE_CHECK(std::equal(x.shape().begin() + 1, x.shape().end(), rows.shape().begin() + 1));
  std::vector<int32_t> source(static_cast<size_t>(x.dim(0)), -1);  // row of `rows`, -1: of x
  for (size_t i = 0; i < indices.size(); ++i) {
    REPRISE_CHECK(indices[i] >= 0 && indices[i] < x.dim(0), "row {} of {}", indices[i], x.dim(0));
    int32_t& from = source[static_cast<size_t>(indices[i])];
    REPRISE_CHECK(from < 0, "row {} is replaced twice", indices[i]);
    from = static_cast<int32_t>(i);
  }
  const float* kept = floats(x);
  const float* replacing = floats(rows);
  Tensor out = new_tensor(x.shape());
  float* to = new_floats(out);
  run_chunks(x.dim(0), width, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int32_t from = source[static_cast<size_t>(i)];
      copy_floats(from < 0 ? kept + i * width : replacing + from * width, width, to + i * width);
    }
  });
  return out;
}

Tensor CpuBackend::patchify(const Tensor& pixels, int patch) {
  REPRISE_CHECK(pixels.rank() == 4 && patch > 0);
  const int64_t tiles = pixels.dim(0), channels = pixels.dim(1);
  const int64_t height = pixels.dim(2), width = pixels.dim(3);
  const int64_t down = height / patch, across = width / patch;
  const float* from = floats(pixels);
  Tensor out = new_tensor({tiles, down * across, channels * patch * patch});
  float* to = new_floats(out);
  const int64_t area = int64_t{patch} * patch;
  run_chunks(tiles * down * across, channels * area, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t tile = i / (down * across), place = i % (down * across);
      const int64_t top = place / across * patch, left = place % across * patch;
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t y = 0; y < patch; ++y)
          copy_floats(from + ((tile * channels + c) * height + top + y) * width + left, patch,
                      to + i * channels * area + c * area + y * patch);
    }
  });
  return out;
}

}  // namespace reprise::cpu
