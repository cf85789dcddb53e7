#include "formats/gguf_writer.h"

#include <cstring>
#include <set>
#include <type_traits>

#include "base/error.h"
#include "formats/gguf_layout.h"

namespace reprise {
namespace {

// Collects the header in memory; tensor data is streamed.
class HeaderBuilder {
 public:
  template <class T>
  void put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void put_string(const std::string& text) {
    put(static_cast<uint64_t>(text.size()));
    bytes_ += text;
  }
  void put_array(const GgufArray& array) {
    put(static_cast<uint32_t>(array.items.index()));
    std::visit(
        [&](const auto& list) {
          put(static_cast<uint64_t>(list.size()));
          for (const auto& item : list) put_item(item);
        },
        array.items);
  }
  template <class T>
  void put_item(const T& item) {
    if constexpr (std::is_same_v<T, std::string>)
      put_string(item);
    else if constexpr (std::is_same_v<T, GgufArray>)
      put_array(item);
    else if constexpr (std::is_same_v<T, bool>)
      put(static_cast<uint8_t>(item ? 1 : 0));
    else
      put(item);
  }
  void pad_to(uint64_t alignment) { bytes_.resize(gguf_align_up(bytes_.size(), alignment)); }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(bytes_)); }

 private:
  std::string bytes_;
};

}  // namespace

void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors) {
  std::vector<OutputTensor> outputs;
  outputs.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) outputs.push_back({tensor.source, tensor.type});
  write_gguf(path, metadata, outputs, write_plainly);
}

void write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                const std::vector<OutputTensor>& tensors, const TensorWriter& writer) {
  const std::string where = path.string();
  const uint32_t alignment = gguf_alignment(metadata);
  HeaderBuilder header;
  header.put(kGgufMagic);
  header.put(uint32_t{3});
  header.put(static_cast<uint64_t>(tensors.size()));
  header.put(static_cast<uint64_t>(metadata.entries().size()));
  for (const auto& [key, value] : metadata.entries()) {
    header.put_string(key);
    header.put(static_cast<uint32_t>(value.index()));
    std::visit([&](const auto& v) { header.put_item(v); }, value);
  }

  std::set<std::string> names;
  std::vector<uint64_t> sizes;
  uint64_t offset = 0;
  for (const auto& [source, type] : tensors) {
    if (!names.insert(source.name).second)
      fail("{}: tensor '{}' is there twice", where, source.name);
    if (source.shape.size() > 4)
      fail("{}: tensor '{}' has shape {}, GGUF allows 4 dimensions", where, source.name,
           shape_string(source.shape));
    header.put_string(source.name);
    header.put(static_cast<uint32_t>(source.shape.size()));
    for (size_t i = source.shape.size(); i-- > 0;)
      header.put(static_cast<uint64_t>(source.shape[i]));
    header.put(gguf_tensor_type_id(type, where, source.name));
    header.put(offset);
    try {
      sizes.push_back(static_cast<uint64_t>(tensor_bytes(type, source.shape)));
    } catch (const Error& error) {
      fail("{}: tensor '{}': {}", where, source.name, error.what());
    }
    offset += gguf_align_up(sizes.back(), alignment);
  }
  header.pad_to(alignment);

  const std::vector<std::byte> zeros(alignment);
  write_file_atomically(path, [&](const ByteSink& sink) {
    sink(header.bytes());
    for (size_t i = 0; i < tensors.size(); ++i) {
      try {
        writer(tensors[i], sink);
      } catch (const Error& error) {
        fail("{}: {}", where, error.what());
      }
      sink(std::span(zeros).first(gguf_align_up(sizes[i], alignment) - sizes[i]));
    }
  });
}

}  // namespace reprise
