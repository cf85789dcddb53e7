// What a rule to leave loops early would have done on a text, for any threshold at once: at every
// position each loop end's score, and whether its most likely next token is that of the full depth.
// The text is given (teacher forcing), and all positions have the keys and values of the full depth:
// what tokens that left have under the policy `exact`. For the other policies the text is run once
// more, token by token, by the rule itself.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "engine/exit_rule.h"
#include "engine/session.h"

namespace reprise {

struct ExitSamples {
  ExitKind kind = ExitKind::Confidence;
  int loops = 0;
  // [positions, loops - 1]: the last loop ends every token.
  std::vector<double> scores;   // NaN: none
  std::vector<uint8_t> agrees;  // 1: the loop's token is the full depth's
  std::vector<int32_t> full;    // [positions], the full depth's most likely next token
  int64_t positions() const {
    return loops < 2 ? 0 : static_cast<int64_t>(scores.size()) / (loops - 1);
  }
};

// How a threshold does.
struct ExitFigures {
  double threshold = 0;
  int64_t positions = 0;
  int64_t agreeing = 0;   // positions whose token is the full depth's
  double mean_depth = 0;  // loops run, from 1
  double agreement() const {
    return positions > 0 ? static_cast<double>(agreeing) / static_cast<double>(positions) : 0;
  }
};

// Runs the tokens in windows of `ctx` that don't overlap (a rest is left out), each by itself; bos
// replaces the first token of each. progress: windows done. Throws Error where the plan has fewer
// than two loops or layers behind them (a token that leaves has other keys and values there, so one
// pass can't tell), the rule doesn't fit the model (Model::check_exit), or the tokens fill no window.
ExitSamples sample_exits(Model& model, const Plan& plan, ExitKind kind,
                         std::span<const int32_t> tokens, int64_t ctx, std::optional<int32_t> bos,
                         const std::function<void(int64_t done, int64_t windows)>& progress = {});

ExitFigures judge_threshold(const ExitSamples& samples, double threshold);

// The threshold with the smallest mean depth among those that keep at least this share of tokens;
// written with as few digits as tell it from the next one. nullopt: none that lets a token leave
// early keeps so many.
std::optional<ExitFigures> choose_threshold(const ExitSamples& samples, double agreement);

// A text and how it is cut: windows of `ctx` tokens, as for sample_exits.
struct ExitText {
  std::span<const int32_t> tokens;
  int64_t ctx = 0;
  std::optional<int32_t> bos;
};

// The same windows decoded by the rule, each position with the keys and values that exit.kv leaves it;
// `full` are the tokens to agree with (of sample_exits on the same text). progress: positions done.
ExitFigures decode_by_rule(
    Model& model, const Plan& plan, const ExitConfig& exit, const ExitText& text,
    std::span<const int32_t> full,
    const std::function<void(int64_t done, int64_t positions)>& progress = {});

// As choose_threshold, but the share is kept as decode_by_rule measures it under `kv`: stricter
// thresholds are tried until one does. `samples` are of the same text.
std::optional<ExitFigures> choose_threshold_for(
    Model& model, const Plan& plan, ExitKv kv, const ExitText& text, const ExitSamples& samples,
    double agreement, const std::function<void(int64_t done, int64_t positions)>& progress = {});

}  // namespace reprise
