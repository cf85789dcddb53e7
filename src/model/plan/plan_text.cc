// The short form of plans that people write: "0-23,10-14", "0-9,10-14*3,15-29" and
// "0-14,10-14@0.1,15-29".
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"
#include "model/plan/plan.h"

namespace reprise {
namespace {

constexpr int kMostVisits = 10000;  // far above any sensible depth; bounds memory for "0-9*1000000"
constexpr float kMostFactor = 10;

struct Piece {
  int first = 0, last = 0, times = 1;
  std::optional<float> factor = {};  // of each update; absent: 1 / times

  float alpha() const { return factor.value_or(1.0f / static_cast<float>(times)); }
};

class PieceReader {
 public:
  PieceReader(std::string_view text, int blocks, const std::string& where)
      : text_(text), blocks_(blocks), where_(where) {}

  Piece read(std::string_view piece) const {
    Piece out;
    std::string_view rest = piece;
    out.first = block(piece, &rest);
    out.last = out.first;
    if (!rest.empty() && rest[0] == '-') {
      rest.remove_prefix(1);
      out.last = block(piece, &rest);
    }
    if (!rest.empty() && rest[0] == '*') {
      rest.remove_prefix(1);
      out.times = number(piece, &rest);
      if (out.times < 1) bad(piece, "expected a count of at least 1 behind '*'");
    }
    if (!rest.empty() && rest[0] == '@') {
      rest.remove_prefix(1);
      out.factor = factor(piece, &rest);
    }
    if (!rest.empty()) bad(piece, fmt::format("'{}' was not understood", rest));
    return out;
  }

 private:
  [[noreturn]] void bad(std::string_view piece, const std::string& what) const {
    fail(
        "{}: '{}' in '{}': {}; expected ranges of blocks such as 0-23,10-14, 0-9,10-14*3,15-29 or "
        "0-14,10-14@0.1,15-29",
        where_, piece, text_, what);
  }
  float factor(std::string_view piece, std::string_view* rest) const {
    float value = 0;
    const auto result = std::from_chars(rest->data(), rest->data() + rest->size(), value);
    if (result.ec != std::errc() || !(value >= 0 && value <= kMostFactor))
      bad(piece, fmt::format("expected a factor from 0 to {} behind '@'", kMostFactor));
    rest->remove_prefix(static_cast<size_t>(result.ptr - rest->data()));
    return value + 0.0f;  // -0 as 0
  }
  int number(std::string_view piece, std::string_view* rest) const {
    int value = 0;
    const auto result = std::from_chars(rest->data(), rest->data() + rest->size(), value);
    if (result.ec != std::errc() || value < 0) bad(piece, "expected a number");
    rest->remove_prefix(static_cast<size_t>(result.ptr - rest->data()));
    return value;
  }
  int block(std::string_view piece, std::string_view* rest) const {
    const int value = number(piece, rest);
    if (value >= blocks_)
      bad(piece,
          fmt::format("the model has no block {}, its blocks are 0 to {}", value, blocks_ - 1));
    return value;
  }

  std::string_view text_;
  int blocks_;
  const std::string& where_;
};

std::string range(int first, int last) {
  return first == last ? std::to_string(first) : fmt::format("{}-{}", first, last);
}

}  // namespace

Plan parse_plan(std::string_view text, int blocks, const std::string& where) {
  const PieceReader reader(text, blocks, where);
  Plan plan;
  size_t start = 0;
  while (start <= text.size()) {
    const size_t comma = std::min(text.find(',', start), text.size());
    const Piece piece = reader.read(text.substr(start, comma - start));
    start = comma + 1;
    const int step = piece.last >= piece.first ? 1 : -1;
    const float alpha = piece.alpha();
    if (alpha == 0) continue;        // nothing would come of these visits
    const bool damped = alpha != 1;  // the whole update is what the visits give, to the bit
    if (damped) plan.registers = 1;
    for (int time = 0; time < piece.times; ++time) {
      if (damped) plan.steps.push_back({Save{0}, ""});
      for (int block = piece.first;; block += step) {
        if (plan.visits() >= kMostVisits)
          fail("{}: '{}' has more than {} visits", where, text, kMostVisits);
        plan.visit(block, plan.add_kv_row(), -1, fmt::format("layer.{}.out", plan.visits()));
        if (block == piece.last) break;
      }
      if (damped) plan.steps.push_back({Combine{0, alpha}, ""});
    }
  }
  if (plan.steps.empty())
    fail("{}: '{}' runs no block: all factors are 0; expected one that is above", where, text);
  return plan;
}

namespace {

// Blocks as ranges: "0-14,10-14".
std::string ranges(const std::vector<int>& blocks) {
  std::string text;
  for (size_t i = 0; i < blocks.size();) {
    size_t j = i;
    int direction = 0;
    while (j + 1 < blocks.size()) {
      const int delta = blocks[j + 1] - blocks[j];
      if ((delta != 1 && delta != -1) || (direction != 0 && delta != direction)) break;
      direction = delta;
      ++j;
    }
    text += (text.empty() ? "" : ",") + range(blocks[i], blocks[j]);
    i = j + 1;
  }
  return text;
}

// Visits between a Save and its Combine, so many times one after the other; alpha 1: visits that
// nothing is around.
struct Group {
  std::vector<int> blocks;
  float alpha = 1;
  int times = 1;

  std::string text() const {
    std::string text = ranges(blocks);
    if (alpha == 1) return text;
    if (times > 1) text += fmt::format("*{}", times);
    if (times == 1 || alpha != Piece{.times = times}.alpha()) text += fmt::format("@{}", alpha);
    return text;
  }
};

std::vector<Group> groups(const Plan& plan) {
  std::vector<Group> all;
  Group now;
  const auto end = [&](float alpha) {
    now.alpha = alpha;
    if (alpha != 1 && !all.empty() && all.back().alpha == alpha && all.back().blocks == now.blocks)
      ++all.back().times;
    else if (!now.blocks.empty())
      all.push_back(now);
    now = Group();
  };
  for (const Step& step : plan.steps) {
    if (const auto* visit = std::get_if<Visit>(&step.op)) now.blocks.push_back(visit->block);
    if (std::holds_alternative<Save>(step.op)) end(1);
    if (const auto* combine = std::get_if<Combine>(&step.op)) end(combine->alpha);
  }
  end(1);
  return all;
}

}  // namespace

std::string plan_summary(const Plan& plan) {
  // What the visits and their groups are called is the plan's text only if it parses back to it.
  std::string text;
  for (const Group& group : groups(plan)) text += (text.empty() ? "" : ",") + group.text();
  int blocks = 0;
  for (const Step& step : plan.steps)
    if (const auto* visit = std::get_if<Visit>(&step.op))
      blocks = std::max(blocks, visit->block + 1);
  try {
    if (!text.empty() && parse_plan(text, blocks, "plan") == plan) return text;
  } catch (const Error&) {
  }
  return "(scheme's own)";
}

}  // namespace reprise
