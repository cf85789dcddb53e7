#include "engine/session.h"

#include <algorithm>
#include <numeric>

#include "engine/logits.h"

namespace reprise {

namespace {

int64_t placeholders(const TokenPrompt& prompt, int64_t begin, int64_t end) {
  if (prompt.is_image.empty()) return 0;
  return std::accumulate(prompt.is_image.begin() + begin, prompt.is_image.begin() + end,
                         int64_t{0});
}

bool same_initial(const Sequence& a, const Sequence& b) {
  const InitialStates drawn;
  return (a.initial ? *a.initial : drawn) == (b.initial ? *b.initial : drawn);
}

}  // namespace

std::shared_ptr<const Plans> make_plans(const Model& model, const PlanOptions& options) {
  return std::make_shared<const Plans>(
      Plans{model.prefill_plan(options), model.decode_plan(options)});
}

int64_t common_tokens(const TokenPrompt& a, const TokenPrompt& b) {
  const auto is_image = [](const TokenPrompt& prompt, int64_t i) {
    return !prompt.is_image.empty() && prompt.is_image[static_cast<size_t>(i)] != 0;
  };
  const int64_t limit = std::min(a.size(), b.size());
  size_t picture = 0;  // the first that doesn't end before i
  for (int64_t i = 0; i < limit; ++i) {
    if (a.ids[static_cast<size_t>(i)] != b.ids[static_cast<size_t>(i)]) return i;
    if (is_image(a, i) != is_image(b, i)) return i;
    if (!is_image(a, i)) continue;
    while (picture < a.pictures.size() && a.pictures[picture].end <= i) ++picture;
    if (picture >= std::min(a.pictures.size(), b.pictures.size())) return i;
    if (a.pictures[picture] != b.pictures[picture] || i < a.pictures[picture].begin) return i;
  }
  return limit;
}

int64_t PrefixCache::take(Model& model, const std::shared_ptr<const Plans>& plans,
                          const TokenPrompt& prompt, Sequence& sequence) const {
  // A prompt of one token runs another plan than a longer one.
  if (plans_ == nullptr || plans_ != plans || prompt.size() < 2) return 0;
  if (!same_rope(model.config().text, prompt.size(), prompt_.size())) return 0;
  if (plans->prefill.initial() && !same_initial(sequence, sequence_)) return 0;
  const int64_t common = std::min(prompt.size() - 1, common_tokens(prompt, prompt_));
  if (common > 0) sequence = sequence_.fork(model.backend(), common);
  return common;
}

void PrefixCache::put(Model& model, const std::shared_ptr<const Plans>& plans,
                      const TokenPrompt& prompt, const Sequence& sequence) {
  if (prompt.size() < 2) return;
  plans_ = plans;
  prompt_ = prompt;
  prompt_.image_rows = Tensor();
  sequence_ = sequence.fork(model.backend());
}

Session::Session(Model& model, std::shared_ptr<const Plans> plans, int64_t chunk,
                 const ExitConfig& exit)
    : model_(model), plans_(std::move(plans)), chunk_(chunk) {
  if (chunk < 1) fail("prefill chunk: expected 1 token or more, found {}", chunk);
  if (exit.active()) exits_.emplace(model_, plans_->decode, exit);
}

Tensor Session::embed(const TokenPrompt& prompt, int64_t begin, int64_t end) {
  Backend& be = model_.backend();
  const auto ids =
      std::span(prompt.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  Tensor x = model_.embed(ids);  // [end - begin, d]
  const int64_t images = placeholders(prompt, begin, end);
  if (images == 0) return x;
  std::vector<int32_t> at;
  for (int64_t i = begin; i < end; ++i) {
    if (prompt.is_image[static_cast<size_t>(i)]) at.push_back(static_cast<int32_t>(i - begin));
  }
  const int64_t first = placeholders(prompt, 0, begin);
  return be.replace_rows(x, at, be.slice(prompt.image_rows, 0, first, first + images));
}

bool Session::run_prompt(const TokenPrompt& prompt, bool last_only, const ChunkSink& sink,
                         Observer* observer, PrefixCache* prefix,
                         const std::function<bool()>& cancelled) {
  REPRISE_CHECK(sequence_.length == 0, "prefill of a session that has run");
  const int64_t n = prompt.size();
  if (n == 0) fail("the prompt is empty: there is nothing to run");
  REPRISE_CHECK(prompt.is_image.empty() || prompt.is_image.size() == prompt.ids.size());
  const int64_t images = placeholders(prompt, 0, n);
  const int64_t image_rows = prompt.image_rows ? prompt.image_rows.dim(0) : 0;
  if (images != image_rows) {
    fail("the prompt has {} image placeholders for {} image rows", images, image_rows);
  }

  prompt_plan_ = n > 1 ? &plans_->prefill : &plans_->decode;
  const bool leaves = exits_ && exits_->leaves_with_prompts();
  // A prompt that is whole can't begin with a part of another.
  const bool whole = leaves || prompt_plan_->whole_prompts();
  if (whole) prefix = nullptr;
  if (prefix != nullptr) prefix_tokens_ = prefix->take(model_, plans_, prompt, sequence_);
  const int64_t chunk = whole ? n : chunk_;
  for (int64_t begin = sequence_.length; begin < n; begin += chunk) {
    if (cancelled && cancelled()) return false;
    const int64_t end = std::min(n, begin + chunk);
    Tensor x = embed(prompt, begin, end);  // [rows, d]
    if (observer != nullptr) observer->observe("inputs_embeds", x);
    Rows rows;
    rows.append(sequence_, end - begin, n);
    if (images > 0) {
      rows.is_image.assign(prompt.is_image.begin() + begin, prompt.is_image.begin() + end);
    }
    const int64_t first = last_only ? end - begin - 1 : 0;  // of the rows that somebody wants
    if (exits_ && exits_->judges_prompts() && (end == n || !last_only)) {
      std::vector<int32_t> judged(static_cast<size_t>(end - begin - first));
      std::iota(judged.begin(), judged.end(), static_cast<int32_t>(first));
      const ExitSelection found =
          exits_->select(*prompt_plan_, rows, std::move(x), judged, observer);
      prompt_loops_.insert(prompt_loops_.end(), found.loops.begin(), found.loops.end());
      sink(begin + first, found.normed);
      continue;
    }
    if (leaves) {
      prompt_exit_ =
          std::move(exits_->run(std::move(rows), std::move(x), observer, prompt_plan_)[0]);
      prompt_loops_ = {prompt_exit_.loop};
      x = prompt_exit_.state;
    } else {
      x = model_.forward(*prompt_plan_, rows, std::move(x), observer);
    }
    if (last_only && end < n) continue;
    if (first > 0) x = model_.backend().slice(x, 0, first, end - begin);
    sink(begin + first, model_.final_norm(x));
  }
  if (prefix != nullptr) prefix->put(model_, plans_, prompt, sequence_);
  return true;
}

bool Session::prefill(const TokenPrompt& prompt, const ChunkSink& sink, Observer* observer,
                      PrefixCache* prefix, const std::function<bool()>& cancelled) {
  return run_prompt(prompt, /*last_only=*/false, sink, observer, prefix, cancelled);
}

std::vector<float> Session::prefill(const TokenPrompt& prompt, PrefixCache* prefix,
                                    const std::function<bool()>& cancelled) {
  Tensor last;
  const auto keep = [&](int64_t, const Tensor& normed) { last = normed; };
  if (!run_prompt(prompt, /*last_only=*/true, keep, nullptr, prefix, cancelled)) return {};
  end_prompt();
  return logits(last);
}

void Session::end_prompt() {
  if (prompt_plan_ != nullptr) sequence_.end_prompt(*prompt_plan_);
  prompt_plan_ = nullptr;
}

std::pair<Rows, Tensor> Session::next_row(int32_t token, Observer* observer) {
  end_prompt();
  const int64_t position = sequence_.length;
  const int32_t ids[] = {token};
  std::pair<Rows, Tensor> next;
  next.first.append(sequence_, 1, position + 1);
  next.second = model_.embed(ids);  // [1, d]
  if (observer != nullptr) observer->observe("inputs_embeds", next.second);
  return next;
}

std::vector<float> Session::decode(int32_t token, Observer* observer) {
  if (exits_) return decode_exit(token, observer).logits;
  auto [rows, x] = next_row(token, observer);
  const Tensor normed =
      model_.final_norm(model_.forward(plans_->decode, rows, std::move(x), observer));
  if (observer != nullptr) observer->observe("final_norm", normed);
  return logits(normed);
}

LoopExit Session::decode_exit(int32_t token, Observer* observer) {
  REPRISE_CHECK(exits_, "no rule to leave early by");
  auto [rows, x] = next_row(token, observer);
  LoopExit exit = std::move(exits_->run(std::move(rows), std::move(x), observer)[0]);
  if (observer != nullptr) observer->observe("final_norm", model_.final_norm(exit.state));
  check(exit.logits);
  return exit;
}

void Session::finish_exits() {
  if (exits_) exits_->finish();
}

std::vector<float> Session::logits(const Tensor& normed) {
  std::vector<float> logits = model_.backend().to_host(model_.logits(normed));
  check(logits);
  return logits;
}

void Session::check(std::span<const float> logits) const {
  check_logits(model_, logits, fmt::format("token {} of the request", sequence_.length));
}

}  // namespace reprise
