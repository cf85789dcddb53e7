#include "convert/source.h"

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "convert/file_backend.h"
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

// Checks the files as for running the model; fills config and slots.
void open_model(const LoadOptions& options, Problems problems, ConversionSource& source) {
  FileBackend backend;
  const auto model = Model::load(source.model, backend, options, std::move(problems));
  source.model = model->source();  // with a scheme's own tensors
  source.config = model->config();
  model->visit_tensors([&](TensorSlot slot) {
    slot.tensor = nullptr;
    source.slots.emplace(slot.name, slot);
  });
  if (source.config->text.tied_head) {  // a copy of the head may be stored all the same
    for (const TensorView& tensor : source.model.weights().tensors())
      if (!source.slot(tensor.name) &&
          (tensor.name.ends_with("lm_head.weight") || tensor.name.ends_with("output.weight")))
        source.slots.emplace(tensor.name, TensorSlot{tensor.name, tensor.shape, WeightUse::Matrix,
                                                     Role::Head, nullptr});
  }
}

// What a folder has beside config and tensors.
void read_folder(ConversionSource& source) {
  const std::filesystem::path& path = source.model.path();
  if (!source.unknown.empty()) {
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.path().extension() == ".pt")
        fail("{}: may hold a part of the model, whose architecture is unknown here ({})",
             entry.path().string(), source.unknown);
  }
  source.config_text = read_file(path / "config.json");
  const SchemeType* type = source.config ? find_scheme(source.config->scheme) : nullptr;
  source.files = read_small_files(path, type ? type->files.names : std::vector<std::string>(),
                                  source.left_out);
  for (const TensorView& tensor : source.model.weights().tensors()) {
    if (!tensor.file || tensor.file->path().extension() != ".safetensors") continue;
    source.weights_metadata = open_safetensors(tensor.file->path()).metadata;
    break;  // shards have the same
  }
  source.weights = source.model.weights();
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

// What a GGUF file has beside them.
void read_gguf(ConversionSource& source) {
  const GgufMetadata& metadata = source.model.gguf()->metadata;
  if (source.model.kind() == ModelSource::Kind::OwnGguf) {
    source.config_text = metadata.get_string(kConfigKey);
    source.files = load_stored_files(metadata);
    if (const auto text = metadata.find_string(kWeightsMetadataKey)) {
      const std::string key = fmt::format("{}: key '{}'", metadata.where(), kWeightsMetadataKey);
      const Json json = parse_json(*text, key);
      const JsonObject object(json, key);
      for (const auto& [name, value] : json.items())
        source.weights_metadata[name] = object.get_string(name);
    }
  }
  source.weights =
      WeightFile(source.path(), restore_forms(metadata, source.model.weights().tensors()));
}

}  // namespace

const TensorSlot* ConversionSource::slot(const std::string& name) const {
  const auto it = slots.find(name);
  return it == slots.end() ? nullptr : &it->second;
}

ConversionSource open_source(const std::filesystem::path& path, const LoadOptions& options) {
  ConversionSource source;
  Problems problems;  // said below, with all else that is wrong
  source.model = ModelSource::open(path, &problems);
  if (const auto json = source.model.config_json(); json && !knows_architecture(*json))
    source.unknown = unknown_reason(*json, source.model.config_where());
  if (source.unknown.empty())
    open_model(options, std::move(problems), source);
  else
    problems.raise();
  if (source.model.folder())
    read_folder(source);
  else
    read_gguf(source);
  return source;
}

}  // namespace reprise
