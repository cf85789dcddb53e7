// The same ids and the same text as the `tokenizers` package, for six small tokenizers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <thread>

#include "base/json.h"
#include "test_files.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/tokenizer_gguf.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using testing::data_path;
using ::testing::ElementsAreArray;
using testing::load_tokenizer;
using testing::tokenizer_json;
using Ids = std::vector<int32_t>;

class TokenizerParity : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    tokenizer_ = load_tokenizer(GetParam());
    cases_ = load_json(data_path(std::string(GetParam()) + ".cases.json"));
    ASSERT_GT(cases_.size(), 100u);
  }
  std::unique_ptr<Tokenizer> tokenizer_;
  Json cases_;
};

TEST_P(TokenizerParity, SameIds) {
  for (const Json& c : cases_) {
    const auto text = c["text"].get<std::string>();
    const auto ids = c["ids"].get<Ids>();
    EXPECT_THAT(tokenizer_->encode(text), ElementsAreArray(ids)) << "text: " << c["text"];
    EXPECT_THAT(tokenizer_->encode(text, {.parse_special = false}),
                ElementsAreArray(c.value("plain", ids)))
        << "plain text: " << c["text"];
  }
}

TEST_P(TokenizerParity, SameSpecialTokensAround) {
  for (const Json& c : cases_) {
    const Ids ids = tokenizer_->encode(c["text"].get<std::string>(), {.add_special = true});
    if (!c.contains("with_special")) {
      EXPECT_EQ(ids, c["ids"].get<Ids>());
      continue;
    }
    ASSERT_EQ(ids.size(), c["with_special"][2].get<size_t>());
    const Ids first = c["with_special"][0].get<Ids>(), last = c["with_special"][1].get<Ids>();
    EXPECT_EQ(Ids(ids.begin(), ids.begin() + static_cast<long>(first.size())), first);
    EXPECT_EQ(Ids(ids.end() - static_cast<long>(last.size()), ids.end()), last);
  }
}

TEST_P(TokenizerParity, SameTextBack) {
  size_t compared = 0;
  for (const Json& c : cases_) {
    const auto ids = c["ids"].get<Ids>();
    const auto text = c["text"].get<std::string>();
    if (text.find("Caf") != std::string::npos) continue;  // see make.py
    const auto decoded = c.value("decoded", text);
    EXPECT_EQ(tokenizer_->decode(ids), decoded);
    EXPECT_EQ(tokenizer_->decode(ids, true), c.value("skipped", decoded));
    ++compared;
  }
  EXPECT_GT(compared, 100u);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerParity,
                         ::testing::Values("gpt2", "qwen2", "llama3", "smollm2", "variants",
                                           "neox"),
                         [](const auto& info) { return std::string(info.param); });

// Every text a tokenizer with all 256 bytes and no normalizer reads comes back as it was.
TEST(Tokenizer, RoundTrip) {
  for (const char* name : {"gpt2", "llama3"}) {
    const auto tokenizer = load_tokenizer(name);
    for (const Json& c : load_json(data_path(std::string(name) + ".cases.json"))) {
      const auto text = c["text"].get<std::string>();
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, {.parse_special = false})), text);
    }
  }
}

TEST(Tokenizer, IgnoreMergesFindsWordsThatNoMergeMakes) {
  Json json = tokenizer_json("llama3");
  const auto with = test::tokenizer_from_json(json, nullptr, "x");
  json["model"]["ignore_merges"] = false;
  const auto without = test::tokenizer_from_json(json, nullptr, "x");
  size_t differ = 0;
  for (const Json& c : load_json(data_path("llama3.cases.json"))) {
    const auto text = c["text"].get<std::string>();
    differ += with->encode(text) != without->encode(text);
  }
  EXPECT_GT(differ, 5u);
}

TEST(Tokenizer, FindAndSpecials) {
  const auto tokenizer = load_tokenizer("qwen2");
  const auto id = tokenizer->find("<|im_end|>");
  ASSERT_TRUE(id);
  EXPECT_TRUE(tokenizer->is_special(*id));
  EXPECT_EQ(tokenizer->token_bytes(*id), "<|im_end|>");
  const auto tool = tokenizer->find("<tool>");
  ASSERT_TRUE(tool);
  EXPECT_FALSE(tokenizer->is_special(*tool));
  const auto the = tokenizer->find("\u0120the");
  ASSERT_TRUE(the);
  EXPECT_EQ(tokenizer->token_bytes(*the), " the");
  EXPECT_FALSE(tokenizer->find("no such token"));
  EXPECT_FALSE(tokenizer->find(""));
  EXPECT_FALSE(tokenizer->find(" the"));  // not how the file writes it
  EXPECT_EQ(tokenizer->vocab_size(), 1006);
}

TEST(Tokenizer, RolesAndTemplateFromConfig) {
  const Json config = parse_json(R"({"bos_token": null, "eos_token": {"content": "<|im_end|>"},
      "pad_token": "<|endoftext|>", "chat_template": [{"name": "tools", "template": "x"},
      {"name": "default", "template": "{{ y }}"}]})",
                                 "config");
  const auto tokenizer = test::tokenizer_from_json(tokenizer_json("qwen2"), &config, "qwen2");
  EXPECT_FALSE(tokenizer->ids().bos);
  EXPECT_EQ(tokenizer->ids().eos, tokenizer->find("<|im_end|>"));
  EXPECT_EQ(tokenizer->ids().pad, tokenizer->find("<|endoftext|>"));
  EXPECT_EQ(tokenizer->chat_template(), "{{ y }}");
}

TEST(Tokenizer, LongWordsAreNotQuadratic) {
  // 1 MB without a place to cut, and 1 MB that is all one kind of white space.
  const auto tokenizer = load_tokenizer("qwen2");
  std::string word;
  for (int i = 0; i < (1 << 20); ++i) word += static_cast<char>('a' + (i * 7 + i / 3) % 26);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(word)), word);
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(spaces + "x")), spaces + "x");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(spaces + "\n" + spaces)), spaces + "\n" + spaces);
  // A run of combining marks in the wrong order, which NFC must sort.
  std::string marks = "a";
  for (int i = 0; i < 100000; ++i) marks += i % 2 ? "\u0323" : "\u0301";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(marks)), normalize_nfc(marks));
  std::string brackets;
  for (int i = 0; i < 100000; ++i) brackets += "<|im_";
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(brackets)), brackets);
}

TEST(Tokenizer, ManyThreadsAtOnce) {
  const auto tokenizer = load_tokenizer("gpt2");
  const Json cases = load_json(data_path("gpt2.cases.json"));
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (const Json& c : cases)
        wrong += tokenizer->encode(c["text"].get<std::string>()) != c["ids"].get<Ids>();
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = load_tokenizer("gpt2");
  EXPECT_EQ(tokenizer->encode("a\xff\xe4\xb8 b\xc0"), tokenizer->encode("a\ufffd\ufffd b\ufffd"));
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), to_valid_utf8(all));
}

TEST(TokenizerGguf, NamedPreTokenizersCutAsPublishedPatterns) {
  const Json data = load_json(data_path("pre_tokenizers.json"));
  ASSERT_GE(data["pieces"].size(), 5u);
  for (const auto& [name, pieces] : data["pieces"].items()) {
    const NamedPreTokenizer* named = find_pre_tokenizer(name);
    ASSERT_TRUE(named) << name;
    const PreTokenizer splitter(named->splits, name);
    for (size_t i = 0; i < data["texts"].size(); ++i) {
      std::deque<std::string> storage;
      const std::string text = data["texts"][i];
      const auto found = splitter.split(text, storage);
      EXPECT_EQ(std::vector<std::string>(found.begin(), found.end()),
                pieces[i].get<std::vector<std::string>>())
          << name << ": " << data["texts"][i];
    }
  }
}

// Files of llama.cpp may leave the switch out: what it means follows from the pre-tokenizer.
TEST(TokenizerGguf, BosWhereTheSwitchIsMissing) {
  TokenizerSpec spec = spec_from_json(tokenizer_json("gpt2"), "gpt2");
  std::erase_if(spec.added, [](const AddedToken& token) { return token.text != "<|endoftext|>"; });
  spec.ids.bos = 0;
  GgufMetadata whole("m.gguf");
  write_tokenizer(spec, 0, whole);
  const auto first = [&](const char* pre, std::optional<bool> said) {
    GgufMetadata metadata("m.gguf");
    for (const auto& [key, value] : whole.entries())
      if (key != "tokenizer.ggml.add_bos_token") metadata.set(key, value);
    metadata.set("tokenizer.ggml.pre", GgufValue(std::string(pre)));
    if (said) metadata.set("tokenizer.ggml.add_bos_token", GgufValue(*said));
    return tokenizer_from_gguf(metadata)->encode("he", {.add_special = true}).front() == 0;
  };
  for (const char* pre : {"llama-bpe", "llama3", "pixtral", "tekken"}) {
    EXPECT_TRUE(first(pre, {})) << pre;
    EXPECT_FALSE(first(pre, false)) << pre;
  }
  for (const char* pre : {"gpt-2", "qwen2", "gpt-4o", "smollm"}) {
    EXPECT_FALSE(first(pre, {})) << pre;
    EXPECT_TRUE(first(pre, true)) << pre;
  }
}

TEST(TokenizerGguf, RoundTripThroughMetadata) {
  for (const char* name : {"qwen2", "llama3", "smollm2", "neox"}) {
    TokenizerSpec spec = spec_from_json(tokenizer_json(name), name);
    std::erase_if(spec.added, [](const AddedToken& t) { return t.normalized && t.special; });
    if (std::string(name) == "qwen2") spec.added.pop_back();  // GGUF has no normalized tokens
    spec.ids.bos = spec.prefix.empty() ? std::nullopt : std::optional(spec.prefix[0]);
    spec.chat_template = "{{ x }}";
    GgufMetadata metadata("model.gguf");
    write_tokenizer(spec, 1100, metadata);
    const auto direct = make_tokenizer(spec);
    const auto read = tokenizer_from_gguf(metadata);
    EXPECT_EQ(read->vocab_size(), 1100);
    EXPECT_EQ(read->chat_template(), "{{ x }}");
    EXPECT_EQ(read->ids().bos, direct->ids().bos);
    EXPECT_EQ(read->token_bytes(1099), "");
    for (int32_t id = 0; id < direct->vocab_size(); ++id) {
      EXPECT_EQ(read->token_bytes(id), direct->token_bytes(id));
      EXPECT_EQ(read->is_special(id), direct->is_special(id));
    }
    for (const Json& c : load_json(data_path(std::string(name) + ".cases.json"))) {
      const auto text = c["text"].get<std::string>();
      for (const EncodeOptions& options : {EncodeOptions{}, EncodeOptions{.parse_special = false},
                                           EncodeOptions{.add_special = true}})
        EXPECT_EQ(read->encode(text, options), direct->encode(text, options)) << name << c["text"];
    }
  }
}

}  // namespace
}  // namespace reprise
