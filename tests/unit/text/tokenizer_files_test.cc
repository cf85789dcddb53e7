#include "text/tokenizer/tokenizer_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;
using testing::temp_folder;

TokenizerFiles some_files() {
  TokenizerFiles files;
  files.contents["tokenizer.json"] = testing::tokenizer_json("gpt2").dump();
  files.contents["tokenizer_config.json"] = R"({"eos_token": "<|endoftext|>"})";
  files.contents["tokenizer.model"] = std::string("\x0a\x00\xff\x80", 4);
  return files;
}

TEST(TokenizerFiles, ThroughAGgufFileAndBackToAFolder) {
  const auto folder = temp_folder("tokenizer_files");
  GgufMetadata metadata("m.gguf");
  metadata.set("general.architecture", GgufValue(std::string("reprise")));
  store_tokenizer_files(some_files(), metadata);
  write_gguf(folder / "m.gguf", metadata, {});
  const GgufFile file = open_gguf(folder / "m.gguf");
  const TokenizerFiles read = tokenizer_files_from_gguf(file.metadata);
  EXPECT_EQ(read.contents, some_files().contents);
  EXPECT_TRUE(read.has_vocabulary());
  test::write_tokenizer_files(read, folder);
  EXPECT_EQ(tokenizer_files_from_folder(folder).contents, some_files().contents);
  // The same tokenizer from either.
  const auto from_gguf = tokenizer_from_model(folder / "m.gguf");
  const auto from_folder = tokenizer_from_model(folder);
  EXPECT_EQ(from_gguf->encode("Hello world<|endoftext|>"),
            from_folder->encode("Hello world<|endoftext|>"));
  EXPECT_EQ(from_gguf->ids().eos, from_folder->ids().eos);
  EXPECT_TRUE(from_gguf->ids().eos);
}

TEST(TokenizerFiles, OldKey) {
  GgufMetadata metadata("m.gguf");
  metadata.set("reprise.tokenizer_json", GgufValue(testing::tokenizer_json("gpt2").dump()));
  EXPECT_EQ(tokenizer_from_gguf_or_files(metadata)->encode("Hi"),
            testing::load_tokenizer("gpt2")->encode("Hi"));
  metadata.set("reprise.tokenizer_json", GgufValue(std::string("{")));
  EXPECT_THAT(error_of([&] { tokenizer_from_gguf_or_files(metadata); }),
              AllOf(HasSubstr("m.gguf"), HasSubstr("reprise.tokenizer_json")));
}

TEST(TokenizerFiles, ErrorsNameTheFile) {
  GgufMetadata metadata("m.gguf");
  metadata.set("reprise.files.tokenizer.json", GgufValue(uint32_t{1}));
  EXPECT_THAT(error_of([&] { tokenizer_files_from_gguf(metadata); }),
              AllOf(HasSubstr("m.gguf"), HasSubstr("reprise.files.tokenizer.json"),
                    HasSubstr("array of u8"), HasSubstr("u32")));
  metadata.set("reprise.files.tokenizer.json", GgufValue(std::string("[]")));
  EXPECT_THAT(error_of([&] { tokenizer_from_gguf_or_files(metadata); }),
              HasSubstr("m.gguf: key 'reprise.files.tokenizer.json'"));
  EXPECT_THAT(error_of([&] { tokenizer_from_model("/nowhere/at/all"); }),
              AllOf(HasSubstr("/nowhere/at/all"), HasSubstr("no such file")));
}

}  // namespace
}  // namespace reprise
