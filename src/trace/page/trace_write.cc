// A trace page as JSON and as HTML. Nothing of a model or a file reaches the page but as data: one
// JSON block whose strings can't end it, shown by the script as text only.
#include <algorithm>
#include <cmath>

#include "base/base64.h"
#include "base/file.h"
#include "base/json.h"
#include "trace/page/trace_page.h"
#include "trace/page/trace_template.h"

namespace reprise {
namespace {

constexpr int kFormat = 1;  // of the JSON; a change of meaning counts up
// Per head: 0..65534 for 0..1, one value left over for "none".
constexpr float kHeadSteps = 65534;
constexpr uint16_t kHeadNone = 65535;

const char* kind_name(TokenKind kind) {
  switch (kind) {
    case TokenKind::Text:
      return "text";
    case TokenKind::Special:
      return "special";
    case TokenKind::Picture:
      return "picture";
    case TokenKind::Answer:
      return "answer";
  }
  return "";
}

// The shortest decimals that give the same float again.
Json number(float value) {
  return std::isfinite(value) ? Json(std::stod(fmt::format("{}", value))) : Json(nullptr);
}

// All that is no measured number.
Json description(const TracePage& page) {
  Json tokens = Json::array(), pictures = Json::array();
  for (const TraceToken& token : page.tokens)
    tokens.push_back({{"id", token.id}, {"kind", kind_name(token.kind)}, {"text", token.text}});
  for (const TracePicture& p : page.pictures)
    pictures.push_back({{"name", p.name},
                        {"width", p.width},
                        {"height", p.height},
                        {"columns", p.columns},
                        {"rows", p.rows},
                        {"thumbnail", p.thumbnail},
                        {"side", p.side},
                        {"cover", p.cover}});
  return {{"format", kFormat},           {"program", page.program},
          {"model", page.model},         {"scheme", page.scheme},
          {"backend", page.backend},     {"prefill", page.prefill},
          {"decode", page.decode},       {"answer", page.answer},
          {"tokens", std::move(tokens)}, {"pictures", std::move(pictures)}};
}

Json measure_description(const TraceMeasure& m) {
  Json columns = Json::array();
  for (const TraceColumn& c : m.columns)
    columns.push_back(
        {{"name", c.name}, {"brief", c.brief}, {"label", c.label}, {"block", c.block}});
  Json json = {{"key", m.key},         {"name", m.name},   {"question", m.question},
               {"about", m.about},     {"low", m.low},     {"high", m.high},
               {"bounded", m.bounded}, {"heads", m.heads}, {"columns", std::move(columns)}};
  if (m.most > 0) json["most"] = m.most;
  return json;
}

Json numbers(const float* values, int64_t count) {
  Json list = Json::array();
  for (int64_t i = 0; i < count; ++i) list.push_back(number(values[i]));
  return list;
}

// Little-endian, as every browser's typed arrays are.
template <class T>
std::string base64_of(const std::vector<T>& values) {
  std::string bytes;
  for (const T value : values) {
    uint32_t bits = 0;
    if constexpr (sizeof(T) == 4) {
      bits = std::bit_cast<uint32_t>(value);
    } else {
      bits = value;
    }
    for (size_t b = 0; b < sizeof(T); ++b) bytes += static_cast<char>(bits >> (8 * b));
  }
  return base64(bytes);
}

std::vector<uint16_t> head_steps(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float v : values)
    out.push_back(std::isfinite(v)
                      ? static_cast<uint16_t>(std::lround(std::clamp(v, 0.0f, 1.0f) * kHeadSteps))
                      : kHeadNone);
  return out;
}

std::string html_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else
      out += c;
  }
  return out;
}

// JSON inside <script>: no '<', '>' or '&' in any string, so nothing can end or begin an element.
std::string script_safe(const std::string& json) {
  std::string out;
  for (const char c : json) {
    if (c == '<' || c == '>' || c == '&')
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += c;
  }
  return out;
}

}  // namespace

Json trace_json(const TracePage& page) {
  Json json = description(page);
  Json measures = Json::array();
  for (const TraceMeasure& m : page.measures) {
    Json item = measure_description(m);
    Json values = Json::array(), heads = Json::array();
    for (size_t c = 0; c < m.columns.size(); ++c) {
      const auto column = static_cast<int64_t>(c);
      values.push_back(numbers(m.values.data() + column * m.tokens, m.tokens));
      Json of_column = Json::array();
      for (int h = 0; h < m.heads; ++h)
        of_column.push_back(
            numbers(m.by_head.data() + (column * m.heads + h) * m.tokens, m.tokens));
      heads.push_back(std::move(of_column));
    }
    item["values"] = std::move(values);
    if (m.heads > 0) item["by_head"] = std::move(heads);
    measures.push_back(std::move(item));
  }
  json["measures"] = std::move(measures);
  return json;
}

std::string trace_html(const TracePage& page) {
  Json json = description(page);
  for (size_t i = 0; i < page.pictures.size(); ++i)
    json["pictures"][i]["source"] =
        "data:" + page.pictures[i].mime + ";base64," + base64(page.pictures[i].bytes);
  Json measures = Json::array();
  for (const TraceMeasure& m : page.measures) {
    Json item = measure_description(m);
    item["f32"] = base64_of(m.values);
    if (m.heads > 0) item["u16"] = base64_of(head_steps(m.by_head));
    measures.push_back(std::move(item));
  }
  json["measures"] = std::move(measures);
  const std::string data = script_safe(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  const std::string title = html_escape(
      page.measures.empty() ? page.model : page.measures[0].question + " " + page.model);

  // The template's own text holds each mark once; what is put in is never looked at again.
  std::string html;
  std::string_view rest = kTraceHtml;
  const auto put = [&](std::string_view mark, std::string_view text) {
    const size_t at = rest.find(mark);
    REPRISE_CHECK(at != std::string_view::npos, "the template has no {}", mark);
    html.append(rest.substr(0, at)).append(text);
    rest.remove_prefix(at + mark.size());
  };
  put("{{title}}", title);
  put("{{style}}", kTraceStyle);
  put("{{data}}", data);
  put("{{data_script}}", kTraceDataScript);
  put("{{views_script}}", kTraceViewsScript);
  put("{{page_script}}", kTracePageScript);
  html.append(rest);
  return html;
}

void check_trace_path(const std::filesystem::path& path) {
  const std::string ending = path.extension().string();
  if (ending != ".html" && ending != ".htm" && ending != ".json")
    fail("--trace {}: expected a name ending in .html (a page) or .json (the numbers)",
         path.string());
  check_output_path(path, "--trace");
}

void write_trace(const std::filesystem::path& path, const TracePage& page) {
  check_trace_path(path);
  const bool json = path.extension() == ".json";
  write_file_atomically(
      path, json ? trace_json(page).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"
                 : trace_html(page));
}

}  // namespace reprise
