#include "train/loop/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/file.h"

namespace reprise {
namespace {

constexpr double kWidth = 800, kHeight = 420;
constexpr double kLeft = 60, kRight = 60, kTop = 30, kBottom = 45;

struct Axes {
  double steps, low, high;  // low, high: log10 of the loss
  double x(double step) const { return kLeft + (kWidth - kLeft - kRight) * step / steps; }
  double y(double loss) const {
    const double at = (std::log10(std::max(loss, 1e-9)) - low) / (high - low);
    return kHeight - kBottom - (kHeight - kTop - kBottom) * std::clamp(at, 0.0, 1.0);
  }
  double y_share(double share) const {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * share;
  }
};

std::string line(const std::vector<std::pair<double, double>>& points, const char* colour,
                 double width, double opacity) {
  std::string path;
  for (const auto& [x, y] : points) path += fmt::format("{:.1f},{:.1f} ", x, y);
  return fmt::format(
      "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" opacity=\"{}\"/>\n",
      path, colour, width, opacity);
}

std::string label(double x, double y, const std::string& text, const char* anchor = "middle",
                  const char* colour = "#333") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\">{}</text>\n",
                     x, y, anchor, colour, text);
}

}  // namespace

void write_plot(const std::filesystem::path& path, const std::vector<StepReport>& reports) {
  if (reports.empty()) return;
  Axes axes{static_cast<double>(std::max<int64_t>(1, reports.back().steps)), 1e9, -1e9};
  for (const StepReport& report : reports) {
    const double value = std::log10(std::max(report.loss, 1e-9));
    axes.low = std::min(axes.low, value);
    axes.high = std::max(axes.high, value);
  }
  axes.low = std::floor(axes.low);
  axes.high = std::max(std::ceil(axes.high), axes.low + 1);

  std::vector<std::pair<double, double>> raw, smooth, validation, exact;
  double mean = reports.front().loss;
  for (const StepReport& report : reports) {
    const double x = axes.x(static_cast<double>(report.step));
    mean += 0.05 * (report.loss - mean);
    raw.push_back({x, axes.y(report.loss)});
    smooth.push_back({x, axes.y(mean)});
    if (report.validation_loss) validation.push_back({x, axes.y(*report.validation_loss)});
    if (report.validation_exact) exact.push_back({x, axes.y_share(*report.validation_exact)});
  }
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"white\"/>\n",
      kWidth, kHeight);
  for (double decade = axes.low; decade <= axes.high; ++decade) {
    const double y = axes.y(std::pow(10.0, decade));
    svg += fmt::format("<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n",
                       kLeft, y, kWidth - kRight, y);
    svg += label(kLeft - 6, y + 4, fmt::format("{:g}", std::pow(10.0, decade)), "end");
  }
  for (int quarter = 0; quarter <= 4; ++quarter) {
    const double step = axes.steps * quarter / 4;
    svg += label(axes.x(step), kHeight - kBottom + 18, fmt::format("{:.0f}", step));
    if (!exact.empty())
      svg += label(kWidth - kRight + 6, axes.y_share(quarter / 4.0) + 4,
                   fmt::format("{}%", 25 * quarter), "start", "#2a7");
  }
  svg += line(raw, "#c33", 1, 0.3) + line(smooth, "#c33", 2, 1);
  if (!validation.empty()) svg += line(validation, "#339", 2, 1);
  if (!exact.empty()) svg += line(exact, "#2a7", 2, 1);
  svg += label(kLeft + 10, kTop - 10, "training loss", "start", "#c33");
  svg += label(kLeft + 110, kTop - 10, "validation loss", "start", "#339");
  svg += label(kLeft + 220, kTop - 10, "validation exact match", "start", "#2a7");
  svg += label(kWidth / 2, kHeight - 8, "step") + "</svg>\n";
  write_file_atomically(path, svg);
}

}  // namespace reprise
