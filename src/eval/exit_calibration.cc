#include "eval/exit_calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "engine/early_exits.h"

namespace reprise {

namespace {

constexpr int64_t kStateRows = 512;     // positions of one forward call
constexpr int64_t kLogitRows = 64;      // positions whose logits are held at a time
constexpr int64_t kWindowsAtOnce = 16;  // decoded in one call
constexpr int kMostTries = 8;           // of thresholds, a decoded text each

int32_t best(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// A threshold that scores are compared with: larger is stricter, for rules of every kind.
double sign_of(ExitKind kind) { return kind == ExitKind::Entropy ? -1 : 1; }

// The threshold in (looser, strictest] with the fewest digits behind the point, signs as above.
double short_threshold(ExitKind kind, double strictest, double looser) {
  constexpr int kMostDigits = 15;
  double scale = 10;
  for (int digits = 1; digits <= kMostDigits; ++digits, scale *= 10) {
    const double t = std::floor(strictest * scale) / scale;
    if (t <= strictest && t > looser && exit_threshold_problem(kind, sign_of(kind) * t).empty())
      return sign_of(kind) * t;
  }
  return sign_of(kind) * strictest;
}

// Adds the positions of one forward call.
void add_samples(const Model& model, const ExitRule& rule, const std::vector<Tensor>& ends,
                 ExitSamples& samples) {
  Backend& be = model.backend();
  const int64_t rows = ends.back().dim(0);
  const auto exits = static_cast<size_t>(samples.loops - 1);
  const auto logits_of = [&](const Tensor& state) {
    return be.to_host(model.logits(model.final_norm(state)));
  };
  for (int64_t begin = 0; begin < rows; begin += kLogitRows) {
    const int64_t end = std::min(rows, begin + kLogitRows);
    const auto n = static_cast<size_t>(end - begin);
    const auto part = [&](size_t loop) { return be.slice(ends[loop], 0, begin, end); };
    const std::vector<float> full = logits_of(part(exits));
    const size_t vocab = full.size() / n, first = samples.scores.size();
    samples.scores.resize(first + n * exits);
    samples.agrees.resize(first + n * exits);
    const size_t first_position = samples.full.size();
    for (size_t r = 0; r < n; ++r)
      samples.full.push_back(best(std::span(full).subspan(r * vocab, vocab)));
    std::vector<ExitMemory> memory(n);
    std::vector<ExitMemory*> of_row;
    for (ExitMemory& one : memory) of_row.push_back(&one);
    for (size_t loop = 0; loop < exits; ++loop) {
      const Tensor state = part(loop);
      const std::vector<float> logits = logits_of(state);
      const std::vector<double> scores = rule.scores(
          static_cast<int>(loop), state,
          rule.reads_logits() ? std::span<const float>(logits) : std::span<const float>(), of_row);
      for (size_t r = 0; r < n; ++r) {
        samples.scores[first + r * exits + loop] = scores[r];
        samples.agrees[first + r * exits + loop] =
            best(std::span(logits).subspan(r * vocab, vocab)) == samples.full[first_position + r];
      }
    }
  }
}

}  // namespace

ExitSamples sample_exits(Model& model, const Plan& plan, ExitKind kind,
                         std::span<const int32_t> tokens, int64_t ctx, std::optional<int32_t> bos,
                         const std::function<void(int64_t done, int64_t windows)>& progress) {
  const ExitRule rule(model, plan, {kind, 1});
  if (rule.loops() < 2)
    fail("{}: the plan has one loop, so no token can leave before the last one",
         model.config().where);
  if (!std::holds_alternative<LoopEnd>(plan.steps.back().op))
    fail(
        "{}: the model has layers behind its loops, whose keys and values depend on where tokens "
        "left; expected one that ends with its last loop",
        model.config().where);
  const int64_t windows = std::ssize(tokens) / ctx;
  if (windows == 0)
    fail("exit calibration: the text has {} tokens, less than one window of {}", tokens.size(),
         ctx);
  ExitSamples samples;
  samples.kind = kind;
  samples.loops = rule.loops();
  for (int64_t w = 0; w < windows; ++w) {
    const auto part = tokens.subspan(static_cast<size_t>(w * ctx), static_cast<size_t>(ctx));
    std::vector<int32_t> window(part.begin(), part.end());
    if (bos) window[0] = *bos;
    Sequence sequence;
    for (int64_t begin = 0; begin < ctx; begin += kStateRows) {
      const int64_t end = std::min(ctx, begin + kStateRows);
      Rows rows;
      rows.append(sequence, end - begin, ctx);
      const auto ids = std::span<const int32_t>(window).subspan(static_cast<size_t>(begin),
                                                                static_cast<size_t>(end - begin));
      const Model::Results results =
          model.run(plan, rows, model.embed(ids), nullptr, /*exits=*/true);
      add_samples(model, rule, results.exits, samples);
    }
    if (progress) progress(w + 1, windows);
  }
  return samples;
}

ExitFigures judge_threshold(const ExitSamples& samples, double threshold) {
  const auto exits = static_cast<size_t>(samples.loops - 1);
  const double sign = sign_of(samples.kind);
  ExitFigures figures;
  figures.threshold = threshold;
  figures.positions = samples.positions();
  int64_t depth = 0;
  for (int64_t p = 0; p < figures.positions; ++p) {
    const size_t first = static_cast<size_t>(p) * exits;
    size_t loop = 0;
    while (loop < exits && !(sign * samples.scores[first + loop] >= sign * threshold)) ++loop;
    figures.agreeing += loop == exits || samples.agrees[first + loop] != 0;
    depth += static_cast<int64_t>(loop) + 1;
  }
  if (figures.positions > 0)
    figures.mean_depth = static_cast<double>(depth) / static_cast<double>(figures.positions);
  return figures;
}

std::optional<ExitFigures> choose_threshold(const ExitSamples& samples, double agreement) {
  const auto exits = static_cast<size_t>(samples.loops - 1);
  const auto positions = static_cast<size_t>(samples.positions());
  const double sign = sign_of(samples.kind);
  std::vector<double> strictness;
  for (const double score : samples.scores) strictness.push_back(sign * score);
  std::vector<size_t> order;  // of scores, the strictest threshold that lets them leave first
  for (size_t i = 0; i < strictness.size(); ++i)
    if (!std::isnan(strictness[i])) order.push_back(i);
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return strictness[a] > strictness[b]; });

  std::vector<size_t> left_at(positions, exits);
  const auto agrees = [&](size_t position) {
    return left_at[position] == exits || samples.agrees[position * exits + left_at[position]] != 0;
  };
  auto agreeing = static_cast<int64_t>(positions);
  size_t depth = positions * exits, least = depth;
  const double needed = agreement * static_cast<double>(positions);
  std::optional<double> found;
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t position = order[i] / exits, loop = order[i] % exits;
    if (loop < left_at[position]) {
      agreeing -= agrees(position);
      depth -= left_at[position] - loop;
      left_at[position] = loop;
      agreeing += agrees(position);
    }
    const double here = strictness[order[i]];
    const double next =
        i + 1 < order.size() ? strictness[order[i + 1]] : -std::numeric_limits<double>::infinity();
    if (here == next || depth >= least || static_cast<double>(agreeing) < needed) continue;
    // A score that no threshold can ask for lets nobody leave.
    if (!exit_threshold_problem(samples.kind, sign * here).empty()) continue;
    least = depth;
    found = short_threshold(samples.kind, here, next);
  }
  if (!found) return std::nullopt;
  return judge_threshold(samples, *found);
}

ExitFigures decode_by_rule(Model& model, const Plan& plan, const ExitConfig& exit,
                           const ExitText& text, std::span<const int32_t> full,
                           const std::function<void(int64_t done, int64_t positions)>& progress) {
  const int64_t windows = std::ssize(text.tokens) / text.ctx;
  REPRISE_CHECK(std::ssize(full) == windows * text.ctx, "tokens of another text");
  ExitFigures figures;
  figures.threshold = exit.threshold;
  figures.positions = windows * text.ctx;
  int64_t depth = 0;
  for (int64_t first = 0; first < windows; first += kWindowsAtOnce) {
    const int64_t count = std::min(windows - first, kWindowsAtOnce);
    EarlyExits exits(model, plan, exit);
    std::vector<Sequence> sequences(static_cast<size_t>(count));
    std::vector<int32_t> ids(static_cast<size_t>(count));
    for (int64_t i = 0; i < text.ctx; ++i) {
      Rows rows;
      for (int64_t w = 0; w < count; ++w) {
        const auto at = static_cast<size_t>((first + w) * text.ctx + i);
        ids[static_cast<size_t>(w)] = i == 0 && text.bos ? *text.bos : text.tokens[at];
        rows.append(sequences[static_cast<size_t>(w)], 1, text.ctx);
      }
      const std::vector<LoopExit> left = exits.run(std::move(rows), model.embed(ids));
      for (int64_t w = 0; w < count; ++w) {
        const LoopExit& one = left[static_cast<size_t>(w)];
        depth += one.loop + 1;
        figures.agreeing +=
            best(one.logits) == full[static_cast<size_t>((first + w) * text.ctx + i)];
      }
      if (progress) progress(first * text.ctx + (i + 1) * count, figures.positions);
    }
    exits.finish();
  }
  if (figures.positions > 0)
    figures.mean_depth = static_cast<double>(depth) / static_cast<double>(figures.positions);
  return figures;
}

std::optional<ExitFigures> choose_threshold_for(
    Model& model, const Plan& plan, ExitKv kv, const ExitText& text, const ExitSamples& samples,
    double agreement, const std::function<void(int64_t done, int64_t positions)>& progress) {
  double asked = agreement;
  for (int tries = 0; tries < kMostTries && asked <= 1; ++tries) {
    const auto found = choose_threshold(samples, asked);
    if (!found || kv == ExitKv::Exact) return found;
    const ExitFigures run = decode_by_rule(model, plan, {samples.kind, found->threshold, kv}, text,
                                           samples.full, progress);
    if (run.agreement() >= agreement) return run;
    // What the policy costs is about the same at the next threshold; a little more, to get on.
    asked = std::max(asked, found->agreement()) + (agreement - run.agreement()) +
            1 / static_cast<double>(run.positions);
  }
  return std::nullopt;
}

}  // namespace reprise
