#include "convert/store_key.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "convert/convert.h"

namespace reprise {
namespace {

using OrderedJson = nlohmann::ordered_json;

// The config's text with the key set, all others in their order.
std::string with_key(const std::string& text, const std::string& where, const std::string& key,
                     const Json& value) {
  parse_json(text, where);  // checks what ordered_json would not: depth
  OrderedJson config = OrderedJson::parse(text);
  config["reprise"][key] = OrderedJson::parse(value.dump());
  return config.dump(2) + "\n";
}

bool is_folder(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

}  // namespace

void check_store(const std::filesystem::path& model, const std::filesystem::path& target) {
  std::error_code ignored;
  if (is_folder(model)) {
    if (!target.empty())
      fail("{}: is a folder, whose config.json is changed where it is; expected no other target",
           model.string());
    check_output_path(model / "config.json", model.string());
    return;
  }
  if (target.empty())
    fail("{}: a GGUF file is written anew; expected a name for the new one", model.string());
  if (std::filesystem::exists(target, ignored)) fail("{}: exists already", target.string());
  check_output_path(target, target.string());
}

void store_key(const std::filesystem::path& model, const std::filesystem::path& target,
               const std::string& key, const Json& value) {
  check_store(model, target);
  if (is_folder(model)) {
    const std::filesystem::path config = model / "config.json";
    write_file_atomically(config, with_key(read_file(config), config.string(), key, value));
    return;
  }
  const ConversionSource source = open_source(model);
  if (source.model.kind() != ModelSource::Kind::OwnGguf)
    fail("{}: has no config of ours to store '{}' in; expected a file that 'reprise convert' made",
         model.string(), key);
  ConvertOptions options;
  options.config_text = with_key(source.config_text, source.model.config_where(), key, value);
  convert_to_gguf(source, target, options);
}

}  // namespace reprise
