#include "text/tokenizer/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/tokenizer/utf8.h"

namespace reprise {

std::string StreamDecoder::push(int32_t token) {
  std::string_view bytes = tokenizer_->token_bytes(token);
  const bool special = tokenizer_->is_special(token);
  if (special && skip_special_) return {};
  if (strip_ && !special && bytes.starts_with(' ')) bytes.remove_prefix(1);
  strip_ = special && rules_.strip_after_special;
  pending_ += bytes;
  size_t certain = 0;
  while (certain < pending_.size()) {
    const Utf8Char c = first_char(std::string_view(pending_).substr(certain, 4));
    if (c.incomplete) break;
    certain += c.length;
  }
  std::string text = to_valid_utf8(std::string_view(pending_).substr(0, certain));
  pending_.erase(0, certain);
  return text;
}

std::string StreamDecoder::flush() { return to_valid_utf8(std::exchange(pending_, {})); }

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (size_t i = 0; i < stops_.size(); ++i)
    if (stops_[i].empty()) fail("stop string {} is empty, expected at least one character", i);
}

size_t StopMatcher::find_at_end(std::string_view text, bool shown_only) const {
  size_t at = held_.size();
  while (!text.empty()) {
    if (at == 0) return std::string::npos;
    --at;
    if (shown_only && !shown_[at]) continue;
    if (held_[at] != text.back()) return std::string::npos;
    text.remove_suffix(1);
  }
  return at;
}

std::string StopMatcher::release(size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i)
    if (shown_[i]) text += held_[i];
  held_.erase(0, count);
  shown_.erase(shown_.begin(), shown_.begin() + static_cast<std::ptrdiff_t>(count));
  return text;
}

std::string StopMatcher::add(std::string_view text, bool shown) {
  if (stopped()) return {};
  for (const char c : text) {
    held_ += c;
    shown_.push_back(shown);
    size_t cut = 0;
    for (size_t i = 0; i < stops_.size(); ++i) {
      if (stopped_ >= 0 && stops_[i].size() <= stops_[static_cast<size_t>(stopped_)].size())
        continue;
      for (const bool shown_only : {false, true}) {
        const size_t at = find_at_end(stops_[i], shown_only);
        if (at == std::string::npos) continue;
        stopped_ = static_cast<int>(i);
        cut = at;
      }
    }
    if (stopped()) {
      std::string certain = release(cut);
      release(held_.size());
      return certain;
    }
  }
  // The longest end of the text that begins a stop string stays here.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (const bool shown_only : {false, true}) {
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > 0; --n) {
        const size_t at = find_at_end(std::string_view(stop).substr(0, n), shown_only);
        if (at == std::string::npos) continue;
        keep = std::max(keep, held_.size() - at);
        break;  // shorter ones begin further on
      }
    }
  }
  return release(held_.size() - keep);
}

std::string StopMatcher::flush() { return release(held_.size()); }

}  // namespace reprise
