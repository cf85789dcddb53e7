// The short form of plans that people write: "0-23,10-14" and "0-9,10-14*3,15-29".
#include <fmt/format.h>

#include <charconv>

#include "base/error.h"
#include "model/plan/plan.h"

namespace reprise {
namespace {

constexpr int kMostVisits = 10000;  // far above any sensible depth; bounds memory for "0-9*1000000"

struct Piece {
  int first = 0, last = 0, times = 1;
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
    if (!rest.empty()) bad(piece, fmt::format("'{}' was not understood", rest));
    return out;
  }

 private:
  [[noreturn]] void bad(std::string_view piece, const std::string& what) const {
    fail("{}: '{}' in '{}': {}; expected ranges of blocks such as 0-23,10-14 or 0-9,10-14*3,15-29",
         where_, piece, text_, what);
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
    const int step = piece.last >= piece.first ? 1 : -1;
    if (piece.times > 1) plan.registers = 1;
    for (int time = 0; time < piece.times; ++time) {
      if (piece.times > 1) plan.steps.push_back({Save{0}, ""});
      for (int block = piece.first;; block += step) {
        if (plan.visits() >= kMostVisits)
          fail("{}: '{}' has more than {} visits", where, text, kMostVisits);
        plan.visit(block, plan.add_kv_row(), -1, fmt::format("layer.{}.out", plan.visits()));
        if (block == piece.last) break;
      }
      if (piece.times > 1)
        plan.steps.push_back({Combine{0, 1.0f / static_cast<float>(piece.times)}, ""});
    }
    start = comma + 1;
  }
  return plan;
}

std::string plan_summary(const Plan& plan) {
  // Candidate text from the visits and damped groups; it is the plan's only if it parses back to
  // it.
  std::string text;
  std::vector<int> run;
  std::string last_group;
  const auto add = [&](const std::string& piece) { text += (text.empty() ? "" : ",") + piece; };
  const auto flush = [&](const std::string& suffix) {
    for (size_t i = 0; i < run.size();) {
      size_t j = i;
      int direction = 0;
      while (j + 1 < run.size()) {
        const int delta = run[j + 1] - run[j];
        if ((delta != 1 && delta != -1) || (direction != 0 && delta != direction)) break;
        direction = delta;
        ++j;
      }
      add(range(run[i], run[j]) + suffix);
      i = j + 1;
    }
    run.clear();
  };
  int repeats_left = 0;
  int blocks = 0;
  for (const Step& step : plan.steps) {
    if (const auto* visit = std::get_if<Visit>(&step.op)) {
      run.push_back(visit->block);
      blocks = std::max(blocks, visit->block + 1);
    } else if (std::holds_alternative<Save>(step.op)) {
      if (repeats_left == 0) flush("");
    } else if (const auto* combine = std::get_if<Combine>(&step.op)) {
      const int times = combine->alpha > 0 ? static_cast<int>(1.0f / combine->alpha + 0.5f) : 0;
      if (repeats_left == 0) {
        flush("*" + std::to_string(times));
        repeats_left = times;
      }
      run.clear();
      --repeats_left;
    } else {
      return "(scheme's own)";
    }
  }
  flush("");
  try {
    if (!text.empty() && parse_plan(text, blocks, "plan") == plan) return text;
  } catch (const Error&) {
  }
  return "(scheme's own)";
}

}  // namespace reprise
