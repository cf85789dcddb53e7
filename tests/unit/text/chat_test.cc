#include "text/chat/chat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"
#include "base/json.h"
#include "test_files.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::data_path;
using ::testing::HasSubstr;

std::vector<ChatMessage> messages_of(const Json& list) {
  std::vector<ChatMessage> messages;
  for (const Json& m : list) messages.push_back({m["role"], m["content"], 0});
  return messages;
}

Json known_templates() { return load_json(data_path("chat.json"))["known"]; }

std::string text_of(const std::vector<PromptPart>& parts) {
  EXPECT_LE(parts.size(), 1u);
  return parts.empty() ? "" : parts[0].text;
}

// Templates are recognised, and render to what `transformers` makes of them.
TEST(Chat, KnownTemplates) {
  std::set<std::string> seen;
  for (const Json& entry : known_templates()) {
    const auto name = entry["format"].get<std::string>();
    seen.insert(name);
    const ChatFormat format =
        recognize_chat_format(entry["template"], entry["bos"], entry["eos"], "model");
    EXPECT_EQ(format.name, name);
    for (const Json& c : entry["cases"])
      EXPECT_EQ(text_of(render_chat(format, messages_of(c["messages"]), {}, c["ask"])), c["text"])
          << name << " " << c["messages"];
  }
  EXPECT_EQ(seen.size(), 10u);
}

// Statements that write nothing themselves may change what the others write.
TEST(Chat, StatementsAroundAKnownTemplate) {
  const std::string guard =
      "{% if messages[0]['role'] != 'system' %}{% set messages = [{'role': 'system', 'content': "
      "'the world'}] + messages %}{% endif %}";
  for (const Json& entry : known_templates()) {
    const std::string known = entry["template"];
    const auto refused = [&](const std::string& jinja) {
      return test::error_of(
          [&] { recognize_chat_format(jinja, entry["bos"], entry["eos"], "model"); });
    };
    EXPECT_EQ(refused(known), "");
    for (const std::string& jinja :
         {guard + known, "{% set messages = messages[1:] %}" + known,
          "{% if messages|length > 2 %}" + known + "{% endif %}",
          "{% if messages|length > 2 %}" + known + "{% else %}{% endif %}"}) {
      // Of that one's many statements only those that set something are looked at.
      if (entry["format"] == "qwen2.5" && jinja.find("set messages") == std::string::npos) continue;
      EXPECT_THAT(refused(jinja), HasSubstr("none of the known formats")) << jinja;
    }
  }
}

// The table's own entries, as --chat-template takes them, equal the recognised ones.
TEST(Chat, TableEqualsTemplates) {
  const std::vector<ChatMessage> messages = {{"user", "Hi"}, {"assistant", "Yes"}, {"user", "So"}};
  std::set<std::string> seen;
  for (const Json& entry : known_templates()) {
    const auto name = entry["format"].get<std::string>();
    const ChatFormat found =
        recognize_chat_format(entry["template"], entry["bos"], entry["eos"], "model");
    if (!seen.insert(name).second) continue;  // variants come after the usual one
    EXPECT_EQ(render_chat(chat_format(name), messages, {}), render_chat(found, messages, {}));
    EXPECT_EQ(chat_format(name).stop_strings(), found.stop_strings());
  }
}

TEST(Chat, UnknownTemplatesAreErrors) {
  const Json data = load_json(data_path("chat.json"));
  ASSERT_GT(data["unknown"].size(), 25u);
  for (const Json& text : data["unknown"]) {
    try {
      const auto found = recognize_chat_format(text, "<s>", "</s>", "m.gguf: key 'k'");
      ADD_FAILURE() << "taken for " << found.name << ": " << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("m.gguf: key 'k'"), HasSubstr("--chat-template"),
                                      HasSubstr("smollm2"), HasSubstr("plain-qa")));
    }
  }
}

// Every prefix of every known template: an Error or the same format, never a crash.
TEST(Chat, TruncatedTemplates) {
  for (const Json& entry : known_templates()) {
    const auto text = entry["template"].get<std::string>();
    for (size_t n = 0; n < text.size(); ++n) {
      try {
        const auto found = recognize_chat_format(text.substr(0, n), "<s>", "</s>", "m");
        // The gemma and phi3 shapes end with the template; llama3, zephyr and blanks at the end may
        // be cut inside closing tags that write nothing.
        EXPECT_EQ(found.name, entry["format"]);
        EXPECT_GT(n + 20, text.size()) << found.name;
      } catch (const Error&) {
      }
    }
  }
}

// ChatML whose first system message stands before the loop, with and without a default, and with an
// opening of thoughts that is only written where it is asked for.
TEST(Chat, SystemMessageBeforeTheLoop) {
  const std::string first =
      "{%- if messages[0]['role'] == 'system' -%}{{- '<|im_start|>system\\n' + "
      "messages[0]['content'] + '<|im_end|>\\n' }}";
  const std::string fallback =
      "{%- else -%}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}";
  const std::string turns =
      "{%- endif -%}\n{%- for message in messages -%}\n  {%- if message.role == 'system' and "
      "loop.first -%}{# written #}{%- else -%}\n    {{- '<|im_start|>' + message['role'] + '\\n' + "
      "message['content'] + '<|im_end|>' + '\\n' }}\n  {%- endif -%}\n{%- endfor -%}\n"
      "{%- if add_generation_prompt -%}\n{{- '<|im_start|>assistant\\n' }}";
  const std::string thinks =
      "{%- if enable_thinking is defined and enable_thinking is true -%}{{- '<think>\\n' }}"
      "{%- endif -%}";
  const std::vector<ChatMessage> asked = {{"user", "Hi"}, {"assistant", "Yes."}, {"user", "So?"}};
  std::vector<ChatMessage> led = asked;
  led.insert(led.begin(), {"system", "Be brief."});
  const std::string text =
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n"
      "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n";
  for (const bool with_default : {false, true})
    for (const bool thinking : {false, true}) {
      const std::string jinja = first + (with_default ? fallback : "") + turns +
                                (thinking ? thinks : "") + "{%- endif -%}\n";
      const ChatFormat format = recognize_chat_format(jinja, "", "", "m");
      EXPECT_EQ(text_of(render_chat(format, led, {})),
                "<|im_start|>system\nBe brief.<|im_end|>\n" + text);
      EXPECT_EQ(
          text_of(render_chat(format, asked, {})),
          (with_default ? "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" : "") +
              text);
      EXPECT_THAT(format.stop_strings(), ::testing::Contains("<|im_end|>"));
      EXPECT_THROW(recognize_chat_format(jinja + "{{- '!' }}", "", "", "m"), Error);
    }
}

TEST(Chat, TemplateWithoutItsTokens) {
  for (const Json& entry : known_templates()) {
    if (entry["format"] == "zephyr" || entry["format"] == "mistral-instruct") {
      EXPECT_THROW(recognize_chat_format(entry["template"], "<s>", "", "m"), Error);
    }
  }
}

TEST(Chat, OfficialPrompts) {
  std::set<std::string> seen;
  for (const Json& c : load_json(data_path("chat_official.json"))) {
    const ChatFormat& format = chat_format(c["format"].get<std::string>());
    seen.insert(format.name);
    std::vector<int64_t> counts;
    std::vector<PromptPart> expected;
    for (const Json& part : c["prompt"]) {
      if (part.is_string()) {
        expected.push_back({part.get<std::string>()});
        continue;
      }
      EXPECT_EQ(part["repeat"], format.image_placeholder);
      counts.push_back(part["count"]);
      expected.push_back({"", 0, part["count"]});
    }
    const std::vector<ChatMessage> messages = {
        {"user", c["question"], static_cast<int>(counts.size())}};
    EXPECT_EQ(render_chat(format, messages, counts), expected) << format.name;
    EXPECT_EQ(format.stop_strings(), std::vector<std::string>{c["stop"].get<std::string>()});
  }
  EXPECT_EQ(seen.size(), 5u);
}

// A second turn is the whole conversation again, its picture in its turn.
TEST(Chat, OfficialFormatsInTwoTurns) {
  const std::vector<ChatMessage> messages = {
      {"user", "One?", 1}, {"assistant", "1."}, {"user", "Two?", 0}};
  EXPECT_EQ(render_chat(chat_format("phantom-internlm2"), messages, std::vector<int64_t>{256}),
            (std::vector<PromptPart>{{"<|im_start|>user\n<img>"},
                                     {"", 0, 256},
                                     {"</img>One?<|im_end|><|im_start|>assistant\n1.<|im_end|>"
                                      "<|im_start|>user\nTwo?<|im_end|><|im_start|>assistant\n"}}));
  const auto parts =
      render_chat(chat_format("trol-internlm2"), messages, std::vector<int64_t>{1225});
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[2].text,
            "\nOne?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n1.[UNUSED_TOKEN_145]\n</s>\n"
            "[UNUSED_TOKEN_146]user\nTwo?[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n");
}

TEST(Chat, PlainQa) {
  const ChatFormat& format = chat_format("plain-qa");
  const std::vector<ChatMessage> messages = {{"user", "What shape?", 1}};
  EXPECT_EQ(render_chat(format, messages, std::vector<int64_t>{16}),
            (std::vector<PromptPart>{{"", 0, 16}, {"What shape?\n"}}));
  EXPECT_EQ(format.stop_strings(), std::vector<std::string>{"\n"});
}

TEST(Chat, SeveralImages) {
  const std::vector<ChatMessage> messages = {
      {"user", "First", 2}, {"assistant", "ok"}, {"user", "Second", 1}};
  EXPECT_EQ(
      render_chat(chat_format("phantom-qwen2"), messages, std::vector<int64_t>{256, 512, 768}),
      (std::vector<PromptPart>{
          {"<|im_start|>user\n<img>"},
          {"", 0, 256},
          {"</img><img>"},
          {"", 1, 512},
          {"</img>First<|im_end|><|im_start|>assistant\nok<|im_end|><|im_start|>user\n<img>"},
          {"", 2, 768},
          {"</img>Second<|im_end|><|im_start|>assistant\n"}}));
}

TEST(Chat, BadConversations) {
  struct Bad {
    const char* format;
    std::vector<ChatMessage> messages;
    std::vector<int64_t> images;
    const char* expected;
  };
  const std::vector<Bad> bad = {
      {"chatml", {}, {}, "at least one"},
      {"chatml", {{"tool", "x"}}, {}, "'tool'"},
      {"chatml", {{"user", "x"}, {"system", "y"}}, {}, "only possible as the first"},
      {"chatml", {{"user", "x", 1}}, {5}, "no place for images"},
      {"gemma", {{"system", "x"}, {"user", "y"}}, {}, "no place for a system"},
      {"gemma", {{"user", "x"}, {"user", "y"}}, {}, "in turn"},
      {"mistral-instruct", {{"assistant", "x"}}, {}, "in turn"},
      {"plain-qa", {{"user", "x", 1}}, {}, "1 images"},
      {"plain-qa", {{"user", "x"}}, {3}, "0 images"},
      {"plain-qa", {{"user", "x"}, {"assistant", "y", 1}}, {3}, "user messages only"},
      {"plain-qa", {{"user", "x", -1}}, {}, "-1"},
  };
  for (const Bad& b : bad) {
    try {
      render_chat(chat_format(b.format), b.messages, b.images);
      ADD_FAILURE() << b.expected;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(b.expected));
    }
  }
  try {
    chat_format("vicuna");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                AllOf(HasSubstr("--chat-template"), HasSubstr("vicuna"), HasSubstr("trol-phi3")));
  }
}

}  // namespace
}  // namespace reprise
