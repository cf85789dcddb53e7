#include "convert/looped/loop_layout.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"

namespace reprise {
namespace {

constexpr struct {
  LoopStart start;
  const char* name;
} kStarts[] = {{LoopStart::Stepwise, "stepwise"}, {LoopStart::Average, "average"},
               {LoopStart::Lower, "lower"},       {LoopStart::Random, "random"},
               {LoopStart::Fitted, "fitted"},     {LoopStart::Untied, "untied"}};

}  // namespace

std::string loop_start_names() {
  std::string names;
  for (const auto& entry : kStarts) names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

std::string loop_start_name(LoopStart start) {
  for (const auto& entry : kStarts)
    if (entry.start == start) return entry.name;
  return "";
}

LoopStart parse_loop_start(const std::string& name, const std::string& option) {
  for (const auto& entry : kStarts)
    if (name == entry.name) return entry.start;
  fail("{}: expected one of {}, found '{}'", option, loop_start_names(), name);
}

LoopLayout make_loop_layout(LoopStart start, int dense_layers, int loops, int first, int last,
                            const std::string& model) {
  if (loops < 2) fail("--loops {}: expected at least 2, a block that is run again", loops);
  const int looped = dense_layers - first - last;
  if (looped < loops)
    fail("{}: has {} layers, of which {} are left to loop; --loops {} needs at least {}", model,
         dense_layers, std::max(0, looped), loops, loops);
  if (looped % loops != 0)
    fail(
        "{}: {} of its {} layers are looped, which --loops {} doesn't divide; --keep-first and "
        "--keep-last keep layers out of the loops (together {}, for instance)",
        model, looped, dense_layers, loops, first + last + looped % loops);
  if (start == LoopStart::Untied && loops != looped)
    fail(
        "--init {}: every layer is a loop of its own, expected --loops {} (of {} layers, {} stay "
        "outside)",
        loop_start_name(start), looped, dense_layers, first + last);
  LoopLayout layout = {.start = start,
                       .dense = dense_layers,
                       .first = first,
                       .last = last,
                       .blocks = looped / loops,
                       .loops = loops};
  for (int k = 0; k < layout.blocks; ++k) {
    std::vector<int> sources;
    switch (start) {
      case LoopStart::Stepwise: {
        // In integers: a floating-point spacing rounds the wrong way for some sizes.
        const int64_t spread = layout.blocks > 1 ? layout.blocks - 1 : 1;
        sources = {first + static_cast<int>(int64_t{k} * (looped - 1) / spread)};
        break;
      }
      case LoopStart::Average:
      case LoopStart::Fitted:
        for (int loop = 0; loop < loops; ++loop) sources.push_back(layout.tied(loop, k));
        break;
      case LoopStart::Lower:
        sources = {first + k};
        break;
      case LoopStart::Random:
      case LoopStart::Untied:
        break;
    }
    layout.sources.push_back(std::move(sources));
  }
  return layout;
}

Json loop_layout_json(const LoopLayout& layout) {
  Json blocks = Json::array();
  for (const std::vector<int>& sources : layout.sources) {
    Json block = Json::array();
    for (const int layer : sources) block.push_back(layer + 1);
    blocks.push_back(std::move(block));
  }
  return {{"L", layout.dense},
          {"K", layout.blocks},
          {"B", layout.loops},
          {"init", loop_start_name(layout.start)},
          {"blocks", std::move(blocks)}};
}

}  // namespace reprise
