#include "text/tokenizer/stream_decoder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "text/tokenizer/utf8.h"

namespace reprise {

std::string StreamDecoder::push(int32_t token) {
  std::string_view bytes = tokenizer_.token_bytes(token);
  const bool special = tokenizer_.is_special(token);
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

std::string StopMatcher::push(std::string_view text) {
  if (stopped()) return {};
  for (const char c : text) {
    held_ += c;
    for (size_t i = 0; i < stops_.size(); ++i) {
      if (!held_.ends_with(stops_[i])) continue;
      if (stopped_ < 0 || stops_[i].size() > stops_[static_cast<size_t>(stopped_)].size())
        stopped_ = static_cast<int>(i);
    }
    if (stopped()) {
      held_.resize(held_.size() - stops_[static_cast<size_t>(stopped_)].size());
      return std::exchange(held_, {});
    }
  }
  // The longest end of the text that begins a stop string stays here.
  size_t keep = 0;
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

std::string StopMatcher::flush() { return std::exchange(held_, {}); }

}  // namespace reprise
