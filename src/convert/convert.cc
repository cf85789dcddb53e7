#include "convert/convert.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/json.h"
#include "base/pattern.h"
#include "convert/folder_form.h"
#include "convert/target.h"
#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

using OrderedJson = nlohmann::ordered_json;

// A pattern that no tensor has is a mistake in it.
void check_overrides(const ConversionSource& source, const TypeRules& rules) {
  for (const auto& [pattern, type] : rules.overrides) {
    const auto& tensors = source.weights.tensors();
    if (std::ranges::none_of(tensors, [&](const TensorView& tensor) {
          return matches_pattern(pattern, tensor.name);
        }))
      fail("--keep '{}': no tensor of {} has such a name", pattern, source.path());
  }
}

bool has_head(const ConversionSource& source) {
  const auto& tensors = source.weights.tensors();
  return std::ranges::any_of(tensors, [&](const TensorView& tensor) {
    const TensorSlot* slot = source.slot(tensor.name);
    return slot && slot->role == Role::Head;
  });
}

// What is to be written, and what is known about it once it has been.
class Conversion {
 public:
  Conversion(const ConversionSource& source, const ConvertOptions& options)
      : source_(source), options_(options), converter_(options.threads) {}

  void add(const TensorView& tensor, DType type, TypeNote note) {
    const TensorSlot* slot = source_.slot(tensor.name);
    ConvertedTensor entry;
    entry.name = tensor.name;
    entry.role = slot ? role_name(*slot) : "other";
    entry.shape = tensor.shape;
    entry.from = tensor.type;
    entry.to = type;
    entry.bytes = tensor_bytes(type, tensor.shape);
    entry.note = note;
    result_.source_bytes += static_cast<int64_t>(tensor.data.size());
    result_.bytes += entry.bytes;
    index_.emplace(tensor.name, result_.tensors.size());
    result_.tensors.push_back(std::move(entry));
  }

  TensorWriter writer() {
    return [this](const OutputTensor& tensor, const ByteSink& sink) { write(tensor, sink); };
  }

  // A small tensor in memory.
  TensorView convert(const OutputTensor& tensor) {
    std::vector<std::byte> bytes;
    write(tensor, [&](std::span<const std::byte> part) {
      bytes.insert(bytes.end(), part.begin(), part.end());
    });
    return make_view(tensor.source.name, tensor.type, tensor.source.shape, std::move(bytes));
  }

  ConvertResult result() && { return std::move(result_); }
  ConvertResult& partial() { return result_; }

 private:
  void write(const OutputTensor& tensor, const ByteSink& sink) {
    const std::string& name = tensor.source.name;
    const int64_t before = done_;
    const auto progress = [&](int64_t bytes) {
      if (options_.progress) options_.progress(before + bytes, result_.source_bytes, name);
    };
    ConvertedTensor& entry = result_.tensors[index_.at(name)];
    const auto edit = source_.edits.find(name);
    entry.error =
        converter_.write(edit == source_.edits.end()
                             ? tensor
                             : OutputTensor{edited(tensor.source, edit->second), tensor.type},
                         sink, progress);
    done_ = before + static_cast<int64_t>(tensor.source.data.size());
  }

  const ConversionSource& source_;
  const ConvertOptions& options_;
  TensorConverter converter_;
  ConvertResult result_;
  std::map<std::string, size_t> index_;
  int64_t done_ = 0;
};

// GGUF has signed bytes only and one to four dimensions: such tensors are written in another form
// with the same bytes, and `forms` says what they are.
TensorView gguf_form(const TensorView& tensor, OrderedJson& forms) {
  const bool odd_type = tensor.type == DType::U8 || tensor.type == DType::Bool;
  const bool odd_shape = tensor.shape.empty() || tensor.shape.size() > 4;
  if (!odd_type && !odd_shape) return tensor;
  forms[tensor.name] = {{"dtype", dtype_name(tensor.type)}, {"shape", tensor.shape}};
  TensorView view = tensor;
  if (odd_type) view.type = DType::I8;
  if (odd_shape) view.shape = {num_elements(tensor.shape)};
  return view;
}

// config.json with the type that from_pretrained(torch_dtype="auto") goes by. The text stays as it
// is where there is nothing to change.
std::string config_of_type(const std::string& text, std::optional<DType> type,
                           const std::string& where) {
  const std::map<DType, const char*> names = {
      {DType::F32, "float32"}, {DType::F16, "float16"}, {DType::BF16, "bfloat16"}};
  if (!type) return text;
  parse_json(text, where);  // checks what ordered_json would not: depth
  OrderedJson json = OrderedJson::parse(text);
  bool changed = false;
  const auto edit = [&](OrderedJson& object) {
    for (const char* key : {"torch_dtype", "dtype"}) {
      if (object.contains(key) && object[key].is_string() && object[key] != names.at(*type)) {
        object[key] = names.at(*type);
        changed = true;
      }
    }
  };
  edit(json);
  for (const char* part : {"llm_config", "text_config"})
    if (json.contains(part) && json[part].is_object()) edit(json[part]);
  return changed ? json.dump(2) + "\n" : text;
}

// The type that all matrices and tables have: what a model is loaded as. F32 where they differ.
DType common_type(const ConversionSource& source, const std::vector<OutputTensor>& tensors) {
  std::optional<DType> common;
  for (const OutputTensor& tensor : tensors) {
    const TensorSlot* slot = source.slot(tensor.source.name);
    if (!slot || slot->use == WeightUse::Vector) continue;
    if (common && *common != tensor.type) return DType::F32;
    common = tensor.type;
  }
  return common.value_or(DType::F32);
}

}  // namespace

ConvertResult convert_to_gguf(const ConversionSource& source, const std::filesystem::path& target,
                              const ConvertOptions& options) {
  check_target_gguf(source, target, options.replace);
  check_overrides(source, options.types);
  Conversion conversion(source, options);
  std::vector<OutputTensor> tensors;
  OrderedJson forms = OrderedJson::object();
  TypeRules rules = options.types;
  if (source.config) rules.model = mix_model(source.config->text, has_head(source));
  for (const TensorView& tensor : source.weights.tensors()) {
    const TypeChoice choice = choose_type(tensor, source.slot(tensor.name), rules);
    conversion.add(tensor, choice.type, choice.note);
    const TensorView view = gguf_form(tensor, forms);
    tensors.push_back({view, view.type == tensor.type ? choice.type : view.type});
  }
  GgufMetadata metadata;
  if (source.model.gguf()) {
    metadata = source.model.gguf()->metadata;
  } else {
    metadata = own_metadata(source, source.config_text,
                            source.config ? source.config->scheme : std::string(), source.files);
    if (source.config && !source.config->presets.empty())
      metadata.set("reprise.presets", source.config->presets);
    if (source.config && !source.config->plan.empty()) metadata.set(kPlanKey, source.config->plan);
  }
  for (const auto& [key, text] : options.keys) {
    if (text)
      metadata.set(key, *text);
    else
      metadata.erase(key);
  }
  if (!forms.empty()) metadata.set(kTensorFormsKey, forms.dump());
  // One that is said already stays right as long as no tensor changes.
  if (!metadata.has("general.file_type") ||
      std::ranges::any_of(tensors, [](const auto& one) { return one.type != one.source.type; }))
    set_file_type(metadata, tensors, options.types.mix, options.types.type.has_value());
  write_gguf(target, metadata, tensors, conversion.writer());
  return std::move(conversion).result();
}

ConvertResult convert_to_folder(const ConversionSource& given, const std::filesystem::path& target,
                                const ConvertOptions& options) {
  check_folder_types(options.types, target.string());
  check_target_folder(given, target, options.replace);
  std::vector<std::string> notes;
  const bool other = given.model.kind() == ModelSource::Kind::OtherGguf;
  const ConversionSource made = other ? folder_form(given, notes) : ConversionSource();
  const ConversionSource& source = other ? made : given;
  check_overrides(source, options.types);
  Conversion conversion(source, options);
  conversion.partial().notes = notes;
  std::set<std::string> extra;  // tensors that go into files of the scheme
  const SchemeType* type = source.config ? find_scheme(source.config->scheme) : nullptr;
  const SchemeFiles own = type ? type->files : SchemeFiles();
  extra.insert(own.tensors.begin(), own.tensors.end());
  std::vector<OutputTensor> tensors;
  std::map<std::string, OutputTensor> extra_outputs;
  for (const TensorView& tensor : source.weights.tensors()) {
    TypeChoice choice = choose_type(tensor, source.slot(tensor.name), options.types);
    const auto edit = source.edits.find(tensor.name);
    const bool changed = edit != source.edits.end() && edit->second.add != 0;
    if (is_quantized(choice.type) || changed) choice.type = DType::F32;
    conversion.add(tensor, choice.type, choice.note);
    if (extra.contains(tensor.name))
      extra_outputs.insert({tensor.name, {tensor, choice.type}});
    else
      tensors.push_back({tensor, choice.type});
  }
  std::map<std::string, std::string> metadata = source.weights_metadata;
  metadata.emplace("format", "pt");  // transformers asks for it
  const std::string config = config_of_type(
      source.config_text, other ? common_type(source, tensors) : options.types.type, source.path());

  write_folder_atomically(target, options.replace, [&](const std::filesystem::path& folder) {
    write_file_atomically(folder / "config.json", config);
    for (const auto& [name, bytes] : source.files) write_file_atomically(folder / name, bytes);
    if (own.write) {
      std::vector<TensorView> list;
      for (const std::string& name : own.tensors)
        list.push_back(conversion.convert(extra_outputs.at(name)));
      own.write(*source.config, list, folder);
    }
    write_safetensors_folder(folder, tensors, metadata, options.shard_bytes, conversion.writer());
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      conversion.partial().files.push_back(entry.path().filename().string());
  });
  ConvertResult result = std::move(conversion).result();
  std::sort(result.files.begin(), result.files.end());
  return result;
}

}  // namespace reprise
