#include "train/recipe/text_recipe.h"

#include <fmt/format.h>

#include "base/json.h"

namespace reprise {
namespace {

constexpr int64_t kLongestContext = 1 << 24;  // far above what fits; a typing error ends here

std::vector<TextSource> read_sources(const std::string& key, const YAML::Node& list,
                                     const std::string& where,
                                     const std::filesystem::path& folder) {
  std::vector<TextSource> sources;
  for (const YAML::Node& node : list) {
    Section section(node, where, fmt::format("{}[{}]", key, sources.size()));
    TextSource source;
    int given = 0;
    for (const auto& [name, kind] : {std::pair{"text", TextSource::Kind::Text},
                                     std::pair{"jsonl", TextSource::Kind::JsonLines},
                                     std::pair{"tokens", TextSource::Kind::Tokens}}) {
      if (!section.has(name)) continue;
      section.read_path(name, source.file, folder);
      source.kind = kind;
      ++given;
    }
    section.read("key", source.key, "a string");
    section.finish();
    if (given != 1 || source.file.empty())
      section.bad("text", "expected exactly one of text, jsonl and tokens, a file");
    if ((source.kind == TextSource::Kind::JsonLines) == source.key.empty())
      section.bad("key", source.key.empty() ? "is missing, expected the text's key in a line"
                                            : "belongs to jsonl");
    sources.push_back(std::move(source));
  }
  return sources;
}

Json names(const std::vector<TextSource>& sources) {
  Json list = Json::array();
  for (const TextSource& source : sources)
    list.push_back({source.file.filename().string(), source.key});
  return list;
}

}  // namespace

bool are_texts(const YAML::Node& sources) {
  const YAML::Node first = sources[0];
  return first.IsMap() && (first["text"] || first["jsonl"] || first["tokens"]);
}

void read_text_data(Section& section, const YAML::Node& sources, Recipe& recipe,
                    const std::string& where, const std::filesystem::path& folder) {
  recipe.texts = read_sources("data.train", sources, where, folder);
  if (section.has("validation")) {
    const YAML::Node held_out = section.node("validation");
    if (!held_out.IsSequence() || held_out.size() == 0)
      section.bad("validation", "expected a list of text, jsonl or tokens sources, as train has");
    recipe.validation_texts = read_sources("data.validation", held_out, where, folder);
  }
  section.read("shuffle", recipe.shuffle, "true or false");
  section.read_int("context", recipe.context, 1, kLongestContext);
  section.read_int("validation_every", recipe.validation_every, 1);
  section.read_int("validation_limit", recipe.validation_limit, 1);
  section.finish();
  for (const auto* list : {&recipe.texts, &recipe.validation_texts})
    for (const TextSource& source : *list)
      if (source.kind != TextSource::Kind::Tokens && recipe.context == 0)
        section.bad("context", "is missing, expected the number of tokens in a row");
}

void identify_texts(const Recipe& recipe, Json& json) {
  json["data.train"] = names(recipe.texts);
  json["data.shuffle"] = recipe.shuffle;
  json["data.context"] = recipe.context;
}

}  // namespace reprise
