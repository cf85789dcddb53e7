// The same ids and the same text as `transformers` for folders without a tokenizer.json and for
// Llama-type tokenizer.json files; data by tests/data/text/make_slow.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "support/slow_tokenizers.h"
#include "test_files.h"
#include "text/chat/chat.h"
#include "text/tokenizer/stream_decoder.h"
#include "text/tokenizer/tokenizer_files.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using testing::data_path;
using ::testing::ElementsAreArray;
using Ids = std::vector<int32_t>;

std::string streamed(const Tokenizer& tokenizer, const Ids& ids) {
  StreamDecoder decoder(tokenizer, true);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(piece));
    text += piece;
  }
  return text + decoder.flush();
}

void check_cases(const Tokenizer& tokenizer, const Json& cases) {
  ASSERT_GT(cases.size(), 140u);
  size_t decoded = 0;
  for (const Json& c : cases) {
    const auto text = c["text"].get<std::string>();
    const auto ids = c["ids"].get<Ids>();
    EXPECT_THAT(tokenizer.encode(text), ElementsAreArray(ids)) << "text: " << c["text"];
    if (c.contains("around")) {
      const Ids whole = tokenizer.encode(text, {.add_special = true});
      const auto first = c["around"][0].get<Ids>();
      EXPECT_EQ(whole.size(), ids.size() + c["around"][1].get<size_t>()) << c["text"];
      ASSERT_GE(whole.size(), first.size());
      EXPECT_EQ(Ids(whole.begin(), whole.begin() + static_cast<long>(first.size())), first);
    }
    if (!c.contains("decoded")) continue;
    const std::string expected = c["decoded"].is_string() ? c["decoded"].get<std::string>() : text;
    EXPECT_EQ(tokenizer.decode(ids, true), expected) << "text: " << c["text"];
    EXPECT_EQ(streamed(tokenizer, ids), expected);
    ++decoded;
  }
  EXPECT_GT(decoded, 40u);
}

class SlowTokenizers : public ::testing::TestWithParam<const char*> {};

TEST_P(SlowTokenizers, SameAsTransformers) {
  static const Json folders = load_json(data_path("slow.json"));
  for (const Json& folder : folders) {
    if (folder["name"] != GetParam()) continue;
    const auto tokenizer = tokenizer_from_files(test::slow_tokenizer_entry(folder));
    EXPECT_EQ(tokenizer->vocab_size(), folder["size"]);
    const auto role = [&](const char* name) {
      const Json& id = folder["roles"][name];
      return id.is_null() ? std::nullopt : std::optional(id.get<int32_t>());
    };
    EXPECT_EQ(tokenizer->ids().bos, role("bos"));
    EXPECT_EQ(tokenizer->ids().eos, role("eos"));
    EXPECT_EQ(tokenizer->ids().pad, role("pad"));
    return check_cases(*tokenizer, folder["cases"]);
  }
  FAIL() << "no data";
}

INSTANTIATE_TEST_SUITE_P(All, SlowTokenizers,
                         ::testing::Values("trol-internlm2", "internlm2-added",
                                           "internlm2-legacy-files", "phi3", "phi3-legacy",
                                           "llama-no-prefix", "llama-legacy-files", "unigram",
                                           "unigram-llama", "qwen2", "qwen2-bare"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The official prompts of all seven releases, tokenized part by part between pictures, are the ids
// of the whole text.
TEST(OfficialPrompts, SameIdsAsTheWholeText) {
  const Json data = load_json(data_path("prompts.json"));
  size_t compared = 0;
  for (const Json& folder : data["folders"]) {
    const auto tokenizer = tokenizer_from_files(test::slow_tokenizer_entry(folder));
    const ChatFormat& format = chat_format(folder["name"].get<std::string>());
    for (const Json& c : data["cases"]) {
      if (c["format"] != format.name) continue;
      const auto count = c["image_tokens"].get<int64_t>();
      const std::vector<ChatMessage> messages = {{"user", c["question"], count > 0}};
      const std::vector<int64_t> counts(count > 0, count);
      Ids ids;
      bool pictures = false;
      for (const PromptPart& part : render_chat(format, messages, counts)) {
        const Ids more = part.image < 0 ? tokenizer->encode(part.text, {.continues = pictures})
                                        : Ids(static_cast<size_t>(part.image_tokens),
                                              tokenizer->find(format.image_placeholder).value());
        pictures = pictures || part.image >= 0;
        ids.insert(ids.end(), more.begin(), more.end());
      }
      EXPECT_THAT(ids, ElementsAreArray(c["ids"].get<Ids>())) << format.name;
      ++compared;
    }
    // The text that ends an answer, as one token or as several.
    const std::string stop = format.stop_strings()[0];
    StopMatcher stops({stop});
    std::string text;
    StreamDecoder decoder(*tokenizer);
    for (const int32_t id : tokenizer->encode("Yes." + stop + " more")) {
      text += stops.push(decoder.push(id));
    }
    EXPECT_TRUE(stops.stopped()) << format.name;
    EXPECT_EQ(text, "Yes.") << format.name;
  }
  EXPECT_EQ(compared, 15u);
}

TEST(MetaspaceTokenizers, SameAsTokenizers) {
  size_t seen = 0;
  for (const Json& entry : load_json(data_path("metaspace.json"))) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    check_cases(*test::tokenizer_from_json(entry["json"], nullptr, "x"), entry["cases"]);
    ++seen;
  }
  EXPECT_EQ(seen, 5u);
}

}  // namespace
}  // namespace reprise
