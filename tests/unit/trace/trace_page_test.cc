// The numbers of a trace page against what `trace` shows; the page against hostile texts.
#include "trace/page/trace_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "base/json.h"
#include "engine/generator.h"
#include "image/decode.h"
#include "image/encode.h"
#include "support/test_models.h"
#include "trace/trace.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using testing::copy_model;
using testing::edit_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempFolder;
using testing::test_data;
using ::testing::ThrowsMessage;

constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

class TracePageTest : public ::testing::Test {
 protected:
  std::unique_ptr<LoadedModel> load(const std::string& name, int threads = 1) {
    const std::filesystem::path model = folder_ / std::filesystem::path(name).filename().string();
    if (!std::filesystem::exists(model)) copy_model(name, model);
    LoadedModelOptions options;
    options.model = model;
    options.compute.threads = threads;
    return LoadedModel::load(options);
  }
  static TokenPrompt text_prompt() {
    TokenPrompt prompt;
    prompt.ids = {3, 96, 94, 210, 273, 95, 42, 4};
    return prompt;
  }
  // Every intermediate result of the same prompt.
  static std::map<std::string, std::vector<float>> traced(LoadedModel& loaded,
                                                          const TokenPrompt& prompt,
                                                          const PlanOptions& plan = {}) {
    TokenInputs inputs;
    inputs.where = "test";
    inputs.ids = prompt.ids;
    TraceOptions options;
    options.plan = plan;
    std::map<std::string, std::vector<float>> values;
    for (const TensorView& view : trace(loaded, inputs, options))
      values[view.name] = to_floats(view);
    return values;
  }
  const Picture picture_ = Picture::read(test_data("golden/trol/phi3-vit-448/image.png"));
  TempFolder folder_;
};

const TraceMeasure& find(const TracePage& page, const std::string& key) {
  for (const TraceMeasure& m : page.measures)
    if (m.key == key) return m;
  fail("no measure {}", key);
}

std::vector<std::string> keys(const TracePage& page) {
  std::vector<std::string> all;
  for (const TraceMeasure& m : page.measures) all.push_back(m.key);
  return all;
}

std::vector<std::string> briefs(const TraceMeasure& m) {
  std::vector<std::string> all;
  for (const TraceColumn& c : m.columns) all.push_back(c.brief);
  return all;
}

// ‖to − from‖ / ‖from‖ of row `row` of n.
double moved(const std::vector<float>& to, const std::vector<float>& from, int64_t row, int64_t n) {
  const int64_t d = static_cast<int64_t>(to.size()) / n;
  double change = 0, size = 0;
  for (int64_t i = row * d; i < (row + 1) * d; ++i) {
    const double a = to[static_cast<size_t>(i)], b = from[static_cast<size_t>(i)];
    change += (a - b) * (a - b);
    size += b * b;
  }
  return std::sqrt(change / size);
}

float value(const TraceMeasure& m, size_t column, int64_t token) {
  return m.values.at(column * static_cast<size_t>(m.tokens) + static_cast<size_t>(token));
}

TEST_F(TracePageTest, TrolShowsWeightsAndWhatTheyChanged) {
  const auto loaded = load("trol/phi3-vit");
  const TokenPrompt prompt = text_prompt();
  const auto states = traced(*loaded, prompt);
  const int64_t n = prompt.size();
  const std::vector<int32_t> answer = {100, 101, 102};
  const TracePage page = collect_trace(*loaded, prompt, answer, {});
  EXPECT_THAT(keys(page), ElementsAre("mix", "second_look", "update"));
  EXPECT_EQ(page.scheme, "trol");
  ASSERT_EQ(page.tokens.size(), static_cast<size_t>(n) + 3);
  EXPECT_EQ(page.tokens[0].kind, TokenKind::Special);
  EXPECT_EQ(page.tokens[1].kind, TokenKind::Text);
  EXPECT_EQ(page.tokens.back().kind, TokenKind::Answer);

  const TraceMeasure &mix = find(page, "mix"), &second = find(page, "second_look"),
                     &update = find(page, "update");
  EXPECT_TRUE(mix.bounded);
  EXPECT_THAT(briefs(mix), ElementsAre("0", "1", "2"));
  EXPECT_THAT(briefs(update), ElementsAre("0", "0 (2)", "1", "1 (2)", "2", "2 (2)"));
  EXPECT_EQ(update.columns[3].name, "layer 1, 2nd look");
  std::vector<float> before = states.at("inputs_embeds");
  for (size_t layer = 0; layer < 3; ++layer) {
    const std::string name = fmt::format("layer.{}", layer);
    const auto &first = states.at(name + ".pass1"), &again = states.at(name + ".pass2"),
               &out = states.at(name + ".out"), &w = states.at(name + ".mix_w");
    for (int64_t t = 0; t < n; ++t) {
      EXPECT_EQ(value(mix, layer, t), w[static_cast<size_t>(t)]);
      EXPECT_NEAR(value(second, layer, t), moved(out, first, t, n), 1e-5);
      EXPECT_NEAR(value(update, 2 * layer, t), moved(first, before, t, n), 1e-5);
      EXPECT_NEAR(value(update, 2 * layer + 1, t), moved(again, first, t, n), 1e-5);
    }
    // Generated tokens make one pass: an update of the first visit, no weight. The last never ran.
    for (int64_t t = n; t < n + 3; ++t) {
      EXPECT_TRUE(std::isnan(value(mix, layer, t)));
      EXPECT_TRUE(std::isnan(value(second, layer, t)));
      EXPECT_TRUE(std::isnan(value(update, 2 * layer + 1, t)));
      EXPECT_EQ(std::isnan(value(update, 2 * layer, t)), t == n + 2);
    }
    before = out;
  }
}

TEST_F(TracePageTest, SkippedVisitsHaveNoUpdate) {
  const auto loaded = load("trol/phi3-vit");
  TraceRequest request;
  request.plan.set("adaptive", 0.5);
  const TracePage page = collect_trace(*loaded, text_prompt(), std::vector<int32_t>{100}, request);
  EXPECT_THAT(page.prefill, HasSubstr("w < 0.5"));
  const TraceMeasure &mix = find(page, "mix"), &second = find(page, "second_look"),
                     &update = find(page, "update");
  int skipped = 0;
  for (size_t layer = 0; layer < 3; ++layer)
    for (int64_t t = 0; t < text_prompt().size(); ++t) {
      const bool skips = value(mix, layer, t) < 0.5f;
      skipped += skips;
      EXPECT_EQ(std::isnan(value(update, 2 * layer + 1, t)), skips);
      EXPECT_EQ(value(second, layer, t) == 0, skips);
    }
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, 3 * text_prompt().size());
}

TEST_F(TracePageTest, MorePassesGetMoreColumns) {
  const auto loaded = load("trol/phi3-vit");
  TraceRequest request;
  request.plan.set("passes", 3);
  const TracePage page = collect_trace(*loaded, text_prompt(), std::vector<int32_t>{100}, request);
  const TraceMeasure& mix = find(page, "mix");
  EXPECT_THAT(briefs(mix), ElementsAre("0", "0 (3)", "1", "1 (3)", "2", "2 (3)"));
  const auto states = traced(*loaded, text_prompt(), request.plan);
  // The second weight of a layer is shown under the same name once more.
  EXPECT_EQ(value(mix, 0, 4), states.at("layer.0.mix_w")[4]);
  EXPECT_EQ(value(mix, 1, 4), states.at("layer.0.mix_w.2")[4]);
  request.plan.set("passes", 1);  // traversal off: no weights to show
  EXPECT_THAT(keys(collect_trace(*loaded, text_prompt(), std::vector<int32_t>{100}, request)),
              ElementsAre("update"));
}

TEST_F(TracePageTest, PhantomShowsGatesByHead) {
  const auto loaded = load("phantom/qwen2-vit");
  const TokenPrompt prompt = text_prompt();
  const auto states = traced(*loaded, prompt);
  const int64_t n = prompt.size();
  const TracePage page = collect_trace(*loaded, prompt, std::vector<int32_t>{100, 101}, {});
  EXPECT_THAT(keys(page), ElementsAre("gate", "phantom", "update"));
  const TraceMeasure &gate = find(page, "gate"), &phantom = find(page, "phantom");
  ASSERT_EQ(gate.heads, 4);
  ASSERT_EQ(gate.by_head.size(), gate.values.size() * 4);
  for (size_t layer = 0; layer < 3; ++layer) {
    const auto &w = states.at(fmt::format("layer.{}.gate_w", layer)),
               &o1 = states.at(fmt::format("layer.{}.o1", layer)),
               &o2 = states.at(fmt::format("layer.{}.o2", layer));
    std::vector<float> joined = o1;
    const size_t hd = o1.size() / w.size();
    for (size_t i = 0; i < joined.size(); ++i)
      joined[i] = w[i / hd] * o1[i] + (1 - w[i / hd]) * o2[i];
    for (int64_t t = 0; t < n; ++t) {
      double mean = 0;
      for (size_t h = 0; h < 4; ++h) {
        const float of_head = w[static_cast<size_t>(t) * 4 + h];
        EXPECT_EQ(
            gate.by_head[(layer * 4 + h) * static_cast<size_t>(n + 2) + static_cast<size_t>(t)],
            of_head);
        mean += of_head / 4.0;
      }
      EXPECT_NEAR(value(gate, layer, t), mean, 1e-6);
      EXPECT_NEAR(value(phantom, layer, t), moved(joined, o1, t, n), 1e-5);
    }
    EXPECT_FALSE(std::isnan(value(gate, layer, n)));  // generated and run
    EXPECT_TRUE(std::isnan(value(gate, layer, n + 1)));
  }
}

TEST_F(TracePageTest, ReplayIsFollowedThroughDampedSteps) {
  const auto loaded = load("rrt/llama");
  TraceRequest request;
  request.plan.set("plan", "0-3,1-2*2,5");
  const TokenPrompt prompt = text_prompt();
  const auto states = traced(*loaded, prompt, request.plan);
  const int64_t n = prompt.size();
  const TracePage page = collect_trace(*loaded, prompt, std::vector<int32_t>{100, 101}, request);
  EXPECT_THAT(keys(page), ElementsAre("update"));
  const TraceMeasure& update = page.measures[0];
  EXPECT_THAT(briefs(update),
              ElementsAre("0", "1", "2", "3", "1 (2)", "2 (2)", "1 (3)", "2 (3)", "5"));
  EXPECT_EQ(update.columns[6].name, "visit 6: block 1, 3rd time");
  // Half of each of the two updates is kept: what the visit after it starts from.
  const auto damped = [](const std::vector<float>& kept, const std::vector<float>& now) {
    std::vector<float> out;
    for (size_t i = 0; i < now.size(); ++i) out.push_back(kept[i] + 0.5f * (now[i] - kept[i]));
    return out;
  };
  const auto state = [&](int i) { return states.at(fmt::format("layer.{}.out", i)); };
  const std::vector<float> once = damped(state(3), state(5)), twice = damped(once, state(7));
  for (int64_t t = 0; t < n; ++t) {
    EXPECT_NEAR(value(update, 4, t), moved(state(4), state(3), t, n), 1e-5);
    EXPECT_NEAR(value(update, 6, t), moved(state(6), once, t, n), 1e-5);
    EXPECT_NEAR(value(update, 8, t), moved(state(8), twice, t, n), 1e-5);
  }
  EXPECT_FALSE(std::isnan(value(update, 8, n)));
  // The same with a factor of its own.
  request.plan.set("plan", "0-3,1-2*2@0.5,5");
  const TracePage same = collect_trace(*loaded, prompt, std::vector<int32_t>{100, 101}, request);
  EXPECT_EQ(briefs(same.measures[0]), briefs(update));
  for (int64_t t = 0; t < n; ++t) EXPECT_EQ(value(same.measures[0], 8, t), value(update, 8, t));
}

TEST_F(TracePageTest, SameBitsForAnyChunksAndThreads) {
  for (const char* name : {"trol/phi3-vit", "phantom/qwen2-vit"}) {
    const std::vector<int32_t> answer = {100, 101};
    const auto collect = [&](int threads, int64_t chunk) {
      const auto loaded = load(name, threads);
      PromptBuilder builder(*loaded);
      TraceRequest request;
      request.chunk = chunk;
      request.pictures = {picture_};
      const Prompt prompt = builder.raw("what shape", request.pictures);
      TracePage page = collect_trace(*loaded, prompt.tokens, answer, request);
      page.backend = "";  // says how many threads
      return trace_html(page);
    };
    const std::string whole = collect(1, 512);
    EXPECT_TRUE(collect(2, 7) == whole) << name;
    EXPECT_TRUE(collect(1, 1) == whole) << name;
  }
}

TEST_F(TracePageTest, HoldsPromptAndAnswerAsGenerated) {
  const auto loaded = load("phantom/qwen2-vit");
  Generator generator(*loaded, {});
  PromptBuilder builder(*loaded);
  GenerationOptions options;
  options.max_tokens = 6;
  const Prompt prompt = builder.chat({{"user", "what shape", {}}});
  const Generation result = generator.generate(prompt, options);
  const TracePage page = collect_trace(*loaded, prompt.tokens, result.tokens, {});
  EXPECT_EQ(page.answer, result.text);
  std::vector<int32_t> expected = prompt.tokens.ids, found;
  expected.insert(expected.end(), result.tokens.begin(), result.tokens.end());
  for (const TraceToken& token : page.tokens) found.push_back(token.id);
  EXPECT_EQ(found, expected);
  // Bytes that are no whole character are written as numbers, and the rest as it is.
  for (const TraceToken& token : page.tokens)
    EXPECT_EQ(token.text.find("\xef\xbf\xbd"), std::string::npos);
  EXPECT_EQ(page.tokens[0].text, "<|im_start|>");
}

TEST_F(TracePageTest, PicturesLieAsTheModelReadsThem) {
  const auto loaded = load("phantom/qwen2-vit");  // tiles of 112, up to 6, 16 tokens each
  PromptBuilder builder(*loaded);
  TraceRequest request;
  Image wide(3000, 1000);
  wide.pixels.assign(wide.pixels.size(), 90);
  const std::filesystem::path path = folder_ / "wide <b>.png";
  write_file_atomically(path, encode_png(wide));
  request.pictures = {Picture::read(path), picture_};
  const Prompt prompt = builder.raw("<image> and <image>", request.pictures);
  const TracePage page = collect_trace(*loaded, prompt.tokens, std::vector<int32_t>{100}, request);
  ASSERT_EQ(page.pictures.size(), 2u);
  const TracePicture& first = page.pictures[0];
  EXPECT_EQ(first.name, "wide <b>.png");
  EXPECT_EQ(first.columns, 3);
  EXPECT_EQ(first.rows, 1);
  EXPECT_TRUE(first.thumbnail);
  EXPECT_EQ(first.tiles(), 4);
  EXPECT_EQ(first.side, 4);
  EXPECT_EQ(first.cover, 1.0);
  EXPECT_EQ(first.mime, "image/jpeg");
  const Image shown = decode_image(std::as_bytes(std::span(first.bytes)), "shown");
  EXPECT_EQ(shown.width, 1200);
  EXPECT_EQ(shown.height, 400);
  int64_t placeholders = 0;
  for (const TraceToken& t : page.tokens) placeholders += t.kind == TokenKind::Picture;
  EXPECT_EQ(placeholders, 16 * (first.tiles() + page.pictures[1].tiles()));

  // Other pictures than the prompt was made with.
  request.pictures[0] = Picture("small.png", encode_png(Image(50, 50)));
  EXPECT_THAT([&] { collect_trace(*loaded, prompt.tokens, std::vector<int32_t>{100}, request); },
              ThrowsMessage<Error>(HasSubstr("--trace")));
}

// ---- The written forms

TracePage made_page() {
  TracePage page;
  page.program = "reprise test";
  page.model = "</title><script>alert(1)</script>";
  page.scheme = "trol";
  page.answer = "<b>&amp;";
  page.tokens = {{7, TokenKind::Text, "</script><script>alert(2)</script>"},
                 {8, TokenKind::Picture, "<!-- \" ' & \xe2\x80\xa8"},
                 {9, TokenKind::Answer, "{{script}}{{data}}"}};
  page.pictures.push_back({.name = "\"><img src=x onerror=alert(3)>.png",
                           .width = 2,
                           .height = 3,
                           .side = 1,
                           .mime = "image/png",
                           .bytes = "not really a picture"});
  TraceMeasure m;
  m.key = "gate";
  m.question = "Where?";
  m.bounded = true;
  m.columns = {{"layer 0", "0", "layer.0.out", 0}, {"layer 1", "1", "layer.1.out", 1}};
  m.tokens = 3;
  m.values = {0.1f, 0.25f, kNone, 1.0f, 1e-30f, 0.333333343f};
  m.heads = 2;
  m.by_head = {0.0f, 1.0f, kNone, 0.5f, 0.123456f, 0.9f, 1.0f, 0.0f, 0.7f, kNone, 0.3f, 0.2f};
  page.measures = {m};
  return page;
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

std::string decode_base64(const std::string& text) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int have = 0;
  for (const char c : text) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<uint32_t>(digits.find(c));
    have += 6;
    if (have >= 8) out += static_cast<char>(bits >> (have -= 8));
  }
  return out;
}

template <class T>
std::vector<T> array_of(const Json& base64_text) {
  const std::string bytes = decode_base64(base64_text.get<std::string>());
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

Json data_block(const std::string& html) {
  const std::string begin = "id=\"data\">";
  const size_t from = html.find(begin) + begin.size();
  return parse_json(html.substr(from, html.find("</script>", from) - from), "data block");
}

TEST(TraceHtml, HostileTextsStayText) {
  const TracePage page = made_page();
  const std::string html = trace_html(page);
  EXPECT_EQ(count(html, "<script"), 4);  // the data and three of our own
  EXPECT_EQ(count(html, "</script>"), 4);
  EXPECT_EQ(count(html, "<img"), 0);
  EXPECT_EQ(count(html, "alert(1)</script>"), 0);
  EXPECT_EQ(count(html, "<!--"), 0);
  EXPECT_EQ(count(html, "<title>"), 1);
  EXPECT_THAT(html, HasSubstr("<title>Where? &lt;/title&gt;&lt;script&gt;alert(1)"));
  const Json data = data_block(html);
  EXPECT_EQ(data["model"], page.model);
  EXPECT_EQ(data["answer"], page.answer);
  for (size_t i = 0; i < page.tokens.size(); ++i)
    EXPECT_EQ(data["tokens"][i]["text"], page.tokens[i].text);
  EXPECT_EQ(data["pictures"][0]["name"], page.pictures[0].name);
}

TEST(TraceHtml, NothingComesFromElsewhere) {
  const std::string html = trace_html(made_page());
  EXPECT_THAT(html, HasSubstr("default-src 'none'"));
  for (const char* part : {"http:", "https:", "//cdn", "src=\"", "href=\"", "@import", "url("})
    EXPECT_EQ(count(html, part), part == std::string("http:") ? 1 : 0) << part;  // SVG's namespace
  EXPECT_EQ(count(html, "{{title}}") + count(html, "{{style}}"), 0);
}

TEST(TraceHtml, NumbersRoundTrip) {
  const TracePage page = made_page();
  const TraceMeasure& m = page.measures[0];
  const Json data = data_block(trace_html(page));
  const std::vector<float> values = array_of<float>(data["measures"][0]["f32"]);
  ASSERT_EQ(values.size(), m.values.size());
  EXPECT_EQ(std::memcmp(values.data(), m.values.data(), values.size() * sizeof(float)), 0);
  const std::vector<uint16_t> heads = array_of<uint16_t>(data["measures"][0]["u16"]);
  ASSERT_EQ(heads.size(), m.by_head.size());
  for (size_t i = 0; i < heads.size(); ++i) {
    if (std::isnan(m.by_head[i]))
      EXPECT_EQ(heads[i], 65535);
    else
      EXPECT_NEAR(heads[i] / 65534.0, m.by_head[i], 0.5 / 65534 + 1e-9);
  }
  EXPECT_EQ(data["pictures"][0]["source"], "data:image/png;base64,bm90IHJlYWxseSBhIHBpY3R1cmU=");
}

TEST(TraceJson, NumbersRoundTrip) {
  const TracePage page = made_page();
  const TraceMeasure& m = page.measures[0];
  const Json json = parse_json(trace_json(page).dump(), "dump");
  EXPECT_EQ(json["format"], 1);
  const Json& values = json["measures"][0]["values"];
  for (size_t i = 0; i < m.values.size(); ++i) {
    const Json& v = values[i / 3][i % 3];
    if (std::isnan(m.values[i]))
      EXPECT_TRUE(v.is_null());
    else
      EXPECT_EQ(v.get<float>(), m.values[i]);
  }
  EXPECT_EQ(json["measures"][0]["by_head"][1][1][1].get<float>(), 0.3f);
  EXPECT_TRUE(json["measures"][0]["by_head"][1][1][0].is_null());
  EXPECT_FALSE(json["pictures"][0].contains("source"));
}

TEST(TracePath, EndingSaysWhatIsWritten) {
  check_trace_path("a.html");
  check_trace_path("./d.htm");
  EXPECT_THAT([&] { check_trace_path("no.such/d.htm"); },
              ThrowsMessage<Error>(HasSubstr("there is no folder no.such")));
  check_trace_path("e.json");
  for (const char* bad : {"page", "page.txt", "page.html.gz", "folder.html/page", ""})
    EXPECT_THAT([&] { check_trace_path(bad); },
                ThrowsMessage<Error>(AllOf(HasSubstr("--trace"), HasSubstr(".html"))));
}

}  // namespace
}  // namespace reprise
