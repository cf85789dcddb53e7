#include "engine/session.h"

#include <algorithm>
#include <numeric>

#include "engine/logits.h"
#include "engine/serve/prefix_tree.h"

namespace reprise {

namespace {

bool same_initial(const InitialStates* a, const InitialStates* b) {
  const InitialStates drawn;
  return (a ? *a : drawn) == (b ? *b : drawn);
}

}  // namespace

std::shared_ptr<const Plans> make_plans(const Model& model, const PlanOptions& options) {
  return std::make_shared<const Plans>(
      Plans{model.prefill_plan(options), model.decode_plan(options)});
}

int64_t shared_tokens(const Model& model, const PromptState& run, const PromptState& next) {
  const int64_t size = run.prompt->size(), wanted = next.prompt->size();
  // A prompt of one token runs another plan than a longer one.
  if (run.plans != next.plans || size < 2 || wanted < 2) return 0;
  if (!same_rope(model.config().text, wanted, size)) return 0;
  if (run.plans->prefill.initial() && !same_initial(run.initial, next.initial)) return 0;
  return std::min(wanted - 1, common_tokens(*run.prompt, *next.prompt));
}

Session::Session(Model& model, std::shared_ptr<const Plans> plans, int64_t chunk,
                 const ExitConfig& exit)
    : model_(model), plans_(std::move(plans)), chunk_(chunk) {
  if (chunk < 1) fail("prefill chunk: expected 1 token or more, found {}", chunk);
  if (exit.active()) exits_.emplace(model_, plans_->decode, exit);
}

bool Session::run_prompt(const TokenPrompt& prompt, bool last_only, const ChunkSink& sink,
                         Observer* observer, PrefixTree* prefixes,
                         const std::function<bool()>& cancelled) {
  REPRISE_CHECK(sequence_.length == 0, "prefill of a session that has run");
  const int64_t n = prompt.size();
  check_prompt(prompt);

  prompt_plan_ = n > 1 ? &plans_->prefill : &plans_->decode;
  const bool leaves = exits_ && exits_->leaves_with_prompts();
  // A prompt that is whole can't begin with a part of another.
  const bool whole = leaves || prompt_plan_->whole_prompts();
  if (whole) prefixes = nullptr;
  if (prefixes != nullptr) {
    const PrefixTree::Found found =
        prefixes->find({plans_.get(), &prompt, sequence_.initial.get()});
    prefix_tokens_ = found.tokens;
    if (found.entry) {
      prefixes->touch(found.entry);
      auto initial = std::move(sequence_.initial);
      sequence_ = found.entry->sequence.fork(model_.backend(), found.tokens);
      sequence_.initial = std::move(initial);
    }
  }
  const int64_t chunk = whole ? n : chunk_;
  for (int64_t begin = sequence_.length; begin < n; begin += chunk) {
    if (cancelled && cancelled()) return false;
    const int64_t end = std::min(n, begin + chunk);
    Tensor x = embed_prompt(model_, prompt, begin, end);  // [rows, d]
    if (observer != nullptr) observer->observe("inputs_embeds", x);
    Rows rows;
    rows.append(sequence_, end - begin, n);
    if (prompt.image_rows && prompt.image_rows.dim(0) > 0) {
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
  if (prefixes != nullptr) prefixes->put(plans_, prompt, sequence_);
  return true;
}

bool Session::prefill(const TokenPrompt& prompt, const ChunkSink& sink, Observer* observer,
                      PrefixTree* prefixes, const std::function<bool()>& cancelled) {
  return run_prompt(prompt, /*last_only=*/false, sink, observer, prefixes, cancelled);
}

std::vector<float> Session::prefill(const TokenPrompt& prompt, PrefixTree* prefixes,
                                    const std::function<bool()>& cancelled) {
  Tensor last;
  const auto keep = [&](int64_t, const Tensor& normed) { last = normed; };
  if (!run_prompt(prompt, /*last_only=*/true, keep, nullptr, prefixes, cancelled)) return {};
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
