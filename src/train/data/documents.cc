#include "train/data/documents.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_object.h"

namespace reprise {
namespace {

using Each = std::function<bool(std::string_view, const std::string&)>;

// Lines without their ends; gives the text behind.
std::string_view take_line(std::string_view& text) {
  const size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

void for_each_paragraph(std::string_view text, const std::string& file, const Each& each) {
  const char* begin = nullptr;  // of the document under way
  const char* end = nullptr;
  int64_t number = 0, first = 0;
  const auto give = [&] {
    const bool more = !begin || each({begin, static_cast<size_t>(end - begin)},
                                     fmt::format("{}:{}", file, first));
    begin = nullptr;
    return more;
  };
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    ++number;
    if (line.empty()) {
      if (!give()) return;
      continue;
    }
    if (!begin) {
      begin = line.data();
      first = number;
    }
    end = line.data() + line.size();
  }
  give();
}

void for_each_json_line(std::string_view text, const TextSource& source, const Each& each) {
  int64_t number = 0;
  while (!text.empty()) {
    const std::string_view line = take_line(text);
    ++number;
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}:{}", source.file.string(), number);
    const Json json = parse_json(std::string(line), where);
    const std::string document = JsonObject(json, where).get_string(source.key);
    if (!document.empty() && !each(document, where)) return;
  }
}

}  // namespace

void for_each_document(const TextSource& source, const Each& each) {
  const auto file = MappedFile::open(source.file);
  const std::span<const std::byte> bytes = file->bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (source.kind == TextSource::Kind::JsonLines)
    for_each_json_line(text, source, each);
  else
    for_each_paragraph(text, source.file.string(), each);
}

}  // namespace reprise
