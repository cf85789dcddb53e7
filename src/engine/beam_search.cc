#include "engine/beam_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "engine/sampler.h"

namespace reprise {

namespace {

constexpr float kNever = -1e9f;  // added to the score of what must not be chosen to run on
// A place without a hypothesis, and what must not take one; below any score (transformers has -1e9
// here too, which a large negative length penalty goes below).
constexpr float kNoHypothesis = -1e30f;
constexpr float kLowestScore = -1e29f;

// row <- log softmax(row), [vocab].
void log_softmax(std::span<float> row) {
  const float top = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float value : row) sum += std::exp(value - top);
  const float log_sum = static_cast<float>(std::log(sum));
  for (float& value : row) value = value - top - log_sum;
}

}  // namespace

EarlyStop parse_early_stop(std::string_view text) {
  if (text == "no") return EarlyStop::No;
  if (text == "yes") return EarlyStop::Yes;
  if (text == "never") return EarlyStop::Never;
  fail("beam early stop: expected no, yes or never, found '{}'", text);
}

void BeamOptions::check() const {
  if (beams < 1) fail("beams: expected 1 or more, found {}", beams);
  if (returned < 1 || returned > beams) {
    fail("returned beams: expected 1 to the number of beams, {}, found {}", beams, returned);
  }
  if (!std::isfinite(length_penalty)) {
    fail("length penalty: expected a finite number, found {}", length_penalty);
  }
}

std::vector<int64_t> top_k(std::span<const float> values, int64_t k) {
  using Entry = std::pair<float, int64_t>;
  REPRISE_CHECK(k >= 1 && k <= static_cast<int64_t>(values.size()));
  std::vector<Entry> entries(values.size());
  for (size_t i = 0; i < values.size(); ++i) entries[i] = {values[i], static_cast<int64_t>(i)};
  const auto larger = [](const Entry& a, const Entry& b) { return a.first > b.first; };
  if (k * 64 <= static_cast<int64_t>(values.size())) {
    std::partial_sort(entries.begin(), entries.begin() + k, entries.end(), larger);
  } else {
    std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), larger);
    std::sort(entries.begin(), entries.begin() + (k - 1), larger);
  }
  std::vector<int64_t> best(static_cast<size_t>(k));
  for (size_t i = 0; i < best.size(); ++i) best[i] = entries[i].second;
  return best;
}

BeamSearch::BeamSearch(const BeamOptions& options, Answer answer) : options_(options) {
  options_.check();
  REPRISE_CHECK(answer.tokens().empty());
  if (options_.early_stop == EarlyStop::Never && options_.length_penalty > 0 &&
      answer.rules().most_tokens() == 0) {
    fail("beam early stop 'never' with a length penalty above 0 needs a limit of tokens");
  }
  const auto n = static_cast<size_t>(options_.beams);
  running_.assign(n, Beam{answer});
  for (size_t i = 1; i < n; ++i) running_[i].score = kNever;  // all begin as the same beam
  finished_.assign(n, Beam{std::move(answer), kNoHypothesis});
}

void BeamSearch::accumulate(std::span<const float> logits, int64_t vocab, int64_t allowed) {
  const auto width = static_cast<size_t>(vocab);
  const auto of_beam = [&](size_t beam) { return std::span(scores_).subspan(beam * width, width); };
  scores_.resize(running_.size() * width);
  for (size_t beam = 0; beam < running_.size(); ++beam) {
    const std::span<float> out = of_beam(beam);
    if (logits.size() == width && beam > 0) {  // the first step: one row for all
      std::copy_n(scores_.begin(), width, out.begin());
      continue;
    }
    const std::span<const float> row = logits.subspan(beam * width, width);
    argmax(row, fmt::format("generation step {}", length_));  // for its checks
    std::copy(row.begin(), row.end(), out.begin());
    if (options_.beams == 1) running_[beam].answer.process(out);  // greedy: logits, as in push
    log_softmax(out);
  }
  for (size_t beam = 0; beam < running_.size(); ++beam) {
    const std::span<float> out = of_beam(beam);
    if (options_.beams > 1) running_[beam].answer.process(out);
    for (float& score : out) score += running_[beam].score;
    std::fill(out.begin() + allowed, out.end(), -INFINITY);
  }
}

float BeamSearch::normalised(float score, int64_t length) const {
  const double divisor = std::pow(static_cast<double>(length), double{options_.length_penalty});
  return std::max(kLowestScore, score / static_cast<float>(divisor));  // NaN: the lowest
}

// Whether the best running beam may still beat the worst hypothesis.
bool BeamSearch::may_improve() const {
  const bool longest = options_.early_stop == EarlyStop::Never && options_.length_penalty > 0;
  const float best =
      normalised(running_[0].score, longest ? running_[0].answer.rules().most_tokens() : length_);
  float worst = finished_[0].score;
  for (const Beam& beam : finished_)
    worst = std::min(worst, beam.ended ? beam.score : kNoHypothesis);
  return best > worst;
}

void BeamSearch::step(std::span<const float> logits, int64_t vocab) {
  const AnswerRules& rules = running_[0].answer.rules();
  const int64_t allowed = rules.vocab > 0 ? rules.vocab : vocab;
  REPRISE_CHECK(!done_ && allowed <= vocab);
  REPRISE_CHECK(logits.size() == (length_ == 0 ? 1 : running_.size()) * static_cast<size_t>(vocab));
  const auto n = static_cast<int64_t>(options_.beams);
  const int64_t kept = std::max<int64_t>(2, 1 + std::ssize(rules.ends)) * n;
  if (n > 1 && kept > n * allowed) {
    fail("{} beams with {} end tokens: a vocabulary of {} is too small", n, rules.ends.size(),
         allowed);
  }
  accumulate(logits, vocab, allowed);
  ++length_;

  std::vector<int64_t> best;
  if (n == 1) {  // greedy: equal scores go to the lowest id, as everywhere
    best = {std::max_element(scores_.begin(), scores_.end()) - scores_.begin()};
  } else {
    best = top_k(scores_, kept);
  }
  std::vector<Beam> candidates;
  std::vector<int> parents;
  std::vector<float> to_run, to_keep;  // scores by which those that go on, or stay, are chosen
  for (const Beam& beam : finished_) to_keep.push_back(beam.score);
  for (const int64_t i : best) {
    const auto parent = static_cast<size_t>(i / vocab);
    const auto token = static_cast<int32_t>(i % vocab);
    Beam beam{running_[parent].answer, scores_[static_cast<size_t>(i)]};
    beam.ended = beam.answer.append(token).end.has_value();
    to_run.push_back(beam.score + (beam.ended ? kNever : 0.0f));
    const bool counts = beam.ended && std::ssize(candidates) < n;
    to_keep.push_back(counts ? normalised(beam.score, length_) : kNoHypothesis);
    parents.push_back(length_ == 1 ? 0 : static_cast<int>(parent));  // all begin as the same
    candidates.push_back(std::move(beam));
  }

  running_.clear();
  next_.clear();
  for (const int64_t i : top_k(to_run, n)) {
    const auto at = static_cast<size_t>(i);
    running_.push_back(candidates[at]);
    running_.back().score = to_run[at];
    next_.push_back({parents[at], candidates[at].answer.tokens().back()});
  }
  std::vector<Beam> merged = finished_;
  merged.insert(merged.end(), candidates.begin(), candidates.end());
  finished_.clear();
  for (const int64_t i : top_k(to_keep, n)) {
    const auto at = static_cast<size_t>(i);
    // Those beyond the best N don't count even where they ended.
    const bool counts = merged[at].ended && i < 2 * n;
    finished_.push_back({merged[at].answer, to_keep[at], counts});
  }

  const auto ended = [](const Beam& beam) { return beam.ended; };
  const bool full = std::all_of(finished_.begin(), finished_.end(), ended);
  const bool all_end = std::all_of(candidates.begin(), candidates.end(), ended);
  done_ = all_end || !may_improve() || (full && options_.early_stop == EarlyStop::Yes);
}

std::vector<BeamSearch::Hypothesis> BeamSearch::results() const {
  std::vector<Hypothesis> list;
  for (const Beam& beam : finished_) {
    if (!beam.ended) continue;
    list.push_back({beam.answer.tokens(), beam.answer.text(), beam.score, beam.answer.end()});
  }
  if (!done_ && length_ > 0) {
    for (const Beam& beam : running_) {
      if (beam.ended) continue;
      Answer answer = beam.answer;
      answer.finish(StopReason::Cancelled);
      list.push_back({answer.tokens(), answer.text(), normalised(beam.score, length_), {}});
    }
    std::stable_sort(list.begin(), list.end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  }
  list.resize(std::min(list.size(), static_cast<size_t>(options_.returned)));
  return list;
}

int64_t run_search(Branches& branches, BeamSearch& search, std::span<const float> logits,
                   const std::function<bool()>& cancelled) {
  const auto vocab = static_cast<int64_t>(logits.size());
  search.step(logits, vocab);
  int64_t calls = 0;
  std::vector<int> parents;
  std::vector<int32_t> tokens;
  for (; !search.done() && !(cancelled && cancelled()); ++calls) {
    parents.clear();
    tokens.clear();
    for (const BeamSearch::Next& next : search.next()) {
      parents.push_back(next.parent);
      tokens.push_back(next.token);
    }
    search.step(branches.step(parents, tokens), vocab);
  }
  return calls;
}

}  // namespace reprise
