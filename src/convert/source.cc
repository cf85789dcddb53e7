#include "convert/source.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "convert/file_backend.h"
#include "formats/hf_folder.h"
#include "formats/safetensors.h"
#include "model/config/architecture.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

// Why a model of an unknown architecture can't be run.
std::string unknown_reason(const Json& config, const std::string& where) {
  try {
    config_from_json(config, where);
  } catch (const Error& error) {
    return error.what();
  }
  return where + ": unknown architecture";
}

// Reads and checks the files as for running the model; fills config, slots and weights.
void open_model(const LoadOptions& options, ModelSource& source) {
  FileBackend backend;
  const auto model = Model::load(source.path, backend, options);
  source.config = model->config();
  model->visit_tensors([&](TensorSlot slot) {
    slot.tensor = nullptr;
    source.slots.emplace(slot.name, slot);
  });
  source.weights = model->files().weights;
  if (source.config->text.tied_head) {  // a copy of the head may be stored all the same
    for (const TensorView& tensor : source.weights.tensors())
      if (!source.slot(tensor.name) &&
          (tensor.name.ends_with("lm_head.weight") || tensor.name.ends_with("output.weight")))
        source.slots.emplace(tensor.name, TensorSlot{tensor.name, tensor.shape, WeightUse::Matrix,
                                                     Role::Head, nullptr});
  }
}

void open_folder(const LoadOptions& options, ModelSource& source) {
  const std::filesystem::path& path = source.path;
  source.kind = ModelSource::Kind::Folder;
  const std::filesystem::path config = path / "config.json";
  Json json;
  Problems unreadable;  // said below, with all else that is wrong
  unreadable.attempt([&] { json = load_json(config); });
  if (!knows_architecture(json)) source.unknown = unknown_reason(json, config.string());
  if (source.unknown.empty()) {
    open_model(options, source);
  } else {
    source.weights = HfFolder::open(path).weights;
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.path().extension() == ".pt")
        fail("{}: may hold a part of the model, whose architecture is unknown here ({})",
             entry.path().string(), source.unknown);
  }
  source.config_text = read_file(config);
  const SchemeType* type = source.config ? find_scheme(source.config->scheme) : nullptr;
  source.files = read_small_files(path, type ? type->files.names : std::vector<std::string>(),
                                  source.left_out);
  for (const TensorView& tensor : source.weights.tensors()) {
    if (!tensor.file || tensor.file->path().extension() != ".safetensors") continue;
    source.weights_metadata = open_safetensors(tensor.file->path()).metadata;
    break;  // shards have the same
  }
}

// Gives tensors the types and shapes they had before they were written as GGUF.
std::vector<TensorView> restore_forms(const GgufMetadata& metadata,
                                      std::vector<TensorView> tensors) {
  const auto text = metadata.find_string(kTensorFormsKey);
  if (!text) return tensors;
  const std::string where = fmt::format("{}: key '{}'", metadata.where(), kTensorFormsKey);
  const Json json = parse_json(*text, where);
  const JsonObject forms(json, where);
  for (TensorView& tensor : tensors) {
    const auto form = forms.find_object(tensor.name);
    if (!form) continue;
    const std::string type = form->get_string("dtype");
    if (type == dtype_name(DType::U8))
      tensor.type = DType::U8;
    else if (type == dtype_name(DType::Bool))
      tensor.type = DType::Bool;
    else if (type != dtype_name(tensor.type))
      form->fail_at(
          "dtype", fmt::format("expected U8, BOOL or {}, found {}", dtype_name(tensor.type), type));
    Shape shape;
    for (const double dim : form->get_numbers("shape")) shape.push_back(static_cast<int64_t>(dim));
    if (tensor_bytes(tensor.type, shape) != static_cast<int64_t>(tensor.data.size()))
      form->fail_at("shape", fmt::format("{} doesn't fit the tensor's {} bytes",
                                         shape_string(shape), tensor.data.size()));
    tensor.shape = std::move(shape);
  }
  return tensors;
}

void open_gguf_file(const LoadOptions& options, ModelSource& source) {
  GgufFile file = open_gguf(source.path);
  const GgufMetadata& metadata = file.metadata;
  if (const auto config = metadata.find_string(kConfigKey)) {
    source.kind = ModelSource::Kind::OwnGguf;
    source.config_text = *config;
    source.files = load_stored_files(metadata);
    const std::string where = fmt::format("{}: key '{}'", metadata.where(), kConfigKey);
    if (const Json json = parse_json(*config, where); !knows_architecture(json))
      source.unknown = unknown_reason(json, where);
    if (const auto text = metadata.find_string(kWeightsMetadataKey)) {
      const std::string key = fmt::format("{}: key '{}'", metadata.where(), kWeightsMetadataKey);
      const Json json = parse_json(*text, key);
      const JsonObject object(json, key);
      for (const auto& [name, value] : json.items())
        source.weights_metadata[name] = object.get_string(name);
    }
  } else {
    source.kind = ModelSource::Kind::OtherGguf;
  }
  if (source.unknown.empty()) open_model(options, source);
  source.weights =
      WeightFile(source.path.string(), restore_forms(metadata, std::move(file.weights).tensors()));
  source.metadata = std::move(file.metadata);
}

}  // namespace

const TensorSlot* ModelSource::slot(const std::string& name) const {
  const auto it = slots.find(name);
  return it == slots.end() ? nullptr : &it->second;
}

ModelSource open_source(const std::filesystem::path& path, const LoadOptions& options) {
  ModelSource source;
  source.path = path;
  if (std::filesystem::is_directory(path))
    open_folder(options, source);
  else if (std::filesystem::exists(path))
    open_gguf_file(options, source);
  else
    fail("{}: no such file or folder; expected a Hugging Face folder or a GGUF file",
         path.string());
  return source;
}

}  // namespace reprise
