#include "formats/safetensors_writer.h"

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace reprise {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // bytes; the format's own limit
constexpr const char* kMetadataKey = "__metadata__";

int64_t output_bytes(const OutputTensor& tensor) {
  return tensor_bytes(tensor.type, tensor.source.shape);
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorView>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<OutputTensor> as_they_are;
  as_they_are.reserve(tensors.size());
  for (const TensorView& tensor : tensors) as_they_are.push_back({tensor, tensor.type});
  write_safetensors(path, as_they_are, metadata);
}

void write_safetensors(const std::filesystem::path& path, const std::vector<OutputTensor>& tensors,
                       const std::map<std::string, std::string>& metadata,
                       const TensorWriter& writer) {
  // Widest elements first and the header padded to 8: every tensor is aligned for its type.
  std::vector<OutputTensor> order = tensors;
  std::stable_sort(order.begin(), order.end(), [](const OutputTensor& a, const OutputTensor& b) {
    return block_bytes(a.type) > block_bytes(b.type);
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadataKey] = metadata;
  std::set<std::string> names = {kMetadataKey};
  uint64_t offset = 0;
  for (const OutputTensor& tensor : order) {
    const TensorView& source = tensor.source;
    if (is_quantized(tensor.type))
      fail("{}: tensor '{}': safetensors has no type {}", path.string(), source.name,
           dtype_name(tensor.type));
    if (!names.insert(source.name).second)
      fail("{}: tensor '{}' is there twice or has a reserved name", path.string(), source.name);
    REPRISE_CHECK(source.data.empty() || source.data.size() == static_cast<size_t>(tensor_bytes(
                                                                   source.type, source.shape)));
    const auto bytes = static_cast<uint64_t>(output_bytes(tensor));
    header[source.name] = {{"dtype", dtype_name(tensor.type)},
                           {"shape", source.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception& error) {
    fail("{}: a name is not valid UTF-8: {}", path.string(), error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  if (text.size() > kMaxHeader)
    fail("{}: header of {} bytes, at most {} are allowed", path.string(), text.size(), kMaxHeader);
  const uint64_t length = text.size();
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(std::as_bytes(std::span(&length, 1)));
    sink(std::as_bytes(std::span(text)));
    for (const OutputTensor& tensor : order) writer(tensor, sink);
  });
}

std::vector<std::string> write_safetensors_folder(
    const std::filesystem::path& folder, const std::vector<OutputTensor>& tensors,
    const std::map<std::string, std::string>& metadata, int64_t shard_bytes,
    const TensorWriter& writer) {
  REPRISE_CHECK(shard_bytes > 0);
  std::vector<std::vector<OutputTensor>> shards(1);
  int64_t filled = 0, total = 0;
  for (const OutputTensor& tensor : tensors) {
    const int64_t bytes = output_bytes(tensor);
    if (filled + bytes > shard_bytes && !shards.back().empty()) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(tensor);
    filled += bytes;
    total += bytes;
  }
  if (shards.size() == 1) {
    write_safetensors(folder / "model.safetensors", shards[0], metadata, writer);
    return {"model.safetensors"};
  }
  std::vector<std::string> files;
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    files.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size()));
    write_safetensors(folder / files.back(), shards[i], metadata, writer);
    for (const OutputTensor& tensor : shards[i]) map[tensor.source.name] = files.back();
  }
  const nlohmann::ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  files.push_back("model.safetensors.index.json");
  write_file_atomically(folder / files.back(), index.dump(2) + "\n");
  return files;
}

}  // namespace reprise
