// Texts as rows of tokens: documents, packing, order, place in an epoch, and what is refused.
#include "train/data/text_batches.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <set>

#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "support/error_of.h"
#include "support/letters_tokenizer.h"
#include "support/tiny_models.h"
#include "train/data/documents.h"
#include "unit/formats/test_files.h"

namespace reprise {
namespace {

using test::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

// Letters a = 0, b = 1, ... and a line's end; ids may be given roles.
class RoleTokenizer : public testing::LettersTokenizer {
 public:
  RoleTokenizer() : LettersTokenizer(texts()) {}
  const SpecialIds& ids() const override { return roles; }
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids = LettersTokenizer::encode(text, options);
    if (options.add_special && adds_bos) ids.insert(ids.begin(), *roles.bos);
    ++calls;
    return ids;
  }
  SpecialIds roles;
  bool adds_bos = false;
  mutable int calls = 0;

 private:
  static std::vector<std::string> texts() {
    std::vector<std::string> texts;
    for (char c = 'a'; c <= 'z'; ++c) texts.emplace_back(1, c);
    texts.insert(texts.end(), {"\n", "<bos>", "<eos>"});
    return texts;
  }
};
constexpr int32_t kLine = 26, kBos = 27, kEos = 28;

class TextRows : public ::testing::Test {
 protected:
  TextRows() {
    recipe_.path = "recipe.yaml";
    recipe_.context = 3;
    recipe_.batch = 2;
    config_ = config_from_json(test::tiny_text_config("LlamaForCausalLM"), "config.json");
  }
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    write_file_atomically(folder_ / name, text);
    return folder_ / name;
  }
  std::filesystem::path write_tokens(const std::string& name, const std::vector<int64_t>& ids,
                                     const Shape& shape) const {
    write_safetensors(folder_ / name, {make_view("tokens", shape, std::span<const int64_t>(ids))});
    return folder_ / name;
  }
  void use_text(const std::string& text) {
    recipe_.texts = {{TextSource::Kind::Text, write("train.txt", text), ""}};
  }
  // `rows` rows of four tokens, the first one counting them.
  void use_rows(int64_t rows) {
    std::vector<int64_t> ids;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < 4; ++i) ids.push_back(i == 0 ? row : i);
    recipe_.texts = {{TextSource::Kind::Tokens, write_tokens("t.safetensors", ids, {rows, 4}), ""}};
  }
  TextBatches open() const {
    return TextBatches(recipe_, {config_, &tokenizer_, std::nullopt, false, folder_.path()});
  }
  // First tokens of the next rows.
  static Ids firsts(TextBatches& batches, int calls) {
    Ids ids;
    for (int i = 0; i < calls; ++i) {
      const Batch batch = batches.next();
      for (const RowSegment& segment : batch.rows.segments)
        ids.push_back(batch.ids[static_cast<size_t>(segment.first_row)]);
    }
    return ids;
  }

  const TempFolder folder_;
  Recipe recipe_;
  ModelConfig config_;
  RoleTokenizer tokenizer_;
};

std::vector<std::string> documents(const TextSource& source) {
  std::vector<std::string> found;
  for_each_document(source, [&](std::string_view text, const std::string& where) {
    found.push_back(where.substr(where.rfind(':') + 1) + " " + std::string(text));
    return true;
  });
  return found;
}

TEST_F(TextRows, DocumentsAreSeparatedByEmptyLines) {
  const TextSource source{TextSource::Kind::Text,
                          write("a.txt", "\n\nab\ncd\n\n\nef\r\ngh\r\n\r\nij"), ""};
  EXPECT_THAT(documents(source), ElementsAre("3 ab\ncd", "7 ef\r\ngh", "10 ij"));
  EXPECT_THAT(documents({TextSource::Kind::Text, write("b.txt", ""), ""}), ElementsAre());
  const TextSource lines{
      TextSource::Kind::JsonLines,
      write("c.jsonl", "{\"t\": \"ab\\n\\ncd\"}\n\n{\"t\": \"\"}\n{\"t\": \"e\"}"), "t"};
  EXPECT_THAT(documents(lines), ElementsAre("1 ab\n\ncd", "4 e"));
}

TEST_F(TextRows, DocumentsArePackedBehindEachOther) {
  recipe_.shuffle = false;
  tokenizer_.roles.eos = kEos;
  use_text("abc\nd\n\nefgh\n\ni");  // a b c \n d E e | f g h E i E
  TextBatches batches = open();
  EXPECT_EQ(batches.rows(), 4);  // 13 tokens: 3 to each row, one behind the last
  const Batch batch = batches.next();
  EXPECT_EQ(batch.ids, (Ids{0, 1, 2, kLine, 3, kEos}));
  EXPECT_EQ(batch.targets, (Ids{1, 2, kLine, 3, kEos, 4}));
  EXPECT_EQ(batch.target_rows, (Ids{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(batch.rows.positions, (Ids{0, 1, 2, 0, 1, 2}));
  ASSERT_EQ(batch.rows.segments.size(), 2u);
  EXPECT_EQ(batch.rows.segments[1].first_row, 3);
  EXPECT_EQ(batch.rows.segments[1].total_length, 3);
  EXPECT_EQ(batches.next().targets, (Ids{5, 6, 7, kEos, 8, kEos}));
}

TEST_F(TextRows, WhatStandsBetweenDocuments) {
  recipe_.shuffle = false;
  recipe_.batch = 1;
  use_text("ab\n\ncd");
  EXPECT_EQ(open().next().ids, (Ids{0, 1, 2})) << "nothing";
  tokenizer_.roles.bos = kBos;  // no end token
  use_text("ab\n\ncde");
  std::filesystem::remove(folder_ / "tokens-train-0.bin");
  EXPECT_EQ(open().next().ids, (Ids{kBos, 0, 1}));
  tokenizer_.adds_bos = true;  // as a prompt has it; not twice
  std::filesystem::remove(folder_ / "tokens-train-0.bin");
  EXPECT_EQ(open().next().ids, (Ids{kBos, 0, 1}));
  tokenizer_.roles.eos = kEos;
  std::filesystem::remove(folder_ / "tokens-train-0.bin");
  TextBatches both = open();
  EXPECT_EQ(both.next().targets, (Ids{0, 1, kEos}));
  EXPECT_EQ(both.next().targets, (Ids{kBos, 2, 3}));
}

TEST_F(TextRows, TokensAreKeptForTheNextRun) {
  recipe_.shuffle = false;
  use_text("abcdefghij");
  const Ids first = open().next().ids;
  const int calls = tokenizer_.calls;
  EXPECT_EQ(open().next().ids, first);
  EXPECT_EQ(tokenizer_.calls, calls + 1) << "only the first document again, as a check";
  use_text("bbcdefghij");
  EXPECT_EQ(open().next().ids[0], 1) << "another text";
  // A torn or foreign file isn't taken.
  write("tokens-train-0.bin", "nothing of the kind, but long enough for an end");
  EXPECT_EQ(open().next().ids[0], 1);
}

// A document larger than what is tokenized at once is cut behind a line.
TEST_F(TextRows, LongDocumentsAreTokenizedInParts) {
  recipe_.shuffle = false;
  recipe_.context = 1000;
  config_.text.max_position = 1000;
  std::string text;
  while (text.size() < (5 << 19)) text += "abcdefghijklmnopqrstuvwxyz\n";
  tokenizer_.roles.eos = kEos;
  use_text(text);
  TextBatches batches = open();
  EXPECT_EQ(batches.rows(), static_cast<int64_t>(text.size() - 1) / 1000);
  const Batch batch = batches.next();
  for (size_t i = 0; i < 1000; ++i) ASSERT_EQ(batch.ids[i], static_cast<int32_t>(i % 27));
  EXPECT_EQ(tokenizer_.calls, 3);
}

TEST_F(TextRows, TokenFilesAreRowsInOrder) {
  recipe_.shuffle = false;
  recipe_.context = 0;
  use_rows(3);
  TextBatches batches = open();
  EXPECT_EQ(firsts(batches, 3), (Ids{0, 1, 2, 0, 1, 2})) << "epochs follow without a gap";
  EXPECT_EQ(batches.epoch(), 1);
}

TEST_F(TextRows, AnEpochTakesEveryRowOnceInAnOrderOfItsOwn) {
  use_rows(16);
  TextBatches batches = open();
  const Ids first = firsts(batches, 8), second = firsts(batches, 8);
  for (const Ids& epoch : {first, second})
    EXPECT_EQ(std::set<int32_t>(epoch.begin(), epoch.end()).size(), 16u);
  EXPECT_NE(first, second);
  TextBatches again = open();
  EXPECT_EQ(firsts(again, 8), first);
  recipe_.seed = 2;
  TextBatches other = open();
  EXPECT_NE(firsts(other, 8), first);
}

TEST_F(TextRows, GoesOnInTheMiddleOfAnEpoch) {
  use_rows(7);
  TextBatches batches = open();
  firsts(batches, 5);  // 10 rows: three into the second epoch
  const std::string position = batches.position();
  EXPECT_THAT(position, ::testing::StartsWith("1/3/7/"));
  const Ids rest = firsts(batches, 6);
  TextBatches resumed = open();
  resumed.seek(position, "checkpoint");
  EXPECT_EQ(firsts(resumed, 6), rest);
  EXPECT_EQ(resumed.position(), batches.position());

  for (const char* bad : {"", "5", "1/8/7/0", "-1/0/7/0", "a/b/c/d"})
    EXPECT_THAT(error_of([&] { resumed.seek(bad, "checkpoint"); }),
                AllOf(HasSubstr("checkpoint"), HasSubstr("no place")))
        << bad;
  use_rows(8);
  TextBatches longer = open();
  EXPECT_THAT(error_of([&] { longer.seek(position, "checkpoint"); }), HasSubstr("other data"));
  recipe_.texts[0].file = write_tokens("t.safetensors", std::vector<int64_t>(28), {7, 4});
  TextBatches changed = open();
  EXPECT_THAT(error_of([&] { changed.seek(position, "checkpoint"); }), HasSubstr("other data"));
}

TEST_F(TextRows, HeldOutRowsAreApart) {
  use_rows(4);
  recipe_.validation_texts = {
      {TextSource::Kind::Tokens, write_tokens("v.safetensors", {9, 8, 7, 6}, {1, 4}), ""}};
  const TextBatches batches = open();
  EXPECT_EQ(batches.validation_size(), 1);
  EXPECT_EQ(batches.validation(0, 1).targets, (Ids{8, 7, 6}));
  EXPECT_TRUE(batches.validation(0, 1).answers.empty());
}

TEST_F(TextRows, WhatCantBeTrainedOnIsSaid) {
  const auto error = [&](const TextSource& source) {
    recipe_.texts = {source};
    return error_of([&] { open(); });
  };
  const auto tokens = [&](const std::vector<int64_t>& ids, const Shape& shape) {
    return TextSource{TextSource::Kind::Tokens, write_tokens("x.safetensors", ids, shape), ""};
  };
  EXPECT_THAT(error({TextSource::Kind::Text, folder_ / "none.txt", ""}), HasSubstr("none.txt"));
  EXPECT_THAT(error({TextSource::Kind::Text, write("s.txt", "abc"), ""}),
              AllOf(HasSubstr("s.txt"), HasSubstr("3 tokens")));
  EXPECT_THAT(
      error({TextSource::Kind::JsonLines, write("s.jsonl", "{\"t\": \"a\"}\n{\"u\": 1}"), "t"}),
      AllOf(HasSubstr("s.jsonl:2"), HasSubstr("'t'")));
  EXPECT_THAT(error({TextSource::Kind::JsonLines, write("s.jsonl", "no"), "t"}),
              HasSubstr("s.jsonl:1"));
  EXPECT_THAT(error(tokens({1, 2, 3, 4, 1, 2, 46, 4}, {2, 4})),
              AllOf(HasSubstr("x.safetensors"), HasSubstr("row 1"), HasSubstr("46")));
  EXPECT_THAT(error(tokens({-1, 2, 3, 4}, {1, 4})), HasSubstr("-1"));
  EXPECT_THAT(error(tokens({1, 2, 3}, {1, 3})), AllOf(HasSubstr("[rows, 4]"), HasSubstr("[1, 3]")));
  EXPECT_THAT(error(tokens({1, 2, 3, 4}, {4})), HasSubstr("shape"));
  const std::vector<float> floats = {1, 2, 3, 4};
  write_safetensors(folder_ / "x.safetensors",
                    {make_view("tokens", Shape{1, 4}, std::span<const float>(floats))});
  EXPECT_THAT(error({TextSource::Kind::Tokens, folder_ / "x.safetensors", ""}),
              AllOf(HasSubstr("I64"), HasSubstr("F32")));
  write_safetensors(folder_ / "x.safetensors",
                    {make_view("ids", Shape{1, 4}, std::span<const float>(floats))});
  EXPECT_THAT(error({TextSource::Kind::Tokens, folder_ / "x.safetensors", ""}),
              HasSubstr("tokens"));
}

}  // namespace
}  // namespace reprise
