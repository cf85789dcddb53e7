#include "support/rrt_models.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "model/tensor_table.h"

namespace reprise::test {
namespace {

constexpr int kRank = 4;

using Matrices = std::map<std::string, std::pair<Shape, std::vector<float>>>;

// A rank-4 product [out, in] as B [out, 4] A [4, in]: Gram-Schmidt on its columns, largest first.
void take_apart(const TensorView& product, const std::string& name, Matrices& into) {
  const int64_t out = product.shape[0], in = product.shape[1];
  const std::vector<float> m = to_floats(product);
  std::vector<double> rest(m.begin(), m.end());
  std::vector<float> a(static_cast<size_t>(kRank * in)), b(static_cast<size_t>(out * kRank));
  for (int r = 0; r < kRank; ++r) {
    std::vector<double> sizes(static_cast<size_t>(in));
    for (int64_t i = 0; i < out; ++i)
      for (int64_t j = 0; j < in; ++j) {
        const double x = rest[static_cast<size_t>(i * in + j)];
        sizes[static_cast<size_t>(j)] += x * x;
      }
    const int64_t pivot = std::max_element(sizes.begin(), sizes.end()) - sizes.begin();
    const double size = std::sqrt(sizes[static_cast<size_t>(pivot)]);
    std::vector<double> direction(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i)
      direction[static_cast<size_t>(i)] =
          size > 0 ? rest[static_cast<size_t>(i * in + pivot)] / size : 0.0;
    for (int64_t j = 0; j < in; ++j) {
      double dot = 0;
      for (int64_t i = 0; i < out; ++i)
        dot += direction[static_cast<size_t>(i)] * rest[static_cast<size_t>(i * in + j)];
      a[static_cast<size_t>(r * in + j)] = static_cast<float>(dot);
      for (int64_t i = 0; i < out; ++i)
        rest[static_cast<size_t>(i * in + j)] -= direction[static_cast<size_t>(i)] * dot;
    }
    for (int64_t i = 0; i < out; ++i)
      b[static_cast<size_t>(i * kRank + r)] = static_cast<float>(direction[static_cast<size_t>(i)]);
  }
  const double left = *std::max_element(rest.begin(), rest.end());
  if (left >= 1e-5) fail("{} has a higher rank", name);
  into[name + ".A"] = {{kRank, in}, std::move(a)};
  into[name + ".B"] = {{out, kRank}, std::move(b)};
}

// What train-init holds in place of the means, rounded as the reference did it.
void take_blocks(const WeightFile& file, int blocks, Matrices& into) {
  const TensorNames names;
  const auto take = [&](const std::string& from, const std::string& to) {
    if (const TensorView* tensor = file.find(from))
      into[to + ".weight"] = {tensor->shape, to_floats(*tensor)};
  };
  for (const char* key : {"embed", "final_norm", "head"}) take(key, names.of(key));
  for (int block = 0; block < blocks; ++block)
    for (const char* key : {"q", "k", "v", "o", "gate", "up", "down", "attn_norm", "mlp_norm"})
      take(fmt::format("block.{}.{}", block, key), names.of(key, block));
}

}  // namespace

void write_rrt_model(const RrtCase& c, const std::filesystem::path& folder) {
  const bool average = c.init == "average-4";
  Json config = load_json(c.root() / "model/config.json");
  const int dense_layers = config["num_hidden_layers"].get<int>();
  config["num_hidden_layers"] = c.blocks;
  config["reprise"] = {{"scheme", "recursive"},
                       {"recursive", {{"loops", c.loops}, {"lora_rank", average ? kRank : 0}}}};
  write_file_atomically(folder / "config.json", config.dump());

  const WeightFile dense = open_safetensors(c.root() / "model/model.safetensors").weights;
  Matrices made;
  for (const TensorView& tensor : dense.tensors()) {
    const std::string start = "model.layers.";
    if (!tensor.name.starts_with(start)) {
      made[tensor.name] = {tensor.shape, to_floats(tensor)};
      continue;
    }
    const size_t dot = tensor.name.find('.', start.size());
    const int layer = std::stoi(tensor.name.substr(start.size(), dot - start.size()));
    const std::string rest = tensor.name.substr(dot);
    const std::vector<float> values = to_floats(tensor);
    if (average) {
      auto& [shape, sum] = made[start + std::to_string(layer % c.blocks) + rest];
      shape = tensor.shape;
      sum.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i) sum[i] += values[i] / static_cast<float>(c.loops);
    } else {
      for (int block = 0; block < c.blocks; ++block)
        if (layer == block * (dense_layers - 1) / (c.blocks - 1))
          made[start + std::to_string(block) + rest] = {tensor.shape, values};
    }
  }
  if (average) {
    const bool stored = std::filesystem::exists(c.root() / c.shape() / "train-init.safetensors");
    const WeightFile factors =
        open_safetensors(c.root() / c.shape() /
                         (stored ? "train-init.safetensors" : "convert-average-4.safetensors"))
            .weights;
    if (stored) take_blocks(factors, c.blocks, made);
    for (int loop = 0; loop < c.loops; ++loop)
      for (int block = 0; block < c.blocks; ++block)
        for (const char* key : {"q", "k", "v", "o", "gate", "up", "down"}) {
          const std::string name = fmt::format("model.layers.{}.lora.{}.{}", block, loop, key);
          const std::string part = fmt::format("{}.{}.{}", loop, block, key);
          if (stored) {
            for (const char* side : {"A", "B"}) {
              const TensorView& factor = factors.get(fmt::format("lora.{}.{}", part, side));
              made[fmt::format("{}.{}", name, side)] = {factor.shape, to_floats(factor)};
            }
          } else {
            take_apart(factors.get("delta." + part), name, made);
          }
        }
  }
  std::vector<TensorView> tensors;
  for (const auto& [name, tensor] : made)
    tensors.push_back(make_view(name, tensor.first, std::span<const float>(tensor.second)));
  write_safetensors(folder / "model.safetensors", tensors);
}

std::string rrt_tensor_name(const std::string& name) {
  const TensorNames names;
  std::vector<std::string> parts(1);
  for (const char c : name) {
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  if (parts[0] == "block") return names.of(parts[2], std::stoi(parts[1])) + ".weight";
  if (parts[0] == "lora")
    return fmt::format("{}lora.{}.{}.{}", names.layer_prefix(std::stoi(parts[2])), parts[1],
                       parts[3], parts[4]);
  return names.of(name) + ".weight";
}

}  // namespace reprise::test
