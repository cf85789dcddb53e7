// The ids of 5,000 texts by tokenizers of twelve published kinds and a bare tokenizer.model, as the
// packages `tokenizers` and `sentencepiece` give them (tests/data/text/kinds/make.py).
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "base/file.h"
#include "base/json.h"
#include "support/data_folders.h"
#include "test_files.h"
#include "text/tokenizer/tokenizer_files.h"

namespace reprise {
namespace {

namespace fs = std::filesystem;
using testing::data_path;

fs::path root() { return data_path("kinds"); }

uint32_t hash_of(const std::vector<int32_t>& ids) {
  uint32_t value = 0x811C9DC5u;
  for (const int32_t id : ids)
    for (int shift = 0; shift < 32; shift += 8)
      value = (value ^ (static_cast<uint32_t>(id) >> shift & 0xFFu)) * 0x01000193u;
  return value;
}

class TokenizerKinds : public ::testing::TestWithParam<std::string> {};

TEST_P(TokenizerKinds, SameIds) {
  const fs::path folder = root() / GetParam();
  const auto tokenizer = tokenizer_from_model(folder);
  const std::string bytes = read_file(folder / "ids.u32");
  std::vector<uint32_t> want(bytes.size() / sizeof(uint32_t));
  std::memcpy(want.data(), bytes.data(), bytes.size());
  ASSERT_EQ(want.size(), 5000u);
  // To sentencepiece a control token written out in a text is a text like any other.
  const bool plain = !fs::exists(folder / "tokenizer.json");
  std::ifstream lines(root() / "texts.jsonl");
  std::string line;
  int differ = 0;
  for (const uint32_t expected : want) {
    ASSERT_TRUE(std::getline(lines, line));
    const auto text = Json::parse(line).get<std::string>();
    if (hash_of(tokenizer->encode(text, {.parse_special = !plain})) == expected) continue;
    if (++differ <= 3) ADD_FAILURE() << "other ids for " << line;
  }
  EXPECT_EQ(differ, 0);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerKinds, ::testing::ValuesIn(test::folders_in(root())),
                         [](const auto& info) { return test::test_name(info.param); });

}  // namespace
}  // namespace reprise
