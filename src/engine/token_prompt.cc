#include "engine/token_prompt.h"

#include <algorithm>
#include <numeric>

namespace reprise {

namespace {

int64_t placeholders(const TokenPrompt& prompt, int64_t begin, int64_t end) {
  if (prompt.is_image.empty()) return 0;
  return std::accumulate(prompt.is_image.begin() + begin, prompt.is_image.begin() + end,
                         int64_t{0});
}

}  // namespace

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

void check_prompt(const TokenPrompt& prompt) {
  if (prompt.size() == 0) fail("the prompt is empty: there is nothing to run");
  REPRISE_CHECK(prompt.is_image.empty() || prompt.is_image.size() == prompt.ids.size());
  const int64_t images = placeholders(prompt, 0, prompt.size());
  const int64_t image_rows = prompt.image_rows ? prompt.image_rows.dim(0) : 0;
  if (images != image_rows) {
    fail("the prompt has {} image placeholders for {} image rows", images, image_rows);
  }
}

Tensor embed_prompt(const Model& model, const TokenPrompt& prompt, int64_t begin, int64_t end) {
  Backend& be = model.backend();
  const auto ids =
      std::span(prompt.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  Tensor x = model.embed(ids);  // [end - begin, d]
  const int64_t images = placeholders(prompt, begin, end);
  if (images == 0) return x;
  std::vector<int32_t> at;
  for (int64_t i = begin; i < end; ++i) {
    if (prompt.is_image[static_cast<size_t>(i)]) at.push_back(static_cast<int32_t>(i - begin));
  }
  const int64_t first = placeholders(prompt, 0, begin);
  return be.replace_rows(x, at, be.slice(prompt.image_rows, 0, first, first + images));
}

}  // namespace reprise
