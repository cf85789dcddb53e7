// tokenizer.json made of what a GGUF file says; tests/parity/routes_test.cc has whole models.
#include "text/tokenizer/tokenizer_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "text/tokenizer/tokenizer_gguf.h"
#include "text/tokenizer/tokenizer_json.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using ::testing::ElementsAre;
using Ids = std::vector<int32_t>;

// All bytes, "ab" and added tokens with these ids.
TokenizerSpec spec_with(const std::vector<std::pair<int32_t, std::string>>& added) {
  TokenizerSpec spec;
  spec.where = "test";
  spec.vocab_key = "tokens";
  spec.merges_key = "merges";
  for (int byte = 0; byte < 256; ++byte)
    spec.tokens.push_back(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
  spec.tokens.push_back("ab");
  spec.merges = {"a b"};
  spec.splits = find_pre_tokenizer("gpt-2")->splits;
  for (const auto& [id, text] : added)
    spec.added.push_back({.id = id, .text = text, .special = true});
  return spec;
}

TokenizerSpec there_and_back(const TokenizerSpec& spec) {
  return spec_from_json(Json::parse(tokenizer_to_json(spec).dump()), "back");
}

TEST(TokenizerExport, TheSameTokenizer) {
  TokenizerSpec spec = spec_with({{257, "<s>"}, {258, "</s>"}});
  spec.nfc = true;
  spec.prefix = {257};
  spec.suffix = {258};
  const auto back = make_tokenizer(there_and_back(spec));
  EXPECT_THAT(back->encode("ab<s>b", {.add_special = true}), ElementsAre(257, 256, 257, 'b', 258));
  EXPECT_EQ(back->vocab_size(), 259);
}

// The `tokenizers` package numbers added tokens that aren't in the vocabulary itself, one after
// another: those with other ids must be there.
TEST(TokenizerExport, AddedTokensKeepTheirIds) {
  const auto vocabulary = [](const std::vector<std::pair<int32_t, std::string>>& added) {
    return tokenizer_to_json(spec_with(added))["model"]["vocab"];
  };
  EXPECT_EQ(vocabulary({{257, "<s>"}, {258, "</s>"}}).size(), 257u);
  EXPECT_EQ(vocabulary({{258, "</s>"}, {257, "<s>"}}).size(), 257u);
  const auto hole = vocabulary({{257, "<s>"}, {260, "</s>"}});
  EXPECT_EQ(hole.size(), 259u);
  EXPECT_EQ(hole["</s>"], 260);
  TokenizerSpec inside = spec_with({{3, "<s>"}});
  inside.tokens[3].clear();
  EXPECT_EQ(tokenizer_to_json(inside)["model"]["vocab"]["<s>"], 3);
  const auto back = make_tokenizer(there_and_back(spec_with({{260, "<x>"}})));
  EXPECT_THAT(back->encode("ab<x>"), ElementsAre(256, 260));
}

// SentencePiece: the best score first, of one piece's parts the longest left one.
TEST(TokenizerExport, MergesOfScores) {
  GgufMetadata metadata("m.gguf");
  const std::vector<std::string> tokens = {"<unk>", "a", "b", "ab", "abb", "bb", "[PAD6]", "ba"};
  const std::vector<float> scores = {0, -9, -9, -1, -3, -2, -10, -4};
  const std::vector<int32_t> types = {2, 1, 1, 1, 1, 1, 5, 1};
  metadata.set("tokenizer.ggml.model", GgufValue(std::string("llama")));
  metadata.set("tokenizer.ggml.tokens", tokens);
  metadata.set("tokenizer.ggml.scores", GgufValue(GgufArray{scores}));
  metadata.set("tokenizer.ggml.token_type", GgufValue(GgufArray{types}));
  const TokenizerSpec spec = merges_from_gguf(metadata);
  EXPECT_THAT(spec.merges, ElementsAre("a b", "b b", "ab b", "a bb", "b a"));
  EXPECT_EQ(spec.tokens[6], "");  // a hole
  EXPECT_EQ(spec.unknown_byte, 0);
  EXPECT_TRUE(spec.metaspace->decode.strip_first_space);
}

}  // namespace
}  // namespace reprise
