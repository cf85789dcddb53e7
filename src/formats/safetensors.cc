#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "formats/foreign.h"

namespace reprise {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::array kTypes = {DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64,
                               DType::I32, DType::I16, DType::I8,  DType::U8,   DType::Bool};

std::optional<DType> find_type(const std::string& name) {
  for (DType type : kTypes)
    if (dtype_name(type) == name) return type;
  return std::nullopt;
}

// A header object with a key twice is refused: readers would differ in which one they take.
Json parse_header(const std::string& text, const std::string& where) {
  std::set<std::string> seen;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > 4) fail("{}: header is nested too deeply", where);
    if (depth == 1 && event == Json::parse_event_t::key &&
        !seen.insert(value.get<std::string>()).second)
      fail("{}: tensor '{}' is there twice", where, value.get<std::string>());
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const Json::exception& error) {
    fail("{}: header is not valid JSON: {}", where, error.what());
  }
}

uint64_t as_size(const Json& value, const std::string& where, const std::string& tensor,
                 const char* what) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{INT64_MAX})
    fail("{}: tensor '{}': {} holds {}, expected a whole number from 0", where, tensor, what,
         value.dump().substr(0, 60));
  return value.get<uint64_t>();
}

// One entry: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}.
TensorView parse_entry(const std::string& name, const Json& entry, std::span<const std::byte> data,
                       const std::string& where) {
  const auto field = [&](const char* key, Json::value_t type) -> const Json& {
    if (!entry.is_object() || !entry.contains(key) || entry[key].type() != type)
      fail("{}: tensor '{}': key '{}' is missing or of the wrong type", where, name, key);
    return entry[key];
  };
  const auto& type_name = field("dtype", Json::value_t::string).get_ref<const std::string&>();
  const std::optional<DType> type = find_type(type_name);
  if (!type) fail("{}: tensor '{}': dtype '{}' is not supported", where, name, type_name);
  TensorView tensor;
  tensor.name = name;
  tensor.type = *type;
  for (const Json& dim : field("shape", Json::value_t::array))
    tensor.shape.push_back(static_cast<int64_t>(as_size(dim, where, name, "shape")));
  const Json& offsets = field("data_offsets", Json::value_t::array);
  if (offsets.size() != 2)
    fail("{}: tensor '{}': data_offsets has {} entries, expected 2", where, name, offsets.size());
  const uint64_t begin = as_size(offsets[0], where, name, "data_offsets");
  const uint64_t end = as_size(offsets[1], where, name, "data_offsets");
  if (begin > end || end > data.size())
    fail("{}: tensor '{}': data_offsets [{}, {}] are not inside the data ({} bytes)", where, name,
         begin, end, data.size());
  uint64_t wanted = 0;
  try {
    wanted = static_cast<uint64_t>(tensor_bytes(tensor.type, tensor.shape));
  } catch (const Error& error) {
    fail("{}: tensor '{}': {}", where, name, error.what());
  }
  if (wanted != end - begin)
    fail("{}: tensor '{}': {} {} needs {} bytes, data_offsets give {}", where, name, type_name,
         shape_string(tensor.shape), wanted, end - begin);
  tensor.data = data.subspan(begin, end - begin);
  return tensor;
}

void check_cover(const std::vector<TensorView>& tensors, std::span<const std::byte> data,
                 const std::string& where) {
  const std::byte* expected = data.data();
  for (const TensorView& tensor : tensors) {
    if (tensor.data.data() != expected)
      fail("{}: tensor '{}': data begins at {}, expected {} (tensors overlap or leave a hole)",
           where, tensor.name, tensor.data.data() - data.data(), expected - data.data());
    expected += tensor.data.size();
  }
  if (expected != data.data() + data.size())
    fail("{}: {} bytes after the last tensor belong to none", where,
         data.data() + data.size() - expected);
}

}  // namespace

SafetensorsFile open_safetensors(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::string where = path.string();
  const auto bytes = file->bytes();
  if (is_lfs_pointer(bytes)) fail("{}: {}", where, kLfsPointer);
  if (bytes.size() < 8)
    fail("{}: is not a safetensors file: {} bytes, expected at least 8", where, bytes.size());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  if (length > kMaxHeader || length > bytes.size() - 8)
    fail("{}: is not a safetensors file: header length {}, expected at most {}", where, length,
         std::min<uint64_t>(kMaxHeader, bytes.size() - 8));
  const auto data = bytes.subspan(8 + length);
  const Json header =
      parse_header(std::string(reinterpret_cast<const char*>(bytes.data()) + 8, length), where);
  if (!header.is_object())
    fail("{}: header is {}, expected a JSON object", where, header.type_name());

  SafetensorsFile result;
  std::vector<TensorView> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      if (!entry.is_object()) fail("{}: {} is not an object", where, name);
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail("{}: {}: key '{}' is not a string", where, name, key);
        result.metadata[key] = value.get<std::string>();
      }
      continue;
    }
    tensors.push_back(parse_entry(name, entry, data, where));
    tensors.back().owner = file;
    tensors.back().file = file.get();
  }
  // Empty tensors share their start with the tensor behind them and come first.
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
  });
  check_cover(tensors, data, where);
  result.weights = WeightFile(where, std::move(tensors));
  return result;
}

WeightFile open_safetensors_index(const std::filesystem::path& index, Problems* noted,
                                  std::set<std::string>* unread) {
  const std::string where = index.string();
  const Json json = load_json(index);
  const JsonObject top(json, where);
  const Json map = top.get_object("weight_map").json();
  std::vector<std::string> problems;
  std::set<std::string> lost;
  std::map<std::string, std::vector<std::string>> shards;  // shard -> its tensors
  for (const auto& [tensor, shard] : map.items()) {
    if (!shard.is_string()) {
      problems.push_back(fmt::format("weight_map: '{}' does not name a file", tensor));
      lost.insert(tensor);
      continue;
    }
    shards[shard.get<std::string>()].push_back(tensor);
  }
  std::vector<TensorView> tensors;
  for (const auto& [shard, names] : shards) {
    const std::filesystem::path name(shard);
    if (shard.empty() || shard == "." || shard == ".." || name.filename() != name ||
        shard.find('\0') != std::string::npos) {
      problems.push_back(fmt::format("weight_map: shard '{}' is not a plain file name", shard));
      lost.insert(names.begin(), names.end());
      continue;
    }
    try {
      const WeightFile weights = open_safetensors(index.parent_path() / name).weights;
      for (const std::string& tensor : names) {
        if (weights.find(tensor)) continue;
        problems.push_back(fmt::format("tensor '{}' is not in {}", tensor, weights.where()));
        lost.insert(tensor);
      }
      const std::set<std::string> wanted(names.begin(), names.end());
      for (const TensorView& tensor : weights.tensors())
        if (wanted.count(tensor.name)) tensors.push_back(tensor);
    } catch (const Error& error) {
      problems.push_back(error.what());
      lost.insert(names.begin(), names.end());
    }
  }
  if (!problems.empty()) {
    const std::string text = fmt::format("{}:\n  {}", where, fmt::join(problems, "\n  "));
    if (!noted) throw Error(text);
    noted->add(text);
  }
  if (unread) *unread = std::move(lost);
  return WeightFile(where, std::move(tensors));
}

}  // namespace reprise
