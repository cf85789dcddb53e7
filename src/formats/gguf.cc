#include "formats/gguf.h"

#include <algorithm>
#include <string_view>

#include "base/byte_reader.h"
#include "base/error.h"
#include "formats/foreign.h"
#include "formats/gguf_layout.h"

namespace reprise {
namespace {

constexpr int kMaxDims = 4;
constexpr int kMaxArrayDepth = 4;
// A key-value pair is at least key length, type and one byte; a tensor entry is at least name
// length, number of dimensions, type and offset.
constexpr uint64_t kMinPairBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;

std::string_view read_string(ByteReader& in, std::string_view what) {
  return in.take_text(in.read<uint64_t>(what), what);
}

template <class T>
T read_value(ByteReader& in, std::string_view key) {
  if constexpr (std::is_same_v<T, std::string>) {
    return std::string(read_string(in, key));
  } else if constexpr (std::is_same_v<T, bool>) {
    const auto byte = in.read<uint8_t>(key);
    if (byte > 1) fail("{}: key '{}': a bool is {}, expected 0 or 1", in.where(), key, byte);
    return byte == 1;
  } else {
    return in.read<T>(key);
  }
}

GgufArray read_array(ByteReader& in, std::string_view key, int depth);

template <class T>
GgufArray read_list(ByteReader& in, std::string_view key, uint64_t count, int depth) {
  // Smallest size of an element in the file: a string has its length, an array its type and count.
  constexpr uint64_t kMinBytes = std::is_same_v<T, std::string> ? 8
                                 : std::is_same_v<T, GgufArray> ? 12
                                                                : sizeof(T);
  if (count > in.remaining() / kMinBytes)
    fail("{}: key '{}': array claims {} elements, more than the rest of the file ({} bytes) holds",
         in.where(), key, count, in.remaining());
  std::vector<T> list;
  list.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<T, GgufArray>)
      list.push_back(read_array(in, key, depth + 1));
    else
      list.push_back(read_value<T>(in, key));
  }
  return GgufArray{std::move(list)};
}

// Calls visit.template operator()<T>() with the C++ type of a metadata type number.
template <class Visit, size_t... I>
auto with_type(uint32_t type, std::index_sequence<I...>, Visit visit) {
  using Result = decltype(visit.template operator()<uint8_t>());
  Result result;
  const bool known =
      ((type == I &&
        (result = visit.template operator()<std::variant_alternative_t<I, GgufValue>>(), true)) ||
       ...);
  return known ? std::optional<Result>(std::move(result)) : std::nullopt;
}
constexpr auto kAllTypes = std::make_index_sequence<std::variant_size_v<GgufValue>>();

GgufArray read_array(ByteReader& in, std::string_view key, int depth) {
  if (depth > kMaxArrayDepth)
    fail("{}: key '{}': arrays nested deeper than {} levels", in.where(), key, kMaxArrayDepth);
  const auto type = in.read<uint32_t>(key);
  const auto count = in.read<uint64_t>(key);
  auto array =
      with_type(type, kAllTypes, [&]<class T>() { return read_list<T>(in, key, count, depth); });
  if (!array) fail("{}: key '{}': unknown element type number {}", in.where(), key, type);
  return std::move(*array);
}

GgufValue read_pair_value(ByteReader& in, std::string_view key) {
  const auto type = in.read<uint32_t>(key);
  auto value = with_type(type, kAllTypes, [&]<class T>() -> GgufValue {
    if constexpr (std::is_same_v<T, GgufArray>)
      return read_array(in, key, 1);
    else
      return read_value<T>(in, key);
  });
  if (!value) fail("{}: key '{}': unknown type number {}", in.where(), key, type);
  return std::move(*value);
}

// A tensor's entry; its data is not resolved yet, as it lies relative to the end of all entries.
struct Entry {
  TensorView view;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

Entry read_entry(ByteReader& in) {
  Entry entry;
  entry.view.name = read_string(in, "tensor name");
  const auto& name = entry.view.name;
  const auto dims = in.read<uint32_t>("number of dimensions");
  if (dims > kMaxDims)
    fail("{}: tensor '{}' has {} dimensions, at most {} are allowed", in.where(), name, dims,
         kMaxDims);
  for (uint32_t i = 0; i < dims; ++i) {
    const auto dim = in.read<uint64_t>("dimension");
    if (dim > uint64_t{INT64_MAX})
      fail("{}: tensor '{}': dimension {} is too large", in.where(), name, dim);
    entry.view.shape.insert(entry.view.shape.begin(), static_cast<int64_t>(dim));
  }
  entry.view.type = gguf_tensor_type(in.read<uint32_t>("tensor type"), in.where(), name);
  entry.offset = in.read<uint64_t>("tensor offset");
  try {
    entry.bytes = static_cast<uint64_t>(tensor_bytes(entry.view.type, entry.view.shape));
  } catch (const Error& error) {
    fail("{}: tensor '{}': {}", in.where(), name, error.what());
  }
  return entry;
}

void check_no_overlap(std::vector<TensorView> tensors, const std::string& where) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return std::pair(a.data.data(), a.data.size()) < std::pair(b.data.data(), b.data.size());
  });
  for (size_t i = 1; i < tensors.size(); ++i) {
    const auto& before = tensors[i - 1];
    if (before.data.data() + before.data.size() > tensors[i].data.data())
      fail("{}: data of tensors '{}' and '{}' overlap", where, before.name, tensors[i].name);
  }
}

}  // namespace

GgufFile open_gguf_part(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  const std::string where = path.string();
  ByteReader in(file->bytes(), where);
  if (in.remaining() < 8 || in.read<uint32_t>("magic") != kGgufMagic) {
    if (const std::string what = foreign_file(path, file->bytes()); !what.empty())
      fail("{}: {}", where, what);
    fail("{}: is not a GGUF file: it does not begin with 'GGUF'", where);
  }
  GgufFile result;
  result.version = in.read<uint32_t>("version");
  if (result.version != 0 && (result.version & 0xffffu) == 0)
    fail("{}: is a big-endian GGUF file; only little-endian ones are supported", where);
  if (result.version != 2 && result.version != 3)
    fail("{}: GGUF version {} is not supported, expected 2 or 3", where, result.version);
  const auto tensor_count = in.read<uint64_t>("tensor count");
  const auto pair_count = in.read<uint64_t>("metadata count");
  if (pair_count > in.remaining() / kMinPairBytes)
    fail("{}: claims {} metadata pairs, more than the file holds", where, pair_count);

  result.parts = {path};
  result.metadata = GgufMetadata(where);
  for (uint64_t i = 0; i < pair_count; ++i) {
    const std::string key(read_string(in, "metadata key"));
    if (result.metadata.has(key)) fail("{}: key '{}' is there twice", where, key);
    result.metadata.set(key, read_pair_value(in, key));
  }
  result.alignment = gguf_alignment(result.metadata);

  if (tensor_count > in.remaining() / kMinTensorBytes)
    fail("{}: claims {} tensors, more than the file holds", where, tensor_count);
  std::vector<Entry> entries;
  entries.reserve(tensor_count);
  for (uint64_t i = 0; i < tensor_count; ++i) entries.push_back(read_entry(in));

  // A file without tensors may end before the padding does.
  const size_t start =
      std::min<size_t>(gguf_align_up(in.position(), result.alignment), file->bytes().size());
  const auto data = file->bytes().subspan(start);
  std::vector<TensorView> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    if (entry.offset % result.alignment != 0)
      fail("{}: tensor '{}': offset {} is not a multiple of the alignment {}", where,
           entry.view.name, entry.offset, result.alignment);
    if (entry.offset > data.size() || entry.bytes > data.size() - entry.offset)
      fail("{}: tensor '{}': {} bytes at offset {} are not inside the data ({} bytes)", where,
           entry.view.name, entry.bytes, entry.offset, data.size());
    entry.view.data = data.subspan(entry.offset, entry.bytes);
    entry.view.owner = file;
    entry.view.file = file.get();
    tensors.push_back(std::move(entry.view));
  }
  check_no_overlap(tensors, where);
  result.weights = WeightFile(where, std::move(tensors));
  return result;
}

}  // namespace reprise
