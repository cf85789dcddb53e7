#include "model/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "model/arch/architecture.h"
#include "model/config/config_parts.h"
#include "model/model.h"
#include "model/scheme_type.h"

namespace reprise {
namespace {

// Tensors that some files carry and that nothing here reads.
bool ignorable(const std::string& name, const Architecture& kind) {
  for (const char* end : kind.unread)
    if (name.ends_with(end)) return true;
  for (const char* end : {"rotary_emb.inv_freq", "position_ids", "rope_freqs.weight",
                          "rope_factors_long.weight", "rope_factors_short.weight",
                          // CLIP's last norm: the official code stops before it
                          "vision_model.post_layernorm.weight", "vision_model.post_layernorm.bias"})
    if (name.ends_with(end)) return true;
  return false;
}

HostTensor host_tensor(const TensorView& view, const TensorSlot& slot) {
  HostTensor host{view.type, view.shape, view.data, view.owner, {}};
  if (slot.flatten)  // patch convolutions are read as matrices
    host.shape = {view.shape[0], num_elements(view.shape) / std::max<int64_t>(1, view.shape[0])};
  if (view.file)
    host.release = [file = view.file, data = view.data, owner = view.owner] {
      file->release(data);
    };
  return host;
}

// Whether two tensors hold the same values. Row by row: vocabularies are large.
bool same_values(const TensorView& a, const TensorView& b) {
  if (a.shape != b.shape || a.shape.empty()) return false;
  if (a.type == b.type) return std::ranges::equal(a.data, b.data);
  const auto rows = static_cast<size_t>(a.shape[0]);
  const auto row = [&](const TensorView& view, size_t r) {
    TensorView one = view;
    one.shape[0] = 1;
    const size_t bytes = view.data.size() / rows;
    one.data = view.data.subspan(r * bytes, bytes);
    return to_floats(one);
  };
  for (size_t r = 0; r < rows; ++r)
    if (row(a, r) != row(b, r)) return false;
  return true;
}

// What a tensor of this use may be stored as; empty where `type` is among it.
std::string expected_types(WeightUse use, DType type) {
  if (use == WeightUse::Vector) return is_float(type) ? "" : "F32, F16, BF16 or F64";
  const bool fits = is_quantized(type) || (is_float(type) && type != DType::F64);
  return fits ? "" : names_with_quantized({DType::F32, DType::F16, DType::BF16});
}

// One problem of many lines for all tensors, cut where it grows too long to be read.
std::string list_problems(const std::string& where, const std::vector<std::string>& problems) {
  constexpr size_t kMostShown = 30;
  std::string text = fmt::format("{}: the weights don't fit the config:", where);
  for (size_t i = 0; i < problems.size() && i < kMostShown; ++i) text += "\n  " + problems[i];
  if (problems.size() > kMostShown)
    text += fmt::format("\n  and {} more", problems.size() - kMostShown);
  return text;
}

}  // namespace

ModelConfig config_from_folder(const HfFolder& folder, Problems& problems, bool& holds) {
  const size_t before = problems.list().size();
  ModelConfig config =
      config_from_json(folder.config, (folder.path / "config.json").string(), &problems);
  holds = problems.list().size() == before;
  if (folder.generation_config)
    problems.attempt([&] {
      const std::string where = (folder.path / "generation_config.json").string();
      read_end_tokens(JsonObject(*folder.generation_config, where), config.eos_tokens);
    });
  return config;
}

TensorNames tensor_names(const ModelConfig& config, bool gguf_style) {
  TensorNames names;
  names.table = gguf_style ? &gguf_names() : config.text.kind->names;
  names.prefix = config.tensor_prefix;
  if (!gguf_style) names.layers = config.text.layer_names;
  if (config.text.image_lora_rank > 0) names.matrix_suffix = ".ffn";
  return names;
}

ModelConfig read_config(const ModelSource& source, Problems& problems, bool& holds) {
  if (source.folder()) return config_from_folder(*source.folder(), problems, holds);
  ModelConfig config;
  holds = problems.attempt([&] { config = config_from_gguf(*source.gguf()); });
  return config;
}

TensorNames tensor_names(const ModelSource& source, const ModelConfig& config) {
  return tensor_names(config, source.kind() == ModelSource::Kind::OtherGguf);
}

void Model::check_tensors(const WeightFile& weights, const TensorCheck& check, Problems& found) {
  std::vector<std::string> problems;
  std::set<std::string> known;
  visit_tensors([&](const TensorSlot& slot) {
    known.insert(slot.name);
    const TensorView* view = weights.find(slot.name);
    if (!view) {
      if (check.may_be_missing && check.may_be_missing(slot.name)) return;
      problems.push_back(fmt::format("tensor '{}' is missing", slot.name));
      if (check.shapes) problems.back() += ", expected shape " + shape_string(slot.shape);
      return;
    }
    if (check.shapes && view->shape != slot.shape)
      problems.push_back(fmt::format("tensor '{}' has shape {}, expected {}", slot.name,
                                     shape_string(view->shape), shape_string(slot.shape)));
    if (const std::string expected = expected_types(slot.use, view->type); !expected.empty())
      problems.push_back(fmt::format("tensor '{}' has type {}, expected {}", slot.name,
                                     dtype_name(view->type), expected));
  });
  for (const TensorView& view : weights.tensors()) {
    const bool tied_copy =  // a tied head may be stored all the same
        config_.text.tied_head && view.name == names_.of("head") + ".weight";
    if (!known.contains(view.name) && !ignorable(view.name, *config_.text.kind) && !tied_copy)
      problems.push_back(fmt::format("tensor '{}' is unexpected", view.name));
  }
  if (!problems.empty()) found.add(list_problems(weights.where(), problems));
}

// A head beside an embedding that the config ties it to: whether it counts (TextConfig). Files that
// could not be read leave it at the config's word.
void Model::find_head(const WeightFile& weights) {
  TextConfig& text = config_.text;
  const TensorView* head = weights.find(names_.of("head") + ".weight");
  if (!text.tied_head || !head) return;
  const TensorView* embedding = weights.find(names_.of("embed") + ".weight");
  if (text.stored_head_counts || (embedding && !same_values(*head, *embedding)))
    text.tied_head = false;
}

void Model::bind(const WeightFile& weights) {
  visit_tensors([&](const TensorSlot& slot) {
    *slot.tensor = backend_.bind(host_tensor(*weights.find(slot.name), slot), slot.use);
  });
  bind_unit_norms();
}

void Model::bind_unit_norms() {
  const TextConfig& text = config_.text;
  if (text.final_norm.unit) bind_unit_norm(backend_, text.final_norm, text.d, final_norm_);
  for (Block& block : blocks_) block.bind_unit_norms(backend_, text);
}

std::unique_ptr<Model> Model::load(const std::filesystem::path& path, Backend& backend,
                                   const LoadOptions& options) {
  Problems problems;
  ModelSource source = ModelSource::open(path, &problems);
  return load(std::move(source), backend, options, std::move(problems));
}

std::unique_ptr<Model> Model::load(ModelSource source, Backend& backend, const LoadOptions& options,
                                   Problems problems) {
  std::unique_ptr<Model> model;
  // What can be said of the files in spite of all that is wrong before is said with it.
  if (!source.folder() || source.folder()->config->is_object()) {
    TensorCheck check;
    const ModelConfig config = read_config(source, problems, check.shapes);
    // A GGUF file holds a scheme's own tensors among the others.
    const SchemeType* type = source.folder() ? find_scheme(config.scheme) : nullptr;
    const SchemeFiles own = type ? type->files : SchemeFiles();
    const bool layers_known = config.text.layers > 0;
    if (layers_known) problems.attempt([&] { model.reset(new Model(config, backend, options)); });
    std::vector<TensorView> extra;
    bool own_known = !own.read;
    if (own.read) {
      if (!layers_known) problems.attempt([&] { make_scheme(config); });  // its keys
      own_known =
          problems.attempt([&] { extra = own.read(config, source.path(), options.scheme); });
    }
    if (model) {
      check.may_be_missing = [&](const std::string& name) {
        if (std::ranges::count(own.tensors, name) > 0) return !own_known;
        return source.may_be_unread(name);
      };
      model->names_ = tensor_names(source, model->config_);
      problems.attempt([&] {
        source.add_tensors(std::move(extra));
        model->find_head(source.weights());
        model->check_tensors(source.weights(), check, problems);
      });
    }
  }
  problems.raise();
  model->bind(source.weights());
  model->source_ = std::move(source);
  return model;
}

std::unique_ptr<Model> Model::describe(const ModelConfig& config, Backend& backend) {
  std::unique_ptr<Model> model(new Model(config, backend, {}));
  model->names_ = tensor_names(config, /*gguf_style=*/false);
  return model;
}

std::unique_ptr<Model> Model::create(
    const ModelConfig& config, Backend& backend,
    const std::function<std::vector<float>(const TensorSlot&)>& initial,
    std::unique_ptr<Scheme> scheme, const LoadOptions& options) {
  std::unique_ptr<Model> model(new Model(config, backend, options, std::move(scheme)));
  model->names_ = tensor_names(config, /*gguf_style=*/false);
  model->visit_tensors([&](const TensorSlot& slot) {
    const std::vector<float> values = initial(slot);
    REPRISE_CHECK(static_cast<int64_t>(values.size()) == num_elements(slot.shape), "{}", slot.name);
    TensorView view = make_view(slot.name, slot.shape, values);
    *slot.tensor = backend.bind(host_tensor(view, slot), slot.use);
  });
  model->bind_unit_norms();
  return model;
}

}  // namespace reprise
