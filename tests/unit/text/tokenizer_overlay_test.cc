// What stands beside a tokenizer.json is laid over it as `transformers` does it
// (tests/data/text/make_overlay.py).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/json.h"
#include "support/paths.h"
#include "support/tokenizers.h"

namespace reprise {
namespace {

Json read(const std::string& name) {
  const std::filesystem::path path = test::data_dir() / "text" / name;
  return parse_json(read_file(path), path.string());
}

Json tokenizer_of(const std::string& name) {
  constexpr const char* kPrefixed = "gpt2+prefix_space";
  if (name != kPrefixed) return read(name + ".json");
  Json tokenizer = read("gpt2.json");
  tokenizer["pre_tokenizer"]["add_prefix_space"] = true;
  return tokenizer;
}

// Where versions 4 and 5 differ: the config's word counts where it says something, tokenizer.json's
// where it is silent (docs/tokenizers.md).
bool counts_5(const std::string& name) {
  return name == "prefix-space-none-json-true-pretrainedtokenizerfast";
}

TEST(TokenizerOverlay, EqualsTransformers) {
  const Json data = read("overlay.json");
  ASSERT_GE(data["cases"].size(), 50u);
  for (const auto& [name, entry] : data["cases"].items()) {
    SCOPED_TRACE(name);
    TokenizerFiles files;
    files.where = files.before_name = "case ";
    files.contents["tokenizer.json"] = tokenizer_of(entry["tokenizer"]).dump();
    for (const auto& [file, content] : entry["files"].items())
      files.contents[file] = content.dump();
    const bool refused = name == "split-special";
    if (refused) {
      EXPECT_THROW((void)tokenizer_from_files(files), Error);
      continue;
    }
    const auto tokenizer = tokenizer_from_files(files);
    const Json& want = entry[counts_5(name) ? "want_5" : "want"];
    for (size_t i = 0; i < data["texts"].size(); ++i) {
      const std::string text = data["texts"][i];
      SCOPED_TRACE(text);
      const auto ids = tokenizer->encode(text, {.parse_special = true});
      EXPECT_EQ(ids, want[i]["ids"].get<std::vector<int32_t>>());
      const auto whole = tokenizer->encode(text, {.parse_special = true, .add_special = true});
      EXPECT_EQ(whole, want[i]["whole"].get<std::vector<int32_t>>());
      EXPECT_EQ(tokenizer->decode(whole, true), want[i]["skipped"].get<std::string>());
    }
  }
}

TEST(TokenizerOverlay, FlagsOfTheConfigCount) {
  const std::filesystem::path folder = test::data_dir() / "cases/tokenizer-config-flags";
  const auto tokenizer = tokenizer_from_model(folder / "model");
  for (const Json& want : parse_json(read_file(folder / "want.json"), "want.json"))
    EXPECT_EQ(tokenizer->encode(want["text"].get<std::string>()),
              want["ids"].get<std::vector<int32_t>>())
        << want["text"];
}

}  // namespace
}  // namespace reprise
