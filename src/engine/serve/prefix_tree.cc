#include "engine/serve/prefix_tree.h"

#include <algorithm>
#include <compare>
#include <tuple>

namespace reprise {
namespace {

// The picture behind the placeholder at i; null where it isn't known, or where there is none.
const PromptPicture* picture_at(const TokenPrompt& prompt, int64_t i) {
  const auto at = std::ranges::find_if(
      prompt.pictures, [&](const PromptPicture& picture) { return picture.end > i; });
  return at != prompt.pictures.end() && at->begin <= i ? &*at : nullptr;
}

auto order_of(const TokenPrompt& prompt, int64_t i) {
  const bool image = !prompt.is_image.empty() && prompt.is_image[static_cast<size_t>(i)] != 0;
  const PromptPicture* picture = image ? picture_at(prompt, i) : nullptr;
  const PromptPicture shown = picture ? *picture : PromptPicture{};
  return std::tuple(prompt.ids[static_cast<size_t>(i)], image, picture != nullptr, shown.key.sha256,
                    shown.key.options, shown.begin, shown.end);
}

bool pinned(const PrefixTree::Entry& entry) {
  return entry.use_count() > 1 || entry->pin.use_count() > 1;
}

}  // namespace

void PrefixOptions::check() const {
  if (bytes < 0) fail("bytes of the prefix tree: expected 0 or more, found {}", bytes);
  if (least_tokens < 1)
    fail("least tokens of a common prefix: expected 1 or more, found {}", least_tokens);
}

PrefixTree::PrefixTree(const Model& model, std::shared_ptr<KvBudget> budget,
                       const PrefixOptions& options)
    : model_(model), budget_(std::move(budget)), options_(options), order_(Less{&model}) {
  options.check();
}

PrefixTree::PrefixTree(const Model& model, const PrefixOptions& options)
    : PrefixTree(model, KvBudget::unlimited(), options) {}

PrefixTree::Key PrefixTree::Less::key(const Place& place) {
  const PrefixEntry& entry = **place;
  return {entry.state(), entry.sequence.length, entry.whole.has_value()};
}

bool PrefixTree::Less::operator()(const Key& a, const Key& b) const {
  if (a.whole != b.whole) return b.whole;
  if (a.state.plans != b.state.plans) return std::less<>()(a.state.plans, b.state.plans);
  if (a.state.plans->prefill.initial()) {
    const InitialStates drawn;
    const auto order = [&](const InitialStates* initial) {
      const InitialStates& one = initial ? *initial : drawn;
      return std::tie(one.seed, one.drawn, one.given);
    };
    const auto one = order(a.state.initial), other = order(b.state.initial);
    if (one != other) return one < other;
  }
  // Lengths of equal frequencies are ranges.
  const int64_t size = a.state.prompt->size(), other = b.state.prompt->size();
  if (!same_rope(model->config().text, size, other)) return size < other;
  const int64_t n = std::min(a.tokens, b.tokens);
  const int64_t common = common_tokens(*a.state.prompt, *b.state.prompt);
  if (common >= n) return a.tokens < b.tokens;
  return order_of(*a.state.prompt, common) < order_of(*b.state.prompt, common);
}

int64_t PrefixTree::common(const Entry& entry, const Key& key) const {
  if (entry->whole.has_value() != key.whole) return 0;
  return std::min(entry->sequence.length, shared_tokens(model_, entry->state(), key.state));
}

PrefixTree::Found PrefixTree::find(const PromptState& prompt, const ExitConfig* whole) {
  if (!on()) return {};
  const Key key{prompt, prompt.prompt->size(), whole != nullptr};
  const auto behind = order_.lower_bound(key);
  Found found;
  const auto look = [&](const Place& place) {
    const int64_t tokens = common(*place, key);
    if (tokens >= options_.least_tokens && tokens > found.tokens) found = {*place, tokens};
  };
  if (behind != order_.end()) look(*behind);
  if (behind != order_.begin()) look(*std::prev(behind));
  if (whole && found.entry) {
    // An equal prompt, its last token included.
    const PrefixEntry& entry = *found.entry;
    if (entry.sequence.length != key.tokens || entry.prompt.size() != key.tokens ||
        common_tokens(entry.prompt, *prompt.prompt) != key.tokens || entry.whole->exit != *whole)
      return {};
    found.tokens = key.tokens;
  }
  return found;
}

PrefixTree::Entry PrefixTree::put(const std::shared_ptr<const Plans>& plans,
                                  const TokenPrompt& prompt, const Sequence& sequence,
                                  std::optional<WholePrompt> whole) {
  if (!on()) return nullptr;
  REPRISE_CHECK(sequence.length == prompt.size(), "not a prompt's end");
  // A picture that isn't known is equal to no other, not even to itself.
  int64_t tokens = common_tokens(prompt, prompt);
  if (prompt.size() < 2 || tokens < options_.least_tokens) return nullptr;
  if (whole && tokens < prompt.size()) return nullptr;
  const Key key{{plans.get(), &prompt, sequence.initial.get()}, tokens, whole.has_value()};
  const auto has_all = [&](const Entry& entry) {
    const int64_t length = entry->sequence.length;
    return (whole ? length == tokens : length >= tokens) &&
           common(entry, key) >= std::min(tokens, prompt.size() - 1) &&
           common_tokens(entry->prompt, prompt) >= tokens;
  };
  const auto next = order_.lower_bound(key);
  if (next != order_.end() && has_all(**next)) {
    const Place same = *next;
    if (!whole || (*same)->whole->exit == whole->exit) {
      touch(*same);
      return *same;
    }
    drop(same);  // other exits: the latest are kept
  }
  // A row's last page that isn't full is copied. Nobody has reserved that.
  int64_t copied = 0;
  for (const auto& [number, row] : sequence.kv)
    if (row.lower_bound(tokens) % kKvPageTokens != 0) copied += row.spec.bytes_per_page();
  std::optional<KvReservation> reservation = budget_->reserve(copied);
  if (!reservation) {
    tokens -= tokens % kKvPageTokens;
    if (whole || tokens < options_.least_tokens) return nullptr;
    reservation = budget_->reserve(0);
  }
  auto entry = std::make_shared<PrefixEntry>();
  entry->plans = plans;
  entry->prompt = prompt;
  entry->prompt.image_rows = Tensor();
  entry->sequence = sequence.fork(model_.backend(), tokens, reservation->account());
  entry->whole = std::move(whole);
  if (entry->sequence.kv_bytes() > options_.bytes) return nullptr;  // others would go in vain
  // Only now: it may be that its pages could not be copied.
  const Entry kept = entry;
  entries_.push_front(kept);
  const auto [at, added] = order_.insert(entries_.begin());
  if (!added) {  // cut to whole pages it is what there was
    entries_.pop_front();
    touch(**at);
    return **at;
  }
  count(*kept, 1);
  ++version_;
  // What it begins with as a whole is of no more use.
  while (at != order_.begin() && !kept->whole) {
    const Place before = *std::prev(at);
    const PrefixEntry& shorter = **before;
    if (pinned(*before) || common(*before, Less::key(*at)) < shorter.sequence.length) break;
    drop(before);
  }
  while (bytes_ > options_.bytes && drop_one()) {
  }
  if (bytes_ <= options_.bytes) return kept;
  drop(*at);
  return nullptr;
}

void PrefixTree::touch(const Entry& entry) {
  const auto at =
      order_.find(Key{entry->state(), entry->sequence.length, entry->whole.has_value()});
  if (at != order_.end() && **at == entry) entries_.splice(entries_.begin(), entries_, *at);
}

bool PrefixTree::drop_one() {
  for (auto it = entries_.end(); it != entries_.begin();) {
    --it;
    if (pinned(*it)) continue;
    drop(it);
    return true;
  }
  return false;
}

void PrefixTree::drop(Place place) {
  order_.erase(place);
  count(**place, -1);
  entries_.erase(place);
  ++version_;
}

void PrefixTree::clear() {
  order_.clear();
  entries_.clear();
  pages_.clear();
  bytes_ = 0;
  ++version_;
}

void PrefixTree::count(const PrefixEntry& entry, int sign) {
  for (const auto& [number, row] : entry.sequence.kv)
    for (const auto& page : row.pages) {
      int64_t& holders = pages_[page.get()];
      if (holders == 0) bytes_ += row.spec.bytes_per_page();
      holders += sign;
      if (holders > 0) continue;
      bytes_ -= row.spec.bytes_per_page();
      pages_.erase(page.get());
    }
  if (entry.whole)
    bytes_ += sign * static_cast<int64_t>(entry.whole->logits.size() * sizeof(float));
}

std::vector<const KvRow*> PrefixTree::rows() const {
  std::vector<const KvRow*> rows;
  for (const Entry& entry : entries_)
    for (const auto& [number, row] : entry->sequence.kv) rows.push_back(&row);
  return rows;
}

}  // namespace reprise
