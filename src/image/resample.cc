#include "image/resample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "base/error.h"

namespace reprise {
namespace {

// For each output position along one axis: which input positions it sums, and with what weights.
struct Taps {
  int most = 0;              // the largest count
  int bits = 0;              // weights are in units of 2^-bits
  std::vector<int> first;    // [out]
  std::vector<int> count;    // [out], 1..most
  std::vector<int> weights;  // [out, most]
};

int round_half_away(double value) {
  return static_cast<int>(value < 0 ? value - 0.5 : value + 0.5);
}

uint8_t to_byte(int sum, int bits) { return static_cast<uint8_t>(std::clamp(sum >> bits, 0, 255)); }

// ---- Pillow -------------------------------------------------------------------------------------

// 8 bits for the result and 2 for sums of weights above 1 leave 22 of 32.
constexpr int kPillowBits = 32 - 8 - 2;

double bilinear(double x) {
  x = std::abs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// R. Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.5.
double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

Taps pillow_taps(int in, int out, Filter filter) {
  const double scale = static_cast<double>(in) / out;
  const double stretch = std::max(scale, 1.0);
  const double support = (filter == Filter::Bicubic ? 2.0 : 1.0) * stretch;
  const auto weight = filter == Filter::Bicubic ? bicubic : bilinear;
  Taps taps{.most = static_cast<int>(std::ceil(support)) * 2 + 1, .bits = kPillowBits};
  taps.first.resize(out);
  taps.count.resize(out);
  taps.weights.resize(static_cast<size_t>(out) * taps.most);
  std::vector<double> w(taps.most);
  for (int o = 0; o < out; ++o) {
    const double center = (o + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int count = std::min(static_cast<int>(center + support + 0.5), in) - first;
    double sum = 0.0;
    for (int i = 0; i < count; ++i) {
      w[i] = weight((i + first - center + 0.5) * (1.0 / stretch));
      sum += w[i];
    }
    taps.first[o] = first;
    taps.count[o] = count;
    int* to = &taps.weights[static_cast<size_t>(o) * taps.most];
    for (int i = 0; i < count; ++i) {
      if (sum != 0.0) w[i] /= sum;
      to[i] = round_half_away(w[i] * (1 << kPillowBits));
    }
  }
  return taps;
}

// ---- PyTorch ------------------------------------------------------------------------------------

Taps torch_taps(int in, int out) {
  constexpr double a = -0.75;
  const auto inner = [](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto outer = [](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  Taps taps{.most = 4};
  taps.first.resize(out);
  taps.count.resize(out);
  taps.weights.resize(static_cast<size_t>(out) * taps.most);
  std::vector<double> weights(taps.weights.size());
  const double scale = static_cast<double>(in) / out;
  double largest = 0.0;  // of the weights, both before and after those outside are added up
  for (int o = 0; o < out; ++o) {
    const double source = scale * (o + 0.5) - 0.5;
    const int left = std::min(static_cast<int>(std::floor(source)), in - 1);
    const double t = std::clamp(source - left, 0.0, 1.0);
    const double w[4] = {outer(t + 1), inner(t), inner(1 - t), outer(2 - t)};
    const int first = std::clamp(left - 1, 0, in - 1);
    taps.first[o] = first;
    taps.count[o] = std::clamp(left + 2, 0, in - 1) - first + 1;
    for (int i = 0; i < 4; ++i) {
      double& sum = weights[4 * o + std::clamp(left - 1 + i, 0, in - 1) - first];
      sum += w[i];
      largest = std::max({largest, w[i], sum});
    }
  }
  while (taps.bits < 22 && round_half_away(largest * (1 << (taps.bits + 1))) < 1 << 15) ++taps.bits;
  for (size_t i = 0; i < weights.size(); ++i)
    taps.weights[i] = round_half_away(weights[i] * (1 << taps.bits));
  return taps;
}

// ---- The two passes -----------------------------------------------------------------------------

// in: [in_width, 3], out: [out_width, 3].
void horizontal(const Taps& taps, const uint8_t* in, uint8_t* out) {
  const int half = 1 << (taps.bits - 1);
  const size_t out_width = taps.first.size();
  const int* weights = taps.weights.data();
  for (size_t x = 0; x < out_width; ++x, weights += taps.most, out += 3) {
    const uint8_t* p = in + static_cast<size_t>(taps.first[x]) * 3;
    int r = half, g = half, b = half;
    for (int i = 0; i < taps.count[x]; ++i, p += 3) {
      r += p[0] * weights[i];
      g += p[1] * weights[i];
      b += p[2] * weights[i];
    }
    out[0] = to_byte(r, taps.bits);
    out[1] = to_byte(g, taps.bits);
    out[2] = to_byte(b, taps.bits);
  }
}

// Output row y from input rows; row(i) points to input row i, `bytes` long.
void vertical(const Taps& taps, int y, const std::function<const uint8_t*(int)>& row, size_t bytes,
              uint8_t* out) {
  constexpr size_t kChunk = 1024;  // sums of one chunk stay in the first-level cache
  int sums[kChunk];
  const int* weights = &taps.weights[static_cast<size_t>(y) * taps.most];
  for (size_t start = 0; start < bytes; start += kChunk) {
    const size_t n = std::min(kChunk, bytes - start);
    std::fill_n(sums, n, 1 << (taps.bits - 1));
    for (int i = 0; i < taps.count[y]; ++i) {
      const uint8_t* in = row(taps.first[y] + i) + start;
      const int w = weights[i];
      for (size_t x = 0; x < n; ++x) sums[x] += in[x] * w;
    }
    for (size_t x = 0; x < n; ++x) out[start + x] = to_byte(sums[x], taps.bits);
  }
}

void check_sizes(const Image& image, int width, int height) {
  REPRISE_CHECK(image.width > 0 && image.height > 0 && image.channels == 3 &&
                image.pixels.size() == static_cast<size_t>(image.width) * image.height * 3);
  if (width < 1 || height < 1 || width > kMaxResizeSide || height > kMaxResizeSide)
    fail("resizing a picture to {} x {}: expected sides of 1 to {}", width, height, kMaxResizeSide);
}

// The axis to resize first, where both change.
enum class First { Horizontal, Vertical };

// Pillow 13 resizes vertically first when the height shrinks by more than twice of what the width
// does (earlier versions never did), and rounds to bytes between the passes.
First pillow_order(const Image& image, int width, int height) {
  const int less_height = image.height - height;
  return less_height > std::max(0, 2 * (image.width - width)) ? First::Vertical : First::Horizontal;
}

// A pass over an axis that keeps its length is left out, as both libraries do.
Image resize(const Image& image, int width, int height, First first,
             const std::function<Taps(int in, int out)>& make_taps) {
  const bool across_changes = width != image.width, down_changes = height != image.height;
  if (!across_changes && !down_changes) return image;
  Image out(width, height);
  Taps across, down;
  if (across_changes) across = make_taps(image.width, width);
  if (down_changes) down = make_taps(image.height, height);
  const auto source_row = [&](int i) { return image.row(i); };
  const size_t source_bytes = static_cast<size_t>(image.width) * 3;  // of a row
  const size_t out_bytes = static_cast<size_t>(width) * 3;

  if (!down_changes) {
    for (int y = 0; y < height; ++y) horizontal(across, image.row(y), out.row(y));
  } else if (!across_changes) {
    for (int y = 0; y < height; ++y) vertical(down, y, source_row, out_bytes, out.row(y));
  } else if (first == First::Vertical) {
    std::vector<uint8_t> row(source_bytes);
    for (int y = 0; y < height; ++y) {
      vertical(down, y, source_row, source_bytes, row.data());
      horizontal(across, row.data(), out.row(y));
    }
  } else {
    // Windows only move down, so a ring of the largest window holds all that is needed at a time.
    std::vector<uint8_t> ring(out_bytes * down.most);
    const auto ring_row = [&](int i) { return ring.data() + out_bytes * (i % down.most); };
    int ready = 0;  // input rows resized so far
    for (int y = 0; y < height; ++y) {
      const int end = down.first[y] + down.count[y];
      for (ready = std::max(ready, down.first[y]); ready < end; ++ready)
        horizontal(across, image.row(ready), ring_row(ready));
      vertical(down, y, ring_row, out_bytes, out.row(y));
    }
  }
  return out;
}

}  // namespace

Image resize_pillow(const Image& image, int width, int height, Filter filter) {
  check_sizes(image, width, height);
  return resize(image, width, height, pillow_order(image, width, height),
                [filter](int in, int out) { return pillow_taps(in, out, filter); });
}

Image resize_torch_u8(const Image& image, int width, int height) {
  check_sizes(image, width, height);
  return resize(image, width, height, First::Horizontal, torch_taps);
}

}  // namespace reprise
