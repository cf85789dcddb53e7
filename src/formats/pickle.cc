#include "formats/pickle.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>

#include "base/error.h"
#include "formats/pickle_machine.h"
#include "formats/zip.h"

namespace reprise {
namespace {

constexpr const char* kProgram = "data.pkl";
constexpr uint64_t kMaxProgram = uint64_t{4} << 20;
constexpr int64_t kMaxCopied = int64_t{1} << 30;  // bytes of strided tensors

// torch.save puts everything into one folder, "<name>/data.pkl"; the folder's name is free.
std::string find_folder(const ZipArchive& zip, const std::string& where) {
  const std::string suffix = std::string("/") + kProgram;
  const ZipEntry* found = nullptr;
  for (const ZipEntry& entry : zip.entries()) {
    if (!entry.name.ends_with(suffix)) continue;
    if (entry.name.find('/') != entry.name.size() - suffix.size()) continue;
    if (found) fail("{}: holds both '{}' and '{}'", where, found->name, entry.name);
    found = &entry;
  }
  if (!found) fail("{}: is not a PyTorch file: the archive has no {}", where, kProgram);
  return found->name.substr(0, found->name.size() - std::strlen(kProgram));
}

bool is_dense(const PickledTensor& tensor) {
  int64_t expected = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected) return false;
    expected *= tensor.shape[i];
  }
  return true;
}

// Row-major copy of a strided tensor. from: the whole storage.
std::vector<std::byte> copy_strided(const PickledTensor& tensor, const std::byte* from) {
  const auto size = static_cast<size_t>(block_bytes(tensor.type));
  const auto count = static_cast<size_t>(num_elements(tensor.shape));
  std::vector<std::byte> out(count * size);
  std::vector<int64_t> index(tensor.shape.size(), 0);
  int64_t at = tensor.offset;
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(out.data() + i * size, from + static_cast<size_t>(at) * size, size);
    for (size_t d = index.size(); d-- > 0;) {  // count up the index, last dimension first
      at += tensor.strides[d];
      if (++index[d] < tensor.shape[d]) break;
      at -= tensor.strides[d] * tensor.shape[d];
      index[d] = 0;
    }
  }
  return out;
}

}  // namespace

WeightFile open_pt(const std::filesystem::path& path) {
  const std::string where = path.string();
  ZipArchive zip = ZipArchive::open(path);
  const std::string folder = find_folder(zip, where);
  if (const ZipEntry* order = zip.find(folder + "byteorder")) {
    const ZipArchive::Content text = zip.read(*order);
    if (std::string_view(reinterpret_cast<const char*>(text.data.data()), text.data.size()) !=
        "little")
      fail("{}: only little-endian files are supported", where);
  }
  const ZipEntry& program = *zip.find(folder + kProgram);
  if (program.bytes > kMaxProgram)
    fail("{}: {} has {} bytes, more than the limit of {}", where, kProgram, program.bytes,
         kMaxProgram);
  const ZipArchive::Content code = zip.read(program);
  const auto entries = run_pickle(code.data, where);

  std::unordered_map<std::string_view, ZipArchive::Content> storages;
  std::vector<TensorView> tensors;
  int64_t copied = 0;
  for (const auto& [name, pickled] : entries) {
    const auto [it, is_new] = storages.try_emplace(pickled.storage);
    if (is_new) {
      const ZipEntry* entry = zip.find(fmt::format("{}data/{}", folder, pickled.storage));
      if (!entry) fail("{}: tensor '{}': storage '{}' is missing", where, name, pickled.storage);
      it->second = zip.read(*entry);
    }
    const ZipArchive::Content& storage = it->second;
    const auto wanted = static_cast<size_t>(tensor_bytes(pickled.type, {pickled.storage_values}));
    if (storage.data.size() != wanted)
      fail("{}: tensor '{}': storage '{}' has {} bytes, expected {}", where, name, pickled.storage,
           storage.data.size(), wanted);
    const int64_t bytes = tensor_bytes(pickled.type, pickled.shape);
    if (bytes == 0) {
      tensors.push_back(make_view(name, pickled.type, pickled.shape, {}));
    } else if (is_dense(pickled)) {
      const auto begin = static_cast<size_t>(pickled.offset * block_bytes(pickled.type));
      tensors.push_back({name, pickled.type, pickled.shape,
                         storage.data.subspan(begin, static_cast<size_t>(bytes)), storage.owner,
                         storage.file});
    } else {
      if (bytes > kMaxCopied - copied)
        fail("{}: tensor '{}': strided tensors of more than {} bytes are refused", where, name,
             kMaxCopied);
      copied += bytes;
      tensors.push_back(
          make_view(name, pickled.type, pickled.shape, copy_strided(pickled, storage.data.data())));
    }
  }
  return WeightFile(where, std::move(tensors));
}

}  // namespace reprise
