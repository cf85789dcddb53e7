// Damaged and hostile tokenizer.model files, contradictory folders, GGUF vocabularies of llama.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "test_files.h"
#include "text/tokenizer/sentencepiece_model.h"
#include "text/tokenizer/tokenizer_files.h"
#include "text/tokenizer/tokenizer_sentencepiece.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::data_path;
using testing::error_of;
using ::testing::HasSubstr;
using Type = SentencePieceModel::Type;

std::string model_bytes(const char* name = "spm-bpe.model") { return read_file(data_path(name)); }

TokenizerFiles folder_with(const std::string& model, const std::string& config = "") {
  TokenizerFiles files;
  files.where = "dir";
  files.before_name = "dir/";
  files.contents["tokenizer.model"] = model;
  if (!config.empty()) files.contents["tokenizer_config.json"] = config;
  return files;
}

// Empty, or the message, which must name the file.
std::string use(const std::string& model) {
  const std::string message = error_of([&] {
    const auto tokenizer = tokenizer_from_files(folder_with(model));
    tokenizer->decode(tokenizer->encode("Some  text \ufb01\uff21e\u0301 \xff 123\n"));
  });
  if (!message.empty()) {
    EXPECT_THAT(message, HasSubstr("dir/tokenizer.model"));
  }
  return message;
}

TEST(SentencePieceModel, WritesWhatItReads) {
  for (const char* name : {"spm-bpe.model", "spm-unigram.model"}) {
    const SentencePieceModel model = read_sentencepiece_model(model_bytes(name), name);
    const SentencePieceModel again =
        read_sentencepiece_model(write_sentencepiece_model(model, name), name);
    ASSERT_EQ(again.pieces.size(), model.pieces.size());
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      EXPECT_EQ(again.pieces[i].text, model.pieces[i].text);
      EXPECT_EQ(again.pieces[i].score, model.pieces[i].score);
      EXPECT_EQ(again.pieces[i].type, model.pieces[i].type);
    }
    EXPECT_EQ(again.algorithm, model.algorithm);
    EXPECT_EQ(again.byte_fallback, model.byte_fallback);
    EXPECT_EQ(again.add_dummy_prefix, model.add_dummy_prefix);
    EXPECT_EQ(again.remove_extra_whitespaces, model.remove_extra_whitespaces);
    EXPECT_EQ(again.precompiled_charsmap, model.precompiled_charsmap);
  }
  EXPECT_FALSE(
      read_sentencepiece_model(model_bytes("spm-unigram.model"), "x").precompiled_charsmap.empty());
}

TEST(SentencePieceErrors, EveryTruncation) {
  for (const char* name : {"spm-bpe.model", "spm-unigram.model"}) {
    const std::string bytes = model_bytes(name);
    size_t errors = 0, tried = 0;
    for (size_t n = 0; n < bytes.size(); n += 7, ++tried) errors += use(bytes.substr(0, n)) != "";
    EXPECT_GT(errors, tried - tried / 4) << name;
  }
}

// One byte replaced, all over the file: an Error or a working tokenizer, never more.
TEST(SentencePieceErrors, DamagedBytes) {
  for (const char* name : {"spm-bpe.model", "spm-unigram.model"}) {
    const std::string bytes = model_bytes(name);
    size_t errors = 0;
    for (size_t i = 0; i < bytes.size(); i += 11) {
      std::string damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ (i % 2 ? 0x80 : 0x1F));
      errors += use(damaged) != "";
    }
    EXPECT_GT(errors, 20u) << name;
  }
}

TEST(SentencePieceErrors, MapsOfCharactersThatLeadOutside) {
  SentencePieceModel model = read_sentencepiece_model(model_bytes("spm-unigram.model"), "m");
  const std::string map = model.precompiled_charsmap;
  const auto with = [&](const std::string& changed) {
    model.precompiled_charsmap = changed;
    return error_of([&] { write_sentencepiece_model(model, "m"); });
  };
  EXPECT_EQ(with(map), "");
  EXPECT_THAT(with("abc"), HasSubstr("precompiled_charsmap"));
  EXPECT_THAT(with(map.substr(0, map.size() - 1)), HasSubstr("precompiled_charsmap"));
  std::string larger = map;
  larger[1] = static_cast<char>(larger[1] + 8);  // the array's size, behind the map's end
  EXPECT_THAT(with(larger), HasSubstr("precompiled_charsmap"));
  std::string far = map;  // the first node's offset: bits 10 to 30
  far[4 + 2] = '\x7f';
  far[4 + 3] = '\x7f';
  EXPECT_THAT(with(far), HasSubstr("a node lies outside"));
}

TEST(SentencePieceErrors, Pieces) {
  const SentencePieceModel good = read_sentencepiece_model(model_bytes(), "m");
  const auto with = [&](const std::function<void(SentencePieceModel&)>& change) {
    SentencePieceModel model = good;
    change(model);
    return error_of([&] { write_sentencepiece_model(model, "m.model"); });
  };
  EXPECT_THAT(with([](auto& m) { m.pieces.clear(); }), HasSubstr("found 0"));
  EXPECT_THAT(with([](auto& m) { m.pieces[5].text = ""; }), HasSubstr("piece 5"));
  EXPECT_THAT(with([](auto& m) { m.pieces[5].text = "\xff"; }), HasSubstr("piece 5"));
  EXPECT_THAT(with([](auto& m) { m.pieces[400].text = m.pieces[401].text; }),
              HasSubstr("there twice"));
  EXPECT_THAT(with([](auto& m) { m.pieces[400].score = NAN; }), HasSubstr("not a number"));
  EXPECT_THAT(with([](auto& m) { m.pieces[0].type = Type::Control; }), HasSubstr("unknown"));
  EXPECT_THAT(with([](auto& m) { m.pieces[1].type = Type::Unknown; }), HasSubstr("pieces 0 and 1"));
  EXPECT_THAT(with([](auto& m) { m.byte_fallback = false; }), HasSubstr("byte_fallback"));
  EXPECT_THAT(with([](auto& m) {
                for (auto& piece : m.pieces)
                  if (piece.text == "<0x41>") piece.type = Type::Normal;
              }),
              HasSubstr("<0x41>"));
}

TEST(SentencePieceErrors, Folders) {
  const auto error = [](const TokenizerFiles& files) {
    return error_of([&] { tokenizer_from_files(files); });
  };
  EXPECT_THAT(error({.where = "dir"}),
              AllOf(HasSubstr("dir"), HasSubstr("tokenizer.model"), HasSubstr("merges.txt")));
  EXPECT_THAT(error(folder_with("not a model")), HasSubstr("dir/tokenizer.model"));
  EXPECT_THAT(error(folder_with(model_bytes(), R"({"tokenizer_class": "T5Tokenizer"})")),
              AllOf(HasSubstr("dir/tokenizer_config.json"), HasSubstr("tokenizer_class"),
                    HasSubstr("T5Tokenizer"), HasSubstr("InternLM2Tokenizer")));
  EXPECT_THAT(error(folder_with(model_bytes(), R"({"added_tokens_decoder": {"x": {}}})")),
              AllOf(HasSubstr("dir/tokenizer_config.json"), HasSubstr("added_tokens_decoder.x")));
  EXPECT_THAT(error(folder_with(model_bytes(), R"({"added_tokens_decoder": {"9": {}}})")),
              HasSubstr("added_tokens_decoder.9.content"));
  EXPECT_THAT(error(folder_with(model_bytes(), R"({"added_tokens_decoder": {"99999999":
                    {"content": "<far>"}}})")),
              AllOf(HasSubstr("<far>"), HasSubstr("out of range")));
  EXPECT_THAT(error(folder_with(model_bytes(), R"({"split_special_tokens": true})")),
              HasSubstr("split_special_tokens"));
  EXPECT_THAT(error(folder_with(model_bytes(), R"({"eos_token": 3})")), HasSubstr("eos_token"));

  TokenizerFiles both = folder_with(model_bytes());
  both.contents["vocab.json"] = "{}";
  EXPECT_THAT(error(both), AllOf(HasSubstr("tokenizer.model"), HasSubstr("vocab.json")));
  TokenizerFiles half;
  half.where = "dir";
  half.contents["merges.txt"] = "";
  EXPECT_THAT(error(half), HasSubstr("no vocab.json"));
  half.contents = {{"vocab.json", "{}"}};
  EXPECT_THAT(error(half), HasSubstr("no merges.txt"));
  half.contents["merges.txt"] = "a b\n";
  EXPECT_THAT(error(half), HasSubstr("tokenizer_class"));
  half.before_name = "dir/";
  half.contents["tokenizer_config.json"] = R"({"tokenizer_class": "GPT2Tokenizer"})";
  EXPECT_THAT(error(half), AllOf(HasSubstr("merges.txt"), HasSubstr("entry 0")));
  half.contents["merges.txt"] = "#version: 0.2\na b c\n";
  EXPECT_THAT(error(half), HasSubstr("dir/merges.txt: line 2"));
}

// tokenizer.json counts before the other two.
TEST(SentencePieceErrors, OrderOfFiles) {
  TokenizerFiles files = folder_with(model_bytes());
  files.contents["tokenizer.json"] = testing::tokenizer_json("gpt2").dump();
  EXPECT_EQ(tokenizer_from_files(files)->encode("Hello"),
            testing::load_tokenizer("gpt2")->encode("Hello"));
}

TEST(SentencePiece, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = tokenizer_from_files(folder_with(model_bytes()));
  EXPECT_EQ(tokenizer->encode("a\xff\xe4\xb8 b\xc0"), tokenizer->encode("a\ufffd\ufffd b\ufffd"));
  const auto ids = tokenizer->encode("\u4e00\U0001f9ff");
  EXPECT_EQ(tokenizer->decode(ids), "\u4e00\U0001f9ff");
  const std::span<const int32_t> cut(ids.data(), ids.size() - 1);  // a character cut short
  EXPECT_EQ(tokenizer->decode(cut), "\u4e00\ufffd");
  EXPECT_EQ(tokenizer->find("<s>"), 1);
  EXPECT_EQ(tokenizer->token_bytes(tokenizer->find("<0x0A>").value()), "\n");
  EXPECT_FALSE(tokenizer->find("no such piece"));
  EXPECT_THROW(tokenizer->token_bytes(tokenizer->vocab_size()), Error);
}

TEST(SentencePiece, LongTextsAreNotQuadratic) {
  for (const char* name : {"spm-bpe.model", "spm-unigram.model"}) {
    const auto tokenizer = tokenizer_from_files(folder_with(model_bytes(name)));
    std::string word;
    for (int i = 0; i < (1 << 18); ++i) word += static_cast<char>('a' + (i * 7 + i / 3) % 26);
    const std::string back = tokenizer->decode(tokenizer->encode(word));
    if (std::string(name) == "spm-bpe.model") {
      EXPECT_EQ(back, word);
    }
    const std::string spaces(1 << 18, ' ');
    EXPECT_GT(tokenizer->encode(spaces + "x").size(), 100u);
  }
}

// The keys of llama.cpp's files for a vocabulary like Llama-2's.
GgufMetadata llama_metadata() {
  const SentencePieceModel model = read_sentencepiece_model(model_bytes(), "m");
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const auto& piece : model.pieces) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int32_t>(piece.type));
  }
  for (const char* text : {"<|im_start|>", "<tool>"}) {
    tokens.emplace_back(text);
    scores.push_back(-1000);
    types.push_back(static_cast<int32_t>(types.back() == 3 ? Type::UserDefined : Type::Control));
  }
  GgufMetadata metadata("llama.gguf");
  metadata.set("tokenizer.ggml.model", GgufValue(std::string("llama")));
  metadata.set("tokenizer.ggml.tokens", std::move(tokens));
  metadata.set("tokenizer.ggml.scores", GgufValue(GgufArray{std::move(scores)}));
  metadata.set("tokenizer.ggml.token_type", GgufValue(GgufArray{std::move(types)}));
  metadata.set("tokenizer.ggml.bos_token_id", GgufValue(uint32_t{1}));
  metadata.set("tokenizer.ggml.eos_token_id", GgufValue(uint32_t{2}));
  metadata.set("tokenizer.ggml.unknown_token_id", GgufValue(uint32_t{0}));
  return metadata;
}

TEST(SentencePieceGguf, SameAsTheModelItIsMadeOf) {
  const auto tokenizer = tokenizer_from_gguf_or_files(llama_metadata());
  const auto direct = tokenizer_from_files(folder_with(model_bytes()));
  size_t compared = 0;
  for (const Json& folder : load_json(data_path("slow.json"))) {
    if (folder["name"] != "trol-internlm2") continue;
    for (const Json& c : folder["cases"]) {
      const auto text = c["text"].get<std::string>();
      // Known in the GGUF file only, or added tokens there and pieces in the model.
      if (text.find("<|im_start|>") != text.npos || text.find("<tool>") != text.npos ||
          text.find("[UNUSED_TOKEN_14") != text.npos)
        continue;
      EXPECT_EQ(tokenizer->encode(text, {.add_special = true}),
                direct->encode(text, {.add_special = true}))
          << c["text"];
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), direct->decode(direct->encode(text)));
      ++compared;
    }
  }
  EXPECT_GT(compared, 100u);
  const int32_t start = tokenizer->find("<|im_start|>").value();
  EXPECT_TRUE(tokenizer->is_special(start));
  EXPECT_EQ(tokenizer->encode("<|im_start|>")[0], start);
  const int32_t tool = tokenizer->find("<tool>").value();
  EXPECT_FALSE(tokenizer->is_special(tool));
  EXPECT_EQ(tokenizer->encode("<tool>"), std::vector<int32_t>{tool});
  EXPECT_EQ(tokenizer->ids().eos, 2);
}

// As llama.cpp's converter writes files today.
TEST(SentencePieceGguf, UnknownTokenTypedAsControl) {
  const GgufMetadata typed = llama_metadata();
  const auto direct = tokenizer_from_gguf_or_files(typed);
  for (const bool named : {true, false}) {
    GgufMetadata metadata("llama.gguf");
    for (const auto& [key, value] : typed.entries())
      if (named || key != "tokenizer.ggml.unknown_token_id") metadata.set(key, value);
    std::vector<int32_t> types;
    for (const int64_t type : typed.get_ints("tokenizer.ggml.token_type"))
      types.push_back(type == 2 ? 3 : static_cast<int32_t>(type));
    metadata.set("tokenizer.ggml.token_type", GgufValue(GgufArray{std::move(types)}));
    const auto tokenizer = tokenizer_from_gguf_or_files(metadata);
    for (const char* text : {"Hello world", "x <unk> \u2603 y", "", "<s> a</s>"})
      EXPECT_EQ(tokenizer->encode(text), direct->encode(text)) << text;
  }
}

TEST(SentencePieceGguf, RoleTokensOfPhi3TakeTheWhiteSpaceBehind) {
  GgufMetadata metadata = llama_metadata();
  const auto plain = tokenizer_from_gguf_or_files(metadata);
  metadata.set("general.architecture", GgufValue(std::string("phi3")));
  const auto tokenizer = tokenizer_from_gguf_or_files(metadata);
  EXPECT_EQ(tokenizer->encode("<|im_start|> \n"), tokenizer->encode("<|im_start|>"));
  EXPECT_EQ(tokenizer->encode("</s>\n<s>"), tokenizer->encode("</s><s>"));
  EXPECT_NE(tokenizer->encode("<s> \n"), tokenizer->encode("<s>"));
  EXPECT_NE(plain->encode("<|im_start|> \n"), plain->encode("<|im_start|>"));
}

TEST(SentencePieceGguf, Errors) {
  const auto with = [](const std::string& key, GgufValue value) {
    GgufMetadata metadata = llama_metadata();
    metadata.set(key, std::move(value));
    return error_of([&] { tokenizer_from_gguf_or_files(metadata); });
  };
  EXPECT_THAT(
      with("tokenizer.ggml.scores", GgufValue(GgufArray{std::vector<float>{1, 2}})),
      AllOf(HasSubstr("llama.gguf"), HasSubstr("tokenizer.ggml.scores"), HasSubstr("found 2")));
  EXPECT_THAT(with("tokenizer.ggml.token_type", GgufValue(GgufArray{std::vector<int32_t>{1}})),
              HasSubstr("tokenizer.ggml.token_type"));
  EXPECT_THAT(with("tokenizer.ggml.bos_token_id", GgufValue(uint32_t{1u << 20})),
              HasSubstr("tokenizer.ggml.bos_token_id"));
  EXPECT_THAT(with("tokenizer.ggml.precompiled_charsmap",
                   GgufValue(GgufArray{std::vector<uint8_t>{1, 2, 3}})),
              AllOf(HasSubstr("llama.gguf"), HasSubstr("precompiled_charsmap")));
  EXPECT_THAT(with("tokenizer.ggml.model", GgufValue(std::string("bert"))),
              AllOf(HasSubstr("gpt2"), HasSubstr("llama"), HasSubstr("bert")));
}

}  // namespace
}  // namespace reprise
