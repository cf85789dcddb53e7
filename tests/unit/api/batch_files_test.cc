// The files of a batch: lines of any length, answers that are there, half written ones.
#include "api/batch_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/json.h"
#include "support/error_of.h"
#include "support/test_models.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

class BatchFilesTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& text) const {
    write_file_atomically(folder_ / "file", text);
    return folder_ / "file";
  }
  static std::string answer(int64_t line, const std::string& id) {
    return Json({{"line", line}, {"custom_id", id}, {"made_from", "1-2"}, {"response", 1}}).dump() +
           "\n";
  }
  static std::map<int64_t, std::string> ids(const BatchOutput& out) {
    std::map<int64_t, std::string> found;
    for (const auto& [line, known] : out.answered()) found[line] = known.custom_id;
    return found;
  }
  std::string refusal(const std::string& text) const {
    const auto path = file(text);
    const std::string message = test::error_of([&] { BatchOutput{path}; });
    EXPECT_EQ(read_file(path), text) << "what isn't ours is left as it is";
    return message;
  }
  const testing::TempFolder folder_;
};

TEST_F(BatchFilesTest, LinesOfAnyLength) {
  const std::string text = std::string(200'000, 'x');
  LineReader reader(file("a\n\n" + text + "\n \t\r\nend"));
  for (int pass = 0; pass < 2; ++pass) {
    EXPECT_EQ(reader.next()->text, "a");
    EXPECT_TRUE(reader.next()->blank());
    const auto long_line = reader.next();
    EXPECT_EQ(long_line->text, text);
    EXPECT_EQ(long_line->number, 3);
    EXPECT_FALSE(long_line->too_long);
    EXPECT_TRUE(long_line->complete);
    EXPECT_TRUE(reader.next()->blank());
    const auto last = reader.next();
    EXPECT_EQ(last->text, "end");
    EXPECT_FALSE(last->complete);
    EXPECT_FALSE(reader.next());
    EXPECT_FALSE(reader.next());
    reader.rewind();
  }
}

TEST_F(BatchFilesTest, ALineThatIsTooLongIsCut) {
  LineReader reader(file(std::string(LineReader::kMostBytes + 70'000, 'x') + "\nnext\n"));
  const auto line = reader.next();
  EXPECT_TRUE(line->too_long);
  EXPECT_EQ(line->text.size(), LineReader::kMostBytes);
  EXPECT_EQ(reader.next()->text, "next");
}

TEST_F(BatchFilesTest, FilesThatCantBeRead) {
  EXPECT_THAT(test::error_of([&] { LineReader{folder_ / "none"}; }),
              AllOf(HasSubstr("none: can't be opened"), HasSubstr("No such file")));
  EXPECT_THAT(test::error_of([&] { LineReader{folder_.path()}; }),
              HasSubstr("expected a regular file"));
  const auto pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(test::error_of([&] { LineReader{pipe}; }), HasSubstr("expected a regular file"));
}

TEST_F(BatchFilesTest, AnswersThatAreThere) {
  const auto path =
      file(answer(3, "c") +
           Json({{"line", 1}, {"custom_id", nullptr}, {"made_from", "3-4"}}).dump() + "\n");
  BatchOutput out(path);
  EXPECT_THAT(ids(out), ElementsAre(Pair(1, ""), Pair(3, "c")));
  EXPECT_EQ(out.answered().at(1).made_from, "3-4");
  out.write({{"line", 2}, {"custom_id", "b"}});
  const std::string text = read_file(path);
  EXPECT_TRUE(text.ends_with("{\"custom_id\":\"b\",\"line\":2}\n")) << text;
  EXPECT_THAT(test::error_of([&] { BatchOutput{path}; }), HasSubstr("another process writes it"));
}

TEST_F(BatchFilesTest, AHalfWrittenAnswerIsTakenAway) {
  const std::string first = answer(1, "a"), second = answer(2, "b");
  for (size_t bytes = 1; bytes < second.size(); ++bytes) {
    const auto path = file(first + second.substr(0, bytes));
    EXPECT_THAT(ids(BatchOutput(path)), ElementsAre(Pair(1, "a"))) << bytes;
    EXPECT_EQ(read_file(path), first);
  }
  const auto path = file(second.substr(0, 9));
  EXPECT_THAT(BatchOutput(path).answered(), IsEmpty());
  EXPECT_EQ(read_file(path), "");
}

TEST_F(BatchFilesTest, WhatIsNoAnswer) {
  EXPECT_THAT(refusal("notes\n"), HasSubstr("line 1: expected an answer of 'reprise batch'"));
  EXPECT_THAT(refusal("notes"), HasSubstr("line 1: expected an answer of 'reprise batch'"));
  EXPECT_THAT(refusal(answer(1, "a") + "\n"), HasSubstr("line 2: expected an answer"));
  EXPECT_THAT(refusal(answer(1, "a") + answer(1, "b")),
              HasSubstr("line 2: answers line 1 for the second time"));
  // A file of requests, whose one line isn't even ended.
  const std::string request = R"({"custom_id": "a", "method": "POST", "body": {}})";
  EXPECT_THAT(refusal(request), HasSubstr("expected an answer of 'reprise batch'"));
  const std::string tight = R"({"custom_id":"a","method":"POST"})";
  EXPECT_THAT(refusal(tight), HasSubstr("expected an answer of 'reprise batch'"));
  EXPECT_THAT(refusal(tight + "\n"), HasSubstr("key 'line': is missing"));
}

}  // namespace
}  // namespace reprise
