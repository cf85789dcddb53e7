#include "formats/hf_folder.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "formats/foreign.h"
#include "formats/safetensors.h"

namespace reprise {

std::optional<std::filesystem::path> HfFolder::find_file(const std::string& name) const {
  std::error_code ignored;
  const std::filesystem::path file = path / name;
  if (!std::filesystem::is_regular_file(file, ignored)) return std::nullopt;
  return file;
}

HfFolder HfFolder::open(const std::filesystem::path& path, Problems* noted) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) fail("{}: is not a folder", path.string());
  HfFolder folder;
  folder.path = path;
  Problems own;
  Problems& problems = noted ? *noted : own;
  // Of another form nothing else is said: all of it would follow from that.
  const auto foreign = [&](const std::string& what) {
    problems.add(what);
    if (!noted) own.raise();
    HfFolder none;
    none.path = path;
    none.weights_known = false;
    return none;
  };
  if (const std::string what = foreign_folder(path); !what.empty())
    return foreign(fmt::format("{}: {}", path.string(), what));
  const auto load_object = [](const std::filesystem::path& file) {
    Json json = load_json(file);
    JsonObject(json, file.string());  // Error unless it is an object
    return json;
  };

  problems.attempt([&] { folder.config = load_object(path / "config.json"); });
  if (const std::string what = foreign_quantization(folder.config, false); !what.empty())
    return foreign(fmt::format("{}: {}", (path / "config.json").string(), what));
  if (const auto file = folder.find_file("generation_config.json"))
    problems.attempt([&] { folder.generation_config = load_object(*file); });
  if (const auto file = folder.find_file("tokenizer_config.json"))
    problems.attempt([&] { folder.tokenizer_config = load_object(*file); });
  folder.tokenizer_json = folder.find_file("tokenizer.json");
  folder.tokenizer_model = folder.find_file("tokenizer.model");
  folder.vocab_json = folder.find_file("vocab.json");
  folder.merges_txt = folder.find_file("merges.txt");
  folder.special_tokens_map = folder.find_file("special_tokens_map.json");
  folder.added_tokens = folder.find_file("added_tokens.json");
  folder.weights_known = problems.attempt([&] {
    if (const auto single = folder.find_file("model.safetensors"))
      folder.weights = open_safetensors(*single).weights;
    else if (const auto index = folder.find_file("model.safetensors.index.json"))
      folder.weights = open_safetensors_index(*index, &problems, &folder.unread_tensors);
    else
      fail("{}: has no weights: expected model.safetensors or model.safetensors.index.json",
           path.string());
  });
  const bool whole_numbers = std::ranges::any_of(
      folder.weights.tensors(), [](const TensorView& tensor) { return !is_float(tensor.type); });
  if (const std::string what = foreign_quantization(folder.config, whole_numbers); !what.empty())
    return foreign(fmt::format("{}: {}", (path / "config.json").string(), what));
  if (!noted) own.raise();
  return folder;
}

}  // namespace reprise
