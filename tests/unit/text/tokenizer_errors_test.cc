// Damaged and hostile tokenizer files: each is an Error that names file and key.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "test_files.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/tokenizer_gguf.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::data_path;
using testing::error_of;
using ::testing::HasSubstr;
using testing::tokenizer_json;

// A tokenizer of bytes a, b and c with two merges.
Json tiny() {
  return parse_json(R"({
    "added_tokens": [{"id": 5, "content": "<x>", "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
              "merges": ["a b", "ab c"]}})",
                    "tiny");
}

TEST(TokenizerErrors, TinyIsFine) {
  const auto tokenizer = test::tokenizer_from_json(tiny(), nullptr, "tiny.json");
  EXPECT_EQ(tokenizer->encode("abcab<x>cz"), (std::vector<int32_t>{4, 3, 5, 2}));
  EXPECT_EQ(tokenizer->encode("<x>", {.parse_special = false}), (std::vector<int32_t>{}));
}

struct Change {
  const char* pointer;
  const char* value;  // "-": remove
  std::vector<std::string> expected;
};

TEST(TokenizerErrors, JsonChanges) {
  const std::vector<Change> changes = {
      {"/model", "-", {"'model'", "missing"}},
      {"/model/type", R"("WordPiece")", {"'model.type'", "WordPiece"}},
      {"/model/dropout", "0.5", {"'model.dropout'"}},
      {"/model/byte_fallback", "true", {"'model.byte_fallback'"}},
      {"/model/end_of_word_suffix", R"("</w>")", {"'model.end_of_word_suffix'", "</w>"}},
      {"/model/unk_token", R"("<unk>")", {"'model.unk_token'", "<unk>"}},
      {"/model/vocab", "-", {"'model.vocab'", "missing"}},
      {"/model/vocab", "[]", {"model.vocab", "object"}},
      {"/model/vocab/abc", "3", {"'model.vocab'", "'ab'", "'abc'", "same id 3"}},
      {"/model/vocab/abc", "-1", {"'model.vocab'", "'abc'", "-1"}},
      {"/model/vocab/abc", "2000000000", {"'model.vocab'", "'abc'", "2000000000"}},
      {"/model/vocab/abc",
       "18446744073709551615",
       {"'model.vocab'", "'abc'", "18446744073709551615"}},
      {"/model/vocab/abc", R"("4")", {"'model.vocab'", "'abc'", "\"4\""}},
      {"/model/vocab/abc", "1.5", {"'model.vocab'", "1.5"}},
      {"/model/vocab/a c", "6", {"'model.vocab'", "'a c'", "byte alphabet"}},
      {"/model/vocab/\u4e00", "6", {"'model.vocab'", "\u4e00", "byte alphabet"}},
      {"/model/merges", "-", {"'model.merges'"}},
      {"/model/merges", R"({"a": "b"})", {"'model.merges'", "array"}},
      {"/model/merges/0", R"("a z")", {"'model.merges'", "'a z'", "entry 0", "'model.vocab'"}},
      {"/model/merges/1", R"(["a", "c"])", {"'model.merges'", "entry 1", "'a c'", "ac"}},
      {"/model/merges/1", R"("abc")", {"'model.merges'", "entry 1", "'abc'"}},
      {"/model/merges/1", R"("a b c")", {"'model.merges'", "entry 1", "'a b c'"}},
      {"/model/merges/1", R"("a ")", {"'model.merges'", "entry 1"}},
      {"/model/merges/1", R"(["a"])", {"'model.merges'", "entry 1", "[\"a\"]"}},
      {"/model/merges/1", "7", {"'model.merges'", "entry 1", "7"}},
      {"/added_tokens", "{}", {"'added_tokens'", "array"}},
      {"/added_tokens/0", "3", {"added_tokens[0]", "object"}},
      {"/added_tokens/0/id", "-", {"'added_tokens[0].id'", "missing"}},
      {"/added_tokens/0/id", "-2", {"'added_tokens[0].id'", "-2"}},
      {"/added_tokens/0/id", "100000000", {"<x>", "100000000", "out of range"}},
      {"/added_tokens/0/id", "3", {"<x>", "id 3", "'ab'"}},
      {"/added_tokens/0/content", R"("")", {"added token 5", "0 bytes"}},
      {"/added_tokens/1", R"({"id": 5, "content": "<y>"})", {"<x>", "<y>", "same id 5"}},
      {"/added_tokens/1", R"({"id": 6, "content": "<x>"})", {"<x>", "twice"}},
      {"/normalizer", R"({"type": "Lowercase"})", {"'normalizer.type'", "Lowercase", "NFC"}},
      {"/normalizer",
       R"({"type": "Sequence", "normalizers": [{"type": "NFKC"}]})",
       {"'normalizer.normalizers[0].type'", "NFKC"}},
      {"/pre_tokenizer", "null", {"'pre_tokenizer'", "none", "ByteLevel"}},
      {"/pre_tokenizer", R"({"type": "Whitespace"})", {"Whitespace", "known are ByteLevel"}},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": []})", {"empty Sequence"}},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"}]})",
       {"pretokenizers[0].type", "Digits"}},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Bert"}, {"type": "ByteLevel"}]})",
       {"pretokenizers[0].type", "Bert", "known are"}},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "a"},
           "behavior": "MergedWithNext"}, {"type": "ByteLevel"}]})",
       {"pretokenizers[0].behavior", "MergedWithNext"}},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a"},
           "behavior": "Isolated"}, {"type": "ByteLevel"}]})",
       {"'(a'", "does not compile"}},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {}, "behavior": "Isolated"},
           {"type": "ByteLevel"}]})",
       {"pretokenizers[0].pattern.String", "missing"}},
      {"/post_processor",
       R"({"type": "BertProcessing"})",
       {"'post_processor.type'", "BertProcessing"}},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "special_tokens": {},
        "single": [{"SpecialToken": {"id": "<s>"}}]})",
       {"special_tokens.<s>", "missing"}},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": [99]}},
        "single": [{"SpecialToken": {"id": "<s>"}}]})",
       {"post-processor", "99"}},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "special_tokens": {"<s>": {"ids": ["1"]}},
        "single": [{"SpecialToken": {"id": "<s>"}}]})",
       {"special_tokens.<s>", "ids"}},
      {"/decoder", R"({"type": "Metaspace"})", {"'decoder.type'", "Metaspace"}},
  };
  for (const Change& change : changes) {
    Json json = tiny();
    const Json::json_pointer pointer{std::string(change.pointer)};
    if (std::string(change.value) == "-")
      json[pointer.parent_pointer()].erase(pointer.back());
    else
      json[pointer] = parse_json(change.value, "test");
    const std::string message =
        error_of([&] { test::tokenizer_from_json(json, nullptr, "dir/tokenizer.json"); });
    EXPECT_THAT(message, HasSubstr("dir/tokenizer.json"))
        << change.pointer << " = " << change.value;
    for (const std::string& part : change.expected)
      EXPECT_THAT(message, HasSubstr(part)) << change.pointer << " = " << change.value;
  }
}

TEST(TokenizerErrors, ConfigBesideTokenizerJson) {
  const auto message = [](const char* text) {
    const Json config = parse_json(text, "c");
    return error_of([&] { test::tokenizer_from_json(tiny(), &config, "t.json"); });
  };
  EXPECT_EQ(message(R"({"eos_token": "<new>"})"), "");
  EXPECT_THAT(
      message(R"({"added_tokens_decoder": {"700": {"content": "<new>", "special": true}}})"),
      AllOf(HasSubstr("t.json"), HasSubstr("added_tokens_decoder.700"), HasSubstr("<new>"),
            HasSubstr("expected 700")));
  EXPECT_THAT(message(R"({"split_special_tokens": true})"), HasSubstr("split_special_tokens"));
  EXPECT_THAT(message(R"({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true})"),
              HasSubstr("add_bos_token"));
  const Json list = parse_json(R"({"chat_template": [{"name": "rag", "template": "x"}]})", "c");
  EXPECT_THAT(error_of([&] { test::tokenizer_from_json(tiny(), &list, "t.json"); }),
              AllOf(HasSubstr("chat_template"), HasSubstr("default")));
}

TEST(TokenizerErrors, EveryTruncationOfAFile) {
  const std::string text = tiny().dump();
  for (size_t n = 0; n < text.size(); ++n)
    EXPECT_THAT(error_of([&] {
                  test::tokenizer_from_json(parse_json(text.substr(0, n), "cut.json"), nullptr,
                                            "cut.json");
                }),
                HasSubstr("cut.json"))
        << n;
}

// Any one value replaced by one of another type: an Error or a working tokenizer, never more.
TEST(TokenizerErrors, EveryValueReplaced) {
  const Json flat = tokenizer_json("variants").flatten();
  const Json original = tokenizer_json("variants");
  size_t errors = 0, tried = 0, position = 0;
  for (const auto& [pointer, value] : flat.items()) {
    const bool table =
        pointer.starts_with("/model/vocab/") || pointer.starts_with("/model/merges/");
    if (table && ++position % 50 != 0) continue;
    for (const char* other :
         {"null", "-1", "3", "1e300", "true", R"("")", R"("\ud83d\ude42 x")", "[]", "{}"}) {
      Json json = original;
      json[Json::json_pointer(pointer)] = parse_json(other, "test");
      ++tried;
      const std::string message = error_of([&] {
        const auto tokenizer = test::tokenizer_from_json(json, nullptr, "file.json");
        tokenizer->decode(tokenizer->encode("Some text, <s> 123\n\xff"));
      });
      if (message.empty()) continue;
      ++errors;
      EXPECT_THAT(message, HasSubstr("file.json")) << pointer << " = " << other;
    }
  }
  EXPECT_GT(errors, tried / 2);
}

TEST(TokenizerErrors, Folder) {
  const auto folder = std::filesystem::temp_directory_path() / "reprise_text_folder_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  EXPECT_THAT(error_of([&] { tokenizer_from_model(folder); }), HasSubstr("tokenizer.json"));
  write_file_atomically(folder / "tokenizer.json", tiny().dump());
  EXPECT_FALSE(tokenizer_from_model(folder)->chat_template());
  write_file_atomically(folder / "tokenizer_config.json",
                        R"({"eos_token": "<x>", "chat_template": "old"})");
  EXPECT_EQ(tokenizer_from_model(folder)->chat_template(), "old");
  write_file_atomically(folder / "chat_template.jinja", "new");
  EXPECT_EQ(tokenizer_from_model(folder)->chat_template(), "new");
  EXPECT_EQ(tokenizer_from_model(folder)->ids().eos, 5);
  write_file_atomically(folder / "tokenizer_config.json", R"({"eos_)");
  EXPECT_THAT(error_of([&] { tokenizer_from_model(folder); }), HasSubstr("tokenizer_config.json"));
  std::filesystem::remove_all(folder);
}

TEST(TokenizerErrors, IdsOutsideTheVocabulary) {
  const auto tokenizer = test::tokenizer_from_json(tiny(), nullptr, "tiny.json");
  for (const int32_t id : {-1, 6, INT32_MAX, INT32_MIN}) {
    EXPECT_THAT(error_of([&] { tokenizer->decode(std::vector<int32_t>{id}); }),
                AllOf(HasSubstr("tiny.json"), HasSubstr(std::to_string(id)), HasSubstr("6")));
    EXPECT_THROW(tokenizer->is_special(id), Error);
  }
}

TEST(PreTokenizer, RefusesWhatOnigurumaReadsDifferently) {
  for (const char* pattern :
       {R"(\h+)", R"([\w])", R"([a[bc]])", R"([a-z&&b])", R"([]a])", "(*UCP)a", R"(\R)"})
    EXPECT_THAT(error_of([&] {
                  PreTokenizer({{SplitStep::Kind::Pattern, pattern, false}}, "f");
                }),
                AllOf(HasSubstr("f: "), HasSubstr("not supported"), HasSubstr(pattern)));
}

TEST(PreTokenizer, RunawayPatternsStop) {
  const PreTokenizer splitter({{SplitStep::Kind::Pattern, "(a+)+$", false}}, "f");
  std::deque<std::string> storage;
  const std::string text = std::string(100, 'a') + "b";
  EXPECT_THAT(error_of([&] { splitter.split(text, storage); }),
              AllOf(HasSubstr("f: "), HasSubstr("limit")));
}

TEST(PreTokenizer, EmptyMatchesAreNoCuts) {
  const PreTokenizer splitter({{SplitStep::Kind::Pattern, "x*", false}}, "f");
  std::deque<std::string> storage;
  EXPECT_THAT(splitter.split("a\u00e9xxb", storage), ::testing::ElementsAre("a\u00e9", "xx", "b"));
}

GgufMetadata tiny_gguf() {
  GgufMetadata metadata("tiny.gguf");
  write_tokenizer(spec_from_json(tiny(), "tiny"), 0, metadata);
  return metadata;
}

TEST(TokenizerErrors, Gguf) {
  EXPECT_EQ(tokenizer_from_gguf(tiny_gguf())->encode("abcab<x>c"),
            (std::vector<int32_t>{4, 3, 5, 2}));
  struct GgufChange {
    const char* key;
    GgufValue value;
    std::vector<std::string> expected;
  };
  using Strings = std::vector<std::string>;
  using Ints = std::vector<int32_t>;
  const std::vector<GgufChange> changes = {
      {"tokenizer.ggml.model", std::string("llama"), {"llama", "gpt2"}},
      {"tokenizer.ggml.model", uint32_t{3}, {"string"}},
      {"tokenizer.ggml.pre", std::string("nope"), {"nope", "gpt-2, ", "smollm"}},
      {"tokenizer.ggml.tokens", GgufArray{Strings{"a", "b", "c"}}, {}},
      {"tokenizer.ggml.tokens", GgufArray{Strings{"a", "b", "c", "ab", "", "<x>"}}, {"token 4"}},
      {"tokenizer.ggml.tokens",
       GgufArray{Strings{"a", "b", "c", "ab", "abc\xff", "<x>"}},
       {"token 4", "alphabet"}},
      {"tokenizer.ggml.tokens",
       GgufArray{Strings{"a", "b", "c", "ab", "ab", "<x>"}},
       {"3 and 4", "'ab'"}},
      {"tokenizer.ggml.token_type", GgufArray{Ints{1, 1, 1}}, {"6", "3"}},
      {"tokenizer.ggml.token_type", GgufArray{Ints{1, 1, 1, 1, 6, 3}}, {"token 4", "6"}},
      {"tokenizer.ggml.token_type", GgufArray{Ints{1, 1, 3, 1, 1, 3}}, {"merges", "ab c"}},
      {"tokenizer.ggml.merges", GgufArray{Strings{"a b", "b q"}}, {"entry 1", "'b q'"}},
      {"tokenizer.ggml.merges", GgufArray{Strings{"a b", "b\xff q"}}, {"entry 1"}},
      {"tokenizer.ggml.eos_token_id", uint32_t{6}, {"6"}},
      {"tokenizer.ggml.bos_token_id", int32_t{-1}, {"-1"}},
      {"tokenizer.ggml.add_bos_token", true, {"bos_token_id"}},
      {"tokenizer.chat_template", uint32_t{1}, {"string"}},
  };
  for (const GgufChange& change : changes) {
    GgufMetadata metadata = tiny_gguf();
    metadata.set(change.key, change.value);
    const std::string message = error_of([&] { tokenizer_from_gguf(metadata); });
    EXPECT_THAT(message, HasSubstr("tiny.gguf")) << change.key;
    EXPECT_THAT(message, HasSubstr("tokenizer.")) << change.key;
    for (const std::string& part : change.expected) EXPECT_THAT(message, HasSubstr(part));
  }
  GgufMetadata no_pre("tiny.gguf");
  const GgufMetadata whole = tiny_gguf();
  for (const auto& [key, value] : whole.entries())
    if (key != "tokenizer.ggml.pre") no_pre.set(key, value);
  EXPECT_THAT(error_of([&] { tokenizer_from_gguf(no_pre); }),
              AllOf(HasSubstr("tokenizer.ggml.pre"), HasSubstr("qwen2")));
}

TEST(TokenizerErrors, WhatGgufCannotHold) {
  GgufMetadata metadata;
  EXPECT_THAT(error_of([&] {
                write_tokenizer(spec_from_json(tokenizer_json("gpt2"), "gpt2"), 0, metadata);
              }),
              HasSubstr("<mask>"));
  EXPECT_THAT(error_of([&] {
                write_tokenizer(spec_from_json(tokenizer_json("variants"), "v"), 0, metadata);
              }),
              HasSubstr("qwen2"));
}

}  // namespace
}  // namespace reprise
