#include "convert/looped/convert_looped.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/file.h"
#include "base/folder.h"
#include "base/json.h"
#include "convert/target.h"
#include "formats/gguf_writer.h"
#include "formats/safetensors_writer.h"
#include "model/arch/architecture.h"
#include "model/config/vision_language.h"

namespace reprise {
namespace {

using OrderedJson = nlohmann::ordered_json;

// Layers of the dense model that the looped one's layers are like, in order.
std::vector<int> like_layers(const LoopLayout& layout) {
  std::vector<int> layers;
  for (int i = 0; i < layout.layers(); ++i)
    layers.push_back(i < layout.first   ? i
                     : layout.looped(i) ? layout.tied(0, i - layout.first)
                                        : i - layout.layers() + layout.dense);
  return layers;
}

// Keys of the decoder that have an entry a layer, where layers are of different kinds. config.json's
// own ones follow the layers whether or not they are.
Json layer_kinds(const ConversionSource& source, const LoopedModel& model,
                 const std::function<bool(const char* key)>& has) {
  const std::vector<BlockConfig>& blocks = source.config->text.blocks;
  const auto unlike = [&](auto BlockConfig::*part) {
    return std::ranges::any_of(
        blocks, [&](const BlockConfig& block) { return block.*part != blocks[0].*part; });
  };
  Json kinds = Json::object();
  const bool windows = has("layer_types") || unlike(&BlockConfig::window);
  const bool ropes =
      has("no_rope_layers") || std::ranges::count(blocks, kNoRope, &BlockConfig::rope) > 0;
  for (const int layer : like_layers(model.layout())) {
    const BlockConfig& block = blocks[static_cast<size_t>(layer)];
    if (windows)
      kinds["layer_types"].push_back(block.window > 0 ? "sliding_attention" : "full_attention");
    if (ropes) kinds["no_rope_layers"].push_back(block.rope == kNoRope ? 0 : 1);
  }
  return kinds;
}

// config.json of the looped model: the decoder's own, with the scheme's section.
std::string looped_config(const ConversionSource& source, const LoopedModel& model) {
  const LoopLayout& layout = model.layout();
  parse_json(source.config_text, source.path());  // checks what ordered_json would not: depth
  OrderedJson config = OrderedJson::parse(source.config_text);
  const OrderedJson whole = config;
  if (config.contains("llm_config")) {  // a vision-language model's decoder
    config = OrderedJson(whole["llm_config"]);
    for (const char* key : {"eos_token_id", "bos_token_id", "reprise"})
      if (whole.contains(key) && !config.contains(key)) config[key] = whole[key];
  }
  const ModelConfig& known = *source.config;
  if (known.scheme != default_scheme().name) {
    for (const char* key : {"auto_map",  // remote code of the whole model
                            "vision_config", "image_token_index", "downsample_ratio"})
      config.erase(key);
    config["architectures"] = {known.text.kind->name};
  }
  config["num_hidden_layers"] = layout.layers();
  config["vocab_size"] = known.text.vocab;
  const Json kinds =
      layer_kinds(source, model, [&](const char* key) { return config.contains(key); });
  for (const auto& [key, value] : kinds.items()) config[key] = OrderedJson::parse(value.dump());
  OrderedJson own = config.contains("reprise") ? config["reprise"] : OrderedJson::object();
  for (const SchemeType* type : scheme_types()) own.erase(type->name);
  own.erase("image");
  own["scheme"] = looping_scheme().name;
  own[looping_scheme().name] =
      OrderedJson::parse(looping_scheme().looping.section(model.shape()).dump());
  if (model.stores_qkv_apart()) own["qkv"] = "separate";
  if (!own.contains("chat_format")) {
    const Json as_json = parse_json(whole.dump(), source.path());
    if (const std::string format = release_chat_format(as_json); !format.empty())
      own["chat_format"] = format;
  }
  config["reprise"] = own;
  return config.dump(2) + "\n";
}

// Keys of a llama.cpp file for the looped model.
GgufMetadata looped_metadata(const ConversionSource& source, const LoopedModel& model) {
  const LoopLayout& layout = model.layout();
  GgufMetadata metadata = source.model.gguf()->metadata;
  const std::string architecture = metadata.get_string("general.architecture");
  metadata.set(architecture + ".block_count", GgufValue(static_cast<uint32_t>(layout.layers())));
  Json own = {{"scheme", looping_scheme().name},
              {looping_scheme().name, looping_scheme().looping.section(model.shape())}};
  if (model.stores_qkv_apart()) own["qkv"] = "separate";
  own.update(layer_kinds(source, model, [](const char*) { return false; }));
  metadata.set(kOwnKeysKey, own.dump());
  return metadata;
}

// Small files that belong to a language model alone.
StoredFiles language_files(const ConversionSource& source) {
  StoredFiles files = source.files;
  if (source.config->scheme != default_scheme().name)
    std::erase_if(files, [](const auto& file) {
      return file.first.ends_with(".py") || file.first == "preprocessor_config.json" ||
             file.first == "processor_config.json";
    });
  return files;
}

}  // namespace

LoopedResult convert_looped(const ConversionSource& source, const std::filesystem::path& target,
                            bool gguf, const LoopOptions& loop, const ConvertOptions& options) {
  const bool others = source.model.kind() == ModelSource::Kind::OtherGguf;
  if (gguf)
    check_target_gguf(source, target, options.replace);
  else
    check_target_folder(source, target, options.replace);
  if (!gguf && others)
    fail(
        "{}: is a GGUF file of another program, of which only a GGUF file can be made (a name that ends in .gguf)",
        source.path());
  if (!source.config->plan.empty())
    fail(
        "{}: has a stored plan ({}), which is one for its own layers; expected a model without one "
        "('reprise plan store MODEL none OUT' takes it away)",
        source.path(), source.config->plan);
  if (!gguf) check_folder_types(options.types, target.string());
  LoopedModel model(source, loop, options.threads);
  LoopedResult all;
  std::vector<OutputTensor> tensors;
  std::map<std::string, size_t> index;
  TypeRules rules = options.types;
  bool has_head = false;
  int layers = 0;
  for (const LoopedModel::Output& output : model.outputs()) {
    has_head = has_head || output.slot.role == Role::Head;
    layers = std::max(layers, output.slot.layer + 1);
  }
  rules.model = mix_model(source.config->text, has_head);
  rules.model.layers = layers;
  for (const LoopedModel::Output& output : model.outputs()) {
    TypeChoice choice = choose_type(output.view, &output.slot, rules);
    if (is_quantized(choice.type) && !gguf) choice.type = DType::F32;
    index[output.view.name] = tensors.size();
    tensors.push_back({output.view, choice.type});
    ConvertedTensor entry;
    entry.name = output.view.name;
    entry.role = role_name(output.slot);
    entry.shape = output.view.shape;
    entry.from = output.view.type;
    entry.to = choice.type;
    entry.bytes = tensor_bytes(choice.type, output.view.shape);
    entry.note = choice.note;
    all.result.bytes += entry.bytes;
    all.result.tensors.push_back(std::move(entry));
  }
  const auto count = [&](const TensorView& tensor) {
    all.dense_bytes += static_cast<int64_t>(tensor.data.size());
    all.dense_weights += num_elements(tensor.shape);
  };
  for (const TensorView& tensor : source.weights.tensors())
    if (const TensorSlot* slot = source.slot(tensor.name);
        slot && tensor.name.starts_with(source.config->tensor_prefix))
      count(tensor);
  all.result.source_bytes = all.dense_bytes;

  TensorConverter converter(options.threads);
  const TensorWriter writer = [&](const OutputTensor& tensor, const ByteSink& sink) {
    const std::string& name = tensor.source.name;
    const size_t at = index.at(name);
    const auto progress = [&](int64_t done, int64_t total, const std::string& what) {
      if (options.progress) options.progress(done, total, what.empty() ? name : what);
    };
    const TensorView values = model.values(at, progress);
    all.result.tensors[at].error = converter.write({values, tensor.type}, sink);
    if (options.progress) options.progress(0, 0, name);  // may stop
  };
  const StoredFiles files = language_files(source);
  if (gguf) {
    GgufMetadata metadata =
        others ? looped_metadata(source, model)
               : own_metadata(source, looped_config(source, model), looping_scheme().name, files);
    set_file_type(metadata, tensors, rules.mix, others);
    write_gguf(target, metadata, tensors, writer);
  } else {
    std::map<std::string, std::string> metadata = source.weights_metadata;
    metadata.emplace("format", "pt");  // transformers asks for it
    write_folder_atomically(target, options.replace, [&](const std::filesystem::path& folder) {
      write_file_atomically(folder / "config.json", looped_config(source, model));
      for (const auto& [name, bytes] : files) write_file_atomically(folder / name, bytes);
      write_safetensors_folder(folder, tensors, metadata, options.shard_bytes, writer);
      for (const auto& entry : std::filesystem::directory_iterator(folder))
        all.result.files.push_back(entry.path().filename().string());
    });
    std::ranges::sort(all.result.files);
  }
  all.layout = model.layout();
  all.shape = model.shape();
  all.capped = model.capped_ranks();
  all.adapters = model.reports();
  all.fits = model.fits();
  all.calibration_tokens = model.calibration_tokens();
  all.refit_tokens = model.refit_tokens();
  all.dropped = model.dropped();
  return all;
}

int64_t LoopedResult::weights() const {
  int64_t sum = 0;
  for (const ConvertedTensor& tensor : result.tensors) sum += num_elements(tensor.shape);
  return sum;
}

Json looped_report(const LoopedResult& result) {
  Json report = loop_layout_json(result.layout);
  report["adapters"] = Json::array();
  for (const AdapterReport& adapter : result.adapters) {
    Json entry = {{"block", adapter.block},       {"loop", adapter.loop},
                  {"matrix", adapter.matrix},     {"weight", adapter.weight},
                  {"residual", adapter.residual}, {"missing", adapter.missing}};
    if (result.calibration_tokens > 0) {
      entry["weighted_residual"] = adapter.weighted_residual;
      entry["weighted_missing"] = adapter.weighted_missing;
    }
    report["adapters"].push_back(std::move(entry));
  }
  if (result.calibration_tokens > 0) report["calibration_tokens"] = result.calibration_tokens;
  if (result.refit_tokens > 0) report["refit_tokens"] = result.refit_tokens;
  if (!result.fits.empty()) report["fits"] = Json::array();
  for (const FitReport& fit : result.fits)
    report["fits"].push_back(
        {{"block", fit.block}, {"matrix", fit.matrix}, {"start", fit.start}, {"end", fit.end}});
  report["ranks"] = result.shape.ranks;
  if (!result.capped.empty()) report["capped_ranks"] = result.capped;
  report["dropped"] = result.dropped;
  report["dense_bytes"] = result.dense_bytes;
  report["dense_weights"] = result.dense_weights;
  report["weights"] = result.weights();
  return report;
}

}  // namespace reprise
