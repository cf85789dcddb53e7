#include "base/quant/search.h"

#include <algorithm>
#include <cmath>

#include "base/half.h"
#include "base/quant/block32.h"

namespace reprise::quant_search {
namespace {

constexpr int kValues = QuantBlock::kMostValues;
constexpr int kLanes = 8;   // sums side by side, which compilers turn into vectors
constexpr int kRounds = 2;  // of fitting the block's numbers and the codes in turn

float nearest(float x) {  // |x| < 2^22
  constexpr float kMagic = 0x1.8p23f;
  return (x + kMagic) - kMagic;
}
float clamped(float x, float low, float high) { return std::min(std::max(x, low), high); }
float inverse(float x) { return block32::inverse(x); }
float as_stored(float x) { return f16_to_float(block32::half_scale(x)); }
// The same, away from 0 where F16 has few bits left: codes that would be too large are cut.
float as_stored_up(float x) {
  const uint16_t half = block32::half_scale(x);
  const float value = f16_to_float(half);
  return std::fabs(value) < std::fabs(x) && std::fabs(x) < 0x1p-14f
             ? f16_to_float(static_cast<uint16_t>(half + 1))
             : value;
}
// `better`, if F16 can tell it from `now`.
float refined(float now, double better) {
  const float stored = as_stored(static_cast<float>(better));
  return std::fabs(stored - better) < 0.004 * std::fabs(better) ? stored : now;
}

struct Sum {
  float lanes[kLanes] = {};
  float total() const {
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    return sum;
  }
};

// A part: values, and how much the square of an error at each counts.
struct Part {
  const float* x;
  const float* weight;
  int count;

  // Calls take(value, weight, lane) for all values.
  template <class Take>
  void visit(const Take& take) const {
    for (int i = 0; i < count; i += kLanes)
      for (int j = 0; j < kLanes; ++j) take(x[i + j], weight[i + j], j);
  }
};

struct Fit {
  float scale = 0, minimum = 0;
  float error = INFINITY;
};

// The squared error of x as scale q - minimum with the best q of low .. high.
float error_of(const Part& part, float scale, float minimum, float low, float high) {
  const float factor = inverse(scale);
  Sum sum;
  part.visit([&](float x, float w, int lane) {
    const float q = clamped(nearest((x + minimum) * factor), low, high);
    const float difference = scale * q - minimum - x;
    sum.lanes[lane] += w * difference * difference;
  });
  return sum.total();
}

// The scale and minimum of least error for the quants that `from` gives, q in 0 .. most.
Fit refit_with_minimum(const Part& part, Fit from, float most) {
  const float factor = inverse(from.scale);
  Sum w_sum, wq, wqq, wx, wqx;
  part.visit([&](float x, float w, int lane) {
    const float q = clamped(nearest((x + from.minimum) * factor), 0, most);
    w_sum.lanes[lane] += w;
    wq.lanes[lane] += w * q;
    wqq.lanes[lane] += w * q * q;
    wx.lanes[lane] += w * x;
    wqx.lanes[lane] += w * q * x;
  });
  const float n = w_sum.total(), q1 = wq.total(), q2 = wqq.total(), x1 = wx.total(),
              qx = wqx.total();
  const float determinant = n * q2 - q1 * q1;
  if (!(determinant > 0)) return from;
  Fit to;
  to.scale = (n * qx - q1 * x1) / determinant;
  to.minimum = -(q2 * x1 - q1 * qx) / determinant;
  if (to.minimum < 0) {  // codes have no sign
    to.minimum = 0;
    to.scale = q2 > 0 ? qx / q2 : 0;
  }
  if (!(to.scale > 0)) return from;
  return to;
}

Fit fit_with_minimum(const Part& part, float most) {
  const auto [low, high] = std::minmax_element(part.x, part.x + part.count);
  Fit best;
  best.minimum = std::max(0.0f, -*low);
  const float range = *high + best.minimum;
  if (!(range > 0)) return best;
  best.scale = range / most;
  best.error = error_of(part, best.scale, best.minimum, 0, most);
  const Fit first = best;
  for (int step = -10; step <= 8; ++step) {  // a little wider and narrower than the range
    Fit fit = first;
    fit.scale = range / (most + 0.1f * static_cast<float>(step));
    fit = refit_with_minimum(part, fit, most);
    fit.error = error_of(part, fit.scale, fit.minimum, 0, most);
    if (fit.error < best.error) best = fit;
  }
  Fit last = refit_with_minimum(part, best, most);
  last.error = error_of(part, last.scale, last.minimum, 0, most);
  return last.error < best.error ? last : best;
}

// q in -half .. half - 1.
float refit_symmetric(const Part& part, float scale, float half) {
  const float factor = inverse(scale);
  Sum qq, qx;
  part.visit([&](float x, float w, int lane) {
    const float q = clamped(nearest(x * factor), -half, half - 1);
    qq.lanes[lane] += w * q * q;
    qx.lanes[lane] += w * q * x;
  });
  const float squares = qq.total();
  return squares > 0 ? qx.total() / squares : scale;
}

float fit_symmetric(const Part& part, float half) {
  float extreme = 0;
  for (int i = 0; i < part.count; ++i)
    if (std::fabs(part.x[i]) > std::fabs(extreme)) extreme = part.x[i];
  if (extreme == 0) return 0;
  float best = -extreme / half, least = INFINITY;
  const auto consider = [&](float scale) {
    const float error = error_of(part, scale, 0, -half, half - 1);
    if (error < least) best = scale, least = error;
  };
  for (int step = -9; step <= 9; ++step) {
    const float levels = half + 0.1f * static_cast<float>(step);
    if (levels <= 1) continue;
    consider(refit_symmetric(part, -extreme / levels, half));
    // With the extreme at the other end, one level less.
    if (half <= 4) consider(refit_symmetric(part, extreme / (levels - 1), half));
  }
  consider(refit_symmetric(part, best, half));
  return best;
}

// Larger values matter more: weights by the size of the value and that of all.
void set_weights(const float* x, float* weight) {
  double squares = 0;
  for (int i = 0; i < kValues; ++i) squares += static_cast<double>(x[i]) * x[i];
  const auto usual = static_cast<float>(std::sqrt(squares / kValues));
  for (int i = 0; i < kValues; ++i) weight[i] = usual > 0 ? 1 + std::fabs(x[i]) / usual : 1;
}

}  // namespace

void with_minimum(const QuantLayout& layout, int most_code, const float* x, QuantBlock& to) {
  block32::check_finite(x, kValues);
  const int parts = kValues / layout.part;
  const auto most = static_cast<float>((1 << layout.bits) - 1),
             codes = static_cast<float>(most_code);
  float weight[kValues];
  set_weights(x, weight);
  const auto part = [&](int p) {
    return Part{x + p * layout.part, weight + p * layout.part, layout.part};
  };

  Fit fits[kValues / 16];
  float largest = 0, lowest = 0;
  for (int p = 0; p < parts; ++p) {
    fits[p] = fit_with_minimum(part(p), most);
    largest = std::max(largest, fits[p].scale);
    lowest = std::max(lowest, fits[p].minimum);
  }
  float d = as_stored_up(largest / codes), e = as_stored_up(lowest / codes);
  float scale[kValues / 16], minimum[kValues / 16];  // codes
  for (int p = 0; p < parts; ++p) {
    scale[p] = clamped(nearest(fits[p].scale * inverse(d)), 0, codes);
    minimum[p] = clamped(nearest(fits[p].minimum * inverse(e)), 0, codes);
  }
  for (int round = 0; round < kRounds; ++round) {
    // The best codes for d and e.
    for (int p = 0; p < parts; ++p) {
      const float s = scale[p], m = minimum[p];
      float least = INFINITY;
      for (float a = std::max(0.0f, s - 1); a <= std::min(codes, s + 1); ++a) {
        for (float b = std::max(0.0f, m - 1); b <= std::min(codes, m + 1); ++b) {
          const float error = error_of(part(p), d * a, e * b, 0, most);
          if (error < least) scale[p] = a, minimum[p] = b, least = error;
        }
      }
    }
    // The best d and e for the codes and quants: x as d (s q) - e m.
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (int p = 0; p < parts; ++p) {
      const float s = d * scale[p], m = e * minimum[p];
      Sum w_sum, wq, wqq, wx, wqx;
      part(p).visit([&](float value, float w, int lane) {
        const float q = clamped(nearest((value + m) * inverse(s)), 0, most);
        w_sum.lanes[lane] += w;
        wq.lanes[lane] += w * q;
        wqq.lanes[lane] += w * q * q;
        wx.lanes[lane] += w * value;
        wqx.lanes[lane] += w * q * value;
      });
      const double a = scale[p], b = -minimum[p];
      aa += a * a * wqq.total(), ab += a * b * wq.total(), bb += b * b * w_sum.total();
      ax += a * wqx.total(), bx += b * wx.total();
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant > 1e-9 * aa * bb) {
      d = refined(d, (bb * ax - ab * bx) / determinant);
      e = refined(e, (aa * bx - ab * ax) / determinant);
    } else if (aa > 0) {
      d = refined(d, (ax - ab * e) / aa);
    }
  }

  to.numbers[0] = float_to_f16(d);
  to.numbers[1] = float_to_f16(e);
  for (int p = 0; p < parts; ++p) {
    const auto s = static_cast<uint8_t>(scale[p]), m = static_cast<uint8_t>(minimum[p]);
    uint8_t* const code = to.codes + p * code_bytes(layout.code);
    code[0] = layout.code == ScaleCode::Nibbles ? static_cast<uint8_t>(s | m << 4) : s;
    if (layout.code == ScaleCode::Pair) code[1] = m;
    const float factor = inverse(d * scale[p]), shift = e * minimum[p];
    for (int i = p * layout.part; i < (p + 1) * layout.part; ++i)
      to.quants[i] = static_cast<uint8_t>(clamped(nearest((x[i] + shift) * factor), 0, most));
  }
}

void symmetric(const QuantLayout& layout, int half_range, const float* x, QuantBlock& to) {
  block32::check_finite(x, kValues);
  const int parts = kValues / layout.part;
  const auto half = static_cast<float>(layout.zero), codes = static_cast<float>(half_range);
  float weight[kValues];
  set_weights(x, weight);
  const auto part = [&](int p) {
    return Part{x + p * layout.part, weight + p * layout.part, layout.part};
  };

  float scale[kValues / 16], extreme = 0;
  for (int p = 0; p < parts; ++p) {
    scale[p] = fit_symmetric(part(p), half);
    if (std::fabs(scale[p]) > std::fabs(extreme)) extreme = scale[p];
  }
  float d = as_stored_up(-extreme / codes);
  for (int p = 0; p < parts; ++p)
    scale[p] = clamped(nearest(scale[p] * inverse(d)), -codes, codes - 1);
  for (int round = 0; round < kRounds; ++round) {
    double aa = 0, ax = 0;
    for (int p = 0; p < parts; ++p) {
      const float s = scale[p];
      float least = INFINITY;
      for (float a = std::max(-codes, s - 1); a <= std::min(codes - 1, s + 1); ++a) {
        const float error = error_of(part(p), d * a, 0, -half, half - 1);
        if (error < least) scale[p] = a, least = error;
      }
      const float factor = inverse(d * scale[p]);
      Sum qq, qx;
      part(p).visit([&](float value, float w, int lane) {
        const float q = clamped(nearest(value * factor), -half, half - 1);
        qq.lanes[lane] += w * q * q;
        qx.lanes[lane] += w * q * value;
      });
      const double a = scale[p];
      aa += a * a * qq.total();
      ax += a * qx.total();
    }
    if (aa > 0) d = refined(d, ax / aa);
  }

  to.numbers[0] = float_to_f16(d);
  for (int p = 0; p < parts; ++p) {
    to.codes[p] = static_cast<uint8_t>(static_cast<int8_t>(scale[p]));
    const float factor = inverse(d * scale[p]);
    for (int i = p * layout.part; i < (p + 1) * layout.part; ++i)
      to.quants[i] = static_cast<uint8_t>(clamped(nearest(x[i] * factor), -half, half - 1) + half);
  }
}

}  // namespace reprise::quant_search
