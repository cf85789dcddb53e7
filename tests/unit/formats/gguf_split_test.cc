// Models in several files, as llama.cpp's gguf-split writes them.
#include <gmock/gmock.h>

#include <functional>

#include "formats/gguf.h"
#include "formats/gguf_writer.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Change = std::function<void(GgufMetadata&)>;

// Three parts m-0000X-of-00003.gguf with tensors a; none; b and c.
class GgufSplit : public ::testing::Test {
 protected:
  static constexpr int kCount = 3;

  GgufSplit() {
    for (int no = 0; no < kCount; ++no) write(no);
  }
  std::filesystem::path part(int no, const std::string& stem = "m") const {
    return folder_ / fmt::format("{}-{:05}-of-{:05}.gguf", stem, no + 1, kCount);
  }
  void write(int no, const Change& change = {}, std::vector<std::string> tensors = {}) {
    GgufMetadata metadata;
    if (no == 0) {
      metadata.set("general.architecture", std::string("llama"));
      metadata.set("llama.block_count", GgufValue(uint32_t{7}));
    } else {
      metadata.set("llama.block_count", GgufValue(uint32_t{8}));  // the first part's counts
    }
    metadata.set("split.no", GgufValue(static_cast<uint16_t>(no)));
    metadata.set("split.count", GgufValue(uint16_t{kCount}));
    metadata.set("split.tensors.count", GgufValue(int32_t{3}));
    if (change) change(metadata);
    if (tensors.empty() && no != 1) tensors = no == 0 ? std::vector<std::string>{"a"} : bc_;
    std::vector<GgufTensor> list;
    for (const std::string& name : tensors) {
      const std::vector<float> values(4, static_cast<float>(name[0]));
      list.push_back({make_view(name, {4}, values), DType::F32});
    }
    write_gguf(part(no), metadata, list);
  }
  std::string error(int no = 0) const {
    return error_of([&] { open_gguf(part(no)); });
  }
  static Change set(const char* key, GgufValue value) {
    return [=](GgufMetadata& metadata) { metadata.set(key, value); };
  }

  const std::vector<std::string> bc_ = {"b", "c"};
  TempFolder folder_;
};

TEST_F(GgufSplit, IsOpenedByItsFirstPart) {
  const GgufFile file = open_gguf(part(0));
  EXPECT_THAT(names_of(file.weights), ElementsAre("a", "b", "c"));
  for (const char* name : {"a", "b", "c"}) {
    EXPECT_EQ(to_floats(file.weights.get(name)), std::vector<float>(4, name[0]));
    EXPECT_EQ(file.weights.get(name).file->path(), part(*name == 'a' ? 0 : 2));
  }
  EXPECT_EQ(file.metadata.get_int("llama.block_count"), 7);
  EXPECT_EQ(file.metadata.where(), part(0).string());
  EXPECT_THAT(file.parts, ElementsAre(part(0), part(1), part(2)));
  // Nothing is left that would be wrong in a whole file.
  for (const auto& [key, value] : file.metadata.entries())
    EXPECT_FALSE(key.starts_with("split.")) << key;
}

TEST_F(GgufSplit, ReadsPartsOfThePythonPackage) {
  const std::string name = "m-00001-of-00002.gguf";
  const GgufFile file = open_gguf(test::data_dir() / "cases/gguf-split" / name);
  EXPECT_EQ(file.weights.tensors().size(), 12u);
  EXPECT_EQ(file.weights.get("blk.0.attn_q.weight").shape, (Shape{16, 16}));
  EXPECT_EQ(file.metadata.get_int("llama.block_count"), 1);
}

TEST_F(GgufSplit, AWholeFileHasOnePart) {
  const GgufFile file = open_gguf(data_path("small.gguf"));
  EXPECT_THAT(file.parts, ElementsAre(data_path("small.gguf")));
  for (const uint16_t count : {uint16_t{0}, uint16_t{1}}) {  // what gguf-split --merge leaves
    write(0, set("split.count", GgufValue(count)));
    EXPECT_THAT(names_of(open_gguf(part(0)).weights), ElementsAre("a"));
  }
}

TEST_F(GgufSplit, AnotherPartNamesTheFirst) {
  EXPECT_THAT(error(2), AllOf(HasSubstr(part(2).string() + ": key 'split.no'"),
                              HasSubstr("part 3 of 3"), HasSubstr("m-00001-of-00003.gguf")));
  std::filesystem::rename(part(2), folder_ / "other.gguf");
  EXPECT_THAT(error_of([&] { open_gguf(folder_ / "other.gguf"); }),
              AllOf(HasSubstr("'split.no'"), HasSubstr("NAME-00001-of-00003.gguf")));
}

TEST_F(GgufSplit, AFirstPartUnderAnotherNameCanNotBeFollowed) {
  for (const char* name : {"m.gguf", "m-00001-of-00002.gguf", "-00001-of-00003.gguf"}) {
    std::filesystem::copy(part(0), folder_ / name);
    EXPECT_THAT(error_of([&] { open_gguf(folder_ / name); }),
                AllOf(HasSubstr(std::string(name) + ": key 'split.count'"),
                      HasSubstr("NAME-00001-of-00003.gguf")))
        << name;
  }
}

TEST_F(GgufSplit, MissingPartsAreNamed) {
  std::filesystem::remove(part(1));
  EXPECT_THAT(error(), AllOf(HasSubstr(part(0).string() + ": key 'split.count'"),
                             HasSubstr("expected 3 parts"), HasSubstr(part(1).string())));
  std::filesystem::remove(part(2));
  EXPECT_THAT(error(), AllOf(HasSubstr(part(1).string() + " is missing, and 1 more")));
}

TEST_F(GgufSplit, PartsOfAnotherModelAreRefused) {
  const auto expect = [&](const char* key, GgufValue value, const char* expected) {
    write(1, set(key, std::move(value)));
    EXPECT_THAT(error(), AllOf(HasSubstr(part(1).string() + ": key '" + key + "'"),
                               HasSubstr(expected), HasSubstr(part(0).string())));
    write(1);
  };
  expect("split.no", GgufValue(uint16_t{2}), "expected 1");
  expect("split.count", GgufValue(uint16_t{4}), "expected 3");
  expect("split.tensors.count", GgufValue(int32_t{4}), "expected 3");
  expect("general.architecture", GgufValue(std::string("qwen2")), "expected 'llama'");
  EXPECT_EQ(error(), "");

  write_gguf(part(1), GgufMetadata(), std::vector<GgufTensor>{});  // no part of anything
  EXPECT_THAT(error(), AllOf(HasSubstr(part(1).string() + ": key 'split.no'"),
                             HasSubstr("expected 1"), HasSubstr("no such key")));
  folder_.write(part(1).filename().string(), "no GGUF");
  EXPECT_THAT(error(), AllOf(HasSubstr(part(1).string()), HasSubstr("not a GGUF file")));
}

TEST_F(GgufSplit, CountsOfTensorsMustAddUp) {
  write(2, {}, {"b"});
  EXPECT_THAT(error(), AllOf(HasSubstr(part(0).string() + ": key 'split.tensors.count'"),
                             HasSubstr("expected 2"), HasSubstr("found 3")));
  write(2, {}, {"b", "a"});
  EXPECT_THAT(error(),
              AllOf(HasSubstr(part(2).string() + ": tensor 'a'"), HasSubstr(part(0).string())));
  write(2);
  write(0, set("split.tensors.count", GgufValue(std::string("3"))));
  EXPECT_THAT(error(), AllOf(HasSubstr(part(0).string() + ": key 'split.tensors.count'"),
                             HasSubstr("expected an integer")));
}

}  // namespace
}  // namespace reprise
