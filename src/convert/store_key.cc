#include "convert/store_key.h"

#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "convert/convert.h"

namespace reprise {
namespace {

using OrderedJson = nlohmann::ordered_json;

// A JSON text in which `edit` has changed something, all keys in their order.
std::string edited(const std::string& text, const std::string& where,
                   const std::function<void(OrderedJson& json)>& edit) {
  parse_json(text, where);  // checks what ordered_json would not: depth
  OrderedJson json = OrderedJson::parse(text);
  edit(json);
  return json.dump(2) + "\n";
}

bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

}  // namespace

std::string with_own_key(const std::string& config, const std::string& where,
                         const std::string& key, const Json* value) {
  return edited(config, where, [&](OrderedJson& json) {
    if (value) {
      json["reprise"][key] = OrderedJson::parse(value->dump());
    } else if (json.contains("reprise")) {
      json["reprise"].erase(key);
      if (json["reprise"].empty()) json.erase("reprise");
    }
  });
}

void check_store(const std::filesystem::path& model, const std::filesystem::path& target) {
  std::error_code ignored;
  if (is_folder(model)) {
    if (!target.empty())
      fail(
          "--store-as {}: {} is a folder, whose config.json is changed where it is; expected --store",
          target.string(), model.string());
    check_output_path(model / "config.json", "--store");
    return;
  }
  if (target.empty())
    fail("--store: {} is a GGUF file, which is written anew; expected --store-as OUT.gguf",
         model.string());
  if (target.extension() != ".gguf")
    fail("--store-as {}: expected a name that ends in .gguf, since {} is a GGUF file",
         target.string(), model.string());
  if (std::filesystem::exists(target, ignored))
    fail("--store-as {}: exists already, expected a name for a new file", target.string());
  check_output_path(target, "--store-as");
}

void store_key(const std::filesystem::path& model, const std::filesystem::path& target,
               const std::string& key, const Json& value) {
  check_store(model, target);
  if (is_folder(model)) {
    const std::filesystem::path config = model / "config.json";
    write_file_atomically(config, with_own_key(read_file(config), config.string(), key, &value));
    return;
  }
  const ConversionSource source = open_source(model);
  ConvertOptions options;
  if (source.model.kind() == ModelSource::Kind::OwnGguf) {
    options.keys[kConfigKey] =
        with_own_key(source.config_text, source.model.config_where(), key, &value);
  } else {  // llama.cpp's keys, and ours in one of their own
    const std::string keys = source.model.gguf()->metadata.find_string(kOwnKeysKey).value_or("{}");
    options.keys[kOwnKeysKey] =
        edited(keys, source.path() + ": key '" + kOwnKeysKey + "'",
               [&](OrderedJson& own) { own[key] = OrderedJson::parse(value.dump()); });
  }
  convert_to_gguf(source, target, options);
}

}  // namespace reprise
