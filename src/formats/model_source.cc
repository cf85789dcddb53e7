#include "formats/model_source.h"

#include <iterator>

#include "base/json.h"

namespace reprise {

ModelSource ModelSource::open(const std::filesystem::path& path, Problems* noted) {
  ModelSource source;
  source.path_ = path;
  if (std::filesystem::is_directory(path)) {
    source.kind_ = Kind::Folder;
    source.folder_ = std::make_shared<HfFolder>(HfFolder::open(path, noted));
    source.weights_ = WeightFile(path.string(), source.folder_->weights.tensors());
    return source;
  }
  if (!std::filesystem::exists(path))
    fail("{}: no such file or folder; expected a Hugging Face folder or a GGUF file",
         path.string());
  source.gguf_ = std::make_shared<GgufFile>(open_gguf(path));
  source.kind_ = source.gguf_->metadata.has(kConfigKey) ? Kind::OwnGguf : Kind::OtherGguf;
  source.weights_ = source.gguf_->weights;
  return source;
}

std::string ModelSource::format() const {
  if (!gguf_) return folder_ ? "Hugging Face" : "";
  std::string text = fmt::format("GGUF v{}", gguf_->version);
  if (gguf_->parts.size() > 1) text += fmt::format(", {} parts", gguf_->parts.size());
  return text;
}

void ModelSource::add_tensors(std::vector<TensorView> tensors) {
  if (tensors.empty()) return;
  std::vector<TensorView> all = weights_.tensors();
  all.insert(all.end(), std::make_move_iterator(tensors.begin()),
             std::make_move_iterator(tensors.end()));
  weights_ = WeightFile(path_.string(), std::move(all));
}

bool ModelSource::may_be_unread(const std::string& name) const {
  return folder_ && (!folder_->weights_known || folder_->unread_tensors.contains(name));
}

std::optional<JsonValue> ModelSource::config_json() const {
  if (folder_) return folder_->config;
  if (!gguf_) return std::nullopt;
  const auto text = gguf_->metadata.find_string(kConfigKey);
  if (!text) return std::nullopt;
  return parse_json(*text, config_where());
}

std::string ModelSource::config_where() const {
  if (folder_) return (path_ / "config.json").string();
  return fmt::format("{}: key '{}'", path_.string(), kConfigKey);
}

}  // namespace reprise
