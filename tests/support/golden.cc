#include "support/golden.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "support/paths.h"
#include "support/torch_device.h"

namespace reprise::test {
namespace {

// Inputs and descriptions of inputs; nothing a forward pass gives.
bool is_input(const std::string& name) {
  static const std::set<std::string> inputs = {
      "input_ids",        "attention_mask", "image_positions", "pixel_values",           "pixel_u8",
      "phantom_position", "rows",           "vision_rows",     "vision_last_hidden_rows"};
  return inputs.contains(name);
}

TensorView without_batch(const TensorView& tensor) {
  TensorView one = tensor;
  REPRISE_CHECK(!one.shape.empty() && one.shape[0] == 1, "{}", tensor.name);
  one.shape.erase(one.shape.begin());
  return one;
}

// Vision tensors are [tiles, ...]: their first dimension is no batch.
bool has_batch(const std::string& name) {
  return !name.starts_with("vision") && name != "projected";
}

GoldenCase one_row_case(const std::filesystem::path& file, const WeightFile& data) {
  GoldenCase golden;
  golden.name = file.parent_path().filename().string() + "/" + file.stem().string();
  golden.inputs = read_token_inputs(file);
  for (const TensorView& tensor : data.tensors()) {
    if (is_input(tensor.name)) {
      // The positions a long case keeps are needed to compare the others.
      if (tensor.name == "rows" || tensor.name == "vision_rows" ||
          tensor.name == "vision_last_hidden_rows")
        golden.expected[tensor.name] = tensor;
      continue;
    }
    golden.expected[tensor.name] = has_batch(tensor.name) ? without_batch(tensor) : tensor;
  }
  return golden;
}

std::vector<GoldenCase> batch_cases(const std::filesystem::path& file, const WeightFile& data) {
  std::vector<GoldenCase> cases;
  const TensorView& ids = data.get("input_ids");
  const std::vector<int64_t> all = to_ints(ids);
  const std::vector<int64_t> mask = to_ints(data.get("attention_mask"));
  const int64_t rows = ids.shape[0], length = ids.shape[1];
  const TensorView* pixels = data.find("pixel_values");
  int64_t first_tile = 0;
  for (int64_t row = 0; row < rows; ++row) {
    GoldenCase golden;
    golden.name = fmt::format("{}/{}/row{}", file.parent_path().filename().string(),
                              file.stem().string(), row);
    golden.inputs.where = golden.name;
    for (int64_t i = 0; i < length; ++i)
      if (mask[static_cast<size_t>(row * length + i)])
        golden.inputs.ids.push_back(
            static_cast<int32_t>(all[static_cast<size_t>(row * length + i)]));
    const std::string prefix = fmt::format("alone.{}.", row);
    for (const TensorView& tensor : data.tensors())
      if (tensor.name.starts_with(prefix))
        golden.expected[tensor.name.substr(prefix.size())] = without_batch(tensor);
    if (pixels) {
      // Tiles of row 0, then of row 1: as many as the row's picture tokens need.
      const TensorView& projected = data.get("projected");
      const std::vector<int64_t> positions = to_ints(data.get("image_positions"));
      int64_t tokens = 0;
      for (size_t i = 0; i < positions.size(); i += 2) tokens += positions[i] == row;
      const int64_t tiles = tokens / projected.shape[1];
      TensorView part = *pixels;
      const size_t tile_bytes = part.data.size() / static_cast<size_t>(part.shape[0]);
      part.data = part.data.subspan(static_cast<size_t>(first_tile) * tile_bytes,
                                    static_cast<size_t>(tiles) * tile_bytes);
      part.shape[0] = tiles;
      golden.inputs.pixels = part;
      first_tile += tiles;
    }
    cases.push_back(std::move(golden));
  }
  return cases;
}

// Rows `rows` of `values` [n, width...] where the case keeps only some of them.
std::vector<float> pick_rows(const std::vector<float>& values, int64_t n,
                             const std::vector<int64_t>& rows, int64_t outer) {
  const int64_t width = static_cast<int64_t>(values.size()) / (n * outer);
  std::vector<float> picked;
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t row : rows) {
      const auto begin = values.begin() + (o * n + row) * width;
      picked.insert(picked.end(), begin, begin + width);
    }
  return picked;
}

// [rows, kv_heads, hd] -> [rows, heads, hd]: Qwen2 and Phi-3 repeat K/V heads first.
std::vector<float> repeat_heads(const std::vector<float>& values, const Shape& from,
                                int64_t heads) {
  std::vector<float> out;
  const int64_t group = heads / from[1];
  for (int64_t r = 0; r < from[0]; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      const auto begin = values.begin() + (r * from[1] + h / group) * from[2];
      out.insert(out.end(), begin, begin + from[2]);
    }
  return out;
}

bool is_logits(const std::string& name) { return name.ends_with("logits"); }

// Whether the plug-in was built: it is looked for in the build folder.
bool has_torch() {
  ::setenv("REPRISE_PLUGIN_DIR", std::filesystem::path(program()).parent_path().c_str(),
           /*overwrite=*/0);
  return torch_plugin_path().has_value();
}

}  // namespace

std::filesystem::path golden_root() { return test::data_dir() / "golden"; }

std::vector<GoldenCase> load_golden_cases(const std::filesystem::path& file) {
  const WeightFile data = open_safetensors(file).weights;
  if (data.get("input_ids").shape[0] == 1) return {one_row_case(file, data)};
  return batch_cases(file, data);
}

std::vector<std::string> compare(const GoldenCase& golden, const std::vector<TensorView>& traced,
                                 const Tolerances& tolerances, Distances* largest) {
  std::vector<std::string> problems;
  const auto rows_of = [&](const char* name) {
    const auto it = golden.expected.find(name);
    return it == golden.expected.end() ? std::vector<int64_t>() : to_ints(it->second);
  };
  const std::vector<int64_t> rows = rows_of("rows");
  const std::vector<int64_t> vision_rows = rows_of("vision_rows");
  std::vector<int64_t> hidden_rows = rows_of("vision_last_hidden_rows");
  // TroL's long case doesn't say which rows it keeps of this tensor: the ones Phantom's keeps.
  if (hidden_rows.empty() && !vision_rows.empty())
    hidden_rows =
        to_ints(open_safetensors(golden_root() / "phantom/qwen2-vit-448/case-image.safetensors")
                    .weights.get("vision_last_hidden_rows"));
  for (const auto& [name, expected] : golden.expected) {
    if (is_input(name)) continue;
    const auto it = std::find_if(traced.begin(), traced.end(),
                                 [&name = name](const TensorView& t) { return t.name == name; });
    if (it == traced.end()) {
      problems.push_back(fmt::format("'{}' has no counterpart", name));
      continue;
    }
    if (name == "decode.tokens") {
      std::vector<int64_t> got = to_ints(*it);
      const std::vector<int64_t> want = to_ints(expected);
      got.resize(want.size());
      if (got != want) problems.push_back("decode.tokens differ");
      continue;
    }
    std::vector<float> got = to_floats(*it);
    Shape shape = it->shape;
    if (name == "vision_last_hidden" && !hidden_rows.empty()) {
      got = pick_rows(got, shape[1], hidden_rows, shape[0]);
    } else if ((name == "vision_out" || name == "projected") && !vision_rows.empty()) {
      got = pick_rows(got, shape[1], vision_rows, shape[0]);
    } else if (has_batch(name) && !name.starts_with("decode.") && !rows.empty()) {
      got = pick_rows(got, shape[0], rows, 1);
      shape[0] = static_cast<int64_t>(rows.size());
    }
    if (shape.size() == 3 && expected.shape.size() == 3 && shape[1] < expected.shape[1] &&
        (name.ends_with(".kstar") || name.ends_with(".vstar")))
      got = repeat_heads(got, shape, expected.shape[1]);
    const std::vector<float> want = to_floats(expected);
    if (name == "decode.logits" && got.size() > want.size()) got.resize(want.size());
    if (got.size() != want.size()) {
      problems.push_back(fmt::format("'{}' has shape {}, expected {}", name,
                                     shape_string(it->shape), shape_string(expected.shape)));
      continue;
    }
    double worst = 0;
    bool finite = true;
    for (size_t i = 0; i < got.size(); ++i) {
      finite &= std::isfinite(got[i]);
      worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
    }
    const double limit = is_logits(name) ? tolerances.logits : tolerances.hidden;
    if (largest)
      (is_logits(name) ? largest->logits : largest->hidden) =
          std::max(is_logits(name) ? largest->logits : largest->hidden, worst);
    if (!finite || worst > limit)
      problems.push_back(fmt::format("'{}' is off by {:.2e}, allowed {:.0e}", name, worst, limit));
  }
  return problems;
}

std::string Machine::name() const {
  std::string text = backend + (isa.empty() ? "" : "_" + isa);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

std::vector<Machine> cpu_machines() {
  std::vector<Machine> list;
  for (const IsaInfo& isa : cpu_instruction_sets())
    if (isa.built && isa.runs) list.push_back({"cpu", isa.name});
  return list;
}

std::vector<Machine> machines() {
  std::vector<Machine> list = cpu_machines();
  if (has_torch()) list.push_back({"torch", ""});
  return list;
}

std::unique_ptr<Backend> make_backend_of(const Machine& machine, int threads,
                                         Activations activations) {
  has_torch();
  BackendOptions options;
  options.isa = machine.isa;
  if (machine.backend == "torch") options.device = torch_device();
  options.threads = threads;
  options.activations = activations;
  return make_backend(machine.backend, options);
}

std::unique_ptr<TrainBackend> recording_torch() {
  if (!has_torch()) return nullptr;
  auto backend = make_torch_backend({.threads = 2, .device = torch_device()});
  backend->set_recording(true);
  return backend;
}

double distance(std::span<const float> a, std::span<const float> b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double off = std::abs(static_cast<double>(a[i]) - b[i]);
    worst = std::isfinite(off) ? std::max(worst, off) : INFINITY;
  }
  return worst;
}

std::unique_ptr<LoadedModel> load_model(const std::filesystem::path& model,
                                        const Machine& machine) {
  has_torch();
  LoadedModelOptions options;
  options.model = model;
  options.backend = machine.backend;
  options.compute.isa = machine.isa;
  if (machine.backend == "torch") options.compute.device = torch_device();
  options.compute.threads = 2;
  options.compute.activations = Activations::F32;
  return LoadedModel::load(options);
}

}  // namespace reprise::test
