#include "formats/pickle_writer.h"

#include <zlib.h>

#include <cstring>
#include <map>
#include <set>

#include "base/error.h"

namespace reprise {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 31;
constexpr size_t kAlignment = 64;  // of storages in the file, as torch.save has it

// ---- Pickle, protocol 2 (Python's pickletools describes the opcodes).

class Pickler {
 public:
  Pickler() { text_ = "\x80\x02"; }
  void op(char opcode) { text_ += opcode; }
  void global(const std::string& module, const std::string& name) {
    text_ += "c" + module + "\n" + name + "\n";
  }
  void string(const std::string& value) {  // BINUNICODE
    op('X');
    append(static_cast<uint32_t>(value.size()));
    text_ += value;
  }
  void integer(int64_t value) {
    if (value <= INT32_MAX) {  // BININT
      op('J');
      append(static_cast<int32_t>(value));
    } else {  // LONG1, 8 bytes of two's complement
      op('\x8a');
      op(8);
      append(value);
    }
  }
  void tuple(const Shape& values) {
    op('(');
    for (const int64_t value : values) integer(value);
    op('t');
  }
  std::string finish() {
    op('.');
    return text_;
  }

 private:
  template <class T>
  void append(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  std::string text_;
};

const char* storage_class(DType type) {
  switch (type) {
    case DType::F32:
      return "FloatStorage";
    case DType::F16:
      return "HalfStorage";
    case DType::BF16:
      return "BFloat16Storage";
    case DType::F64:
      return "DoubleStorage";
    case DType::I64:
      return "LongStorage";
    case DType::I32:
      return "IntStorage";
    case DType::I16:
      return "ShortStorage";
    case DType::I8:
      return "CharStorage";
    case DType::U8:
      return "ByteStorage";
    case DType::Bool:
      return "BoolStorage";
    default:
      fail("PyTorch files have no type {}", dtype_name(type));
  }
}

// torch._utils._rebuild_tensor_v2(("storage", class, key, "cpu", values), 0, shape, strides, False,
// OrderedDict()).
void put_tensor(Pickler& out, const TensorView& tensor, const std::string& storage) {
  const int64_t values = num_elements(tensor.shape);
  Shape strides(tensor.shape.size(), 1);
  for (size_t i = strides.size(); i-- > 1;)
    strides[i - 1] = strides[i] * std::max<int64_t>(1, tensor.shape[i]);
  out.global("torch._utils", "_rebuild_tensor_v2");
  out.op('(');
  out.op('(');
  out.string("storage");
  out.global("torch", storage_class(tensor.type));
  out.string(storage);
  out.string("cpu");
  out.integer(values);
  out.op('t');
  out.op('Q');  // a persistent id: the reader finds the storage by it
  out.integer(0);
  out.tuple(tensor.shape);
  out.tuple(strides);
  out.op('\x89');  // requires_grad=False
  out.global("collections", "OrderedDict");
  out.op(')');
  out.op('R');
  out.op('t');
  out.op('R');
}

// ---- Zip, stored entries only (APPNOTE 6.3.10, sections 4.3.7, 4.3.12, 4.3.16).

class ZipWriter {
 public:
  explicit ZipWriter(const ByteSink& sink) : sink_(sink) {}

  void add(const std::string& name, std::span<const std::byte> data) {
    const auto offset = static_cast<uint32_t>(written_);
    const auto crc =
        static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()));
    // An extra field of zeros moves the data to a multiple of the alignment.
    const size_t begin = written_ + kLocalBytes + name.size() + kExtraHeader;
    const size_t padding = (kAlignment - begin % kAlignment) % kAlignment;
    std::string extra = number<uint16_t>(kPaddingId) + number<uint16_t>(padding);
    extra.resize(extra.size() + padding);
    const std::string common = number<uint16_t>(0) + number<uint16_t>(0) +  // flags, stored
                               number<uint16_t>(0) + number<uint16_t>(kJanuary1980) +
                               number<uint32_t>(crc) + number<uint32_t>(data.size()) +
                               number<uint32_t>(data.size()) + number<uint16_t>(name.size());
    put("PK\3\4" + number<uint16_t>(kVersion) + common + number<uint16_t>(extra.size()) + name +
        extra);
    sink_(data);
    written_ += data.size();
    directory_ += "PK\1\2" + number<uint16_t>(kVersion) + number<uint16_t>(kVersion) + common +
                  number<uint16_t>(0) + std::string(2 + 2 + 2 + 4, '\0') +
                  number<uint32_t>(offset) + name;
    ++entries_;
  }

  void finish() {
    const size_t start = written_;
    put(directory_);
    put("PK\5\6" + std::string(4, '\0') + number<uint16_t>(entries_) + number<uint16_t>(entries_) +
        number<uint32_t>(directory_.size()) + number<uint32_t>(start) + number<uint16_t>(0));
  }

 private:
  static constexpr size_t kLocalBytes = 30;
  static constexpr size_t kExtraHeader = 4;
  static constexpr uint16_t kPaddingId = 0x4246;  // "FB": what PyTorch's own files use
  static constexpr uint16_t kVersion = 20;
  static constexpr uint16_t kJanuary1980 = 0x21;

  template <class T, class From>
  static std::string number(From value) {
    const T small = static_cast<T>(value);
    return std::string(reinterpret_cast<const char*>(&small), sizeof(T));
  }
  void put(const std::string& bytes) {
    sink_(std::as_bytes(std::span(bytes)));
    written_ += bytes.size();
  }

  const ByteSink& sink_;
  std::string directory_;
  size_t written_ = 0;
  size_t entries_ = 0;
};

}  // namespace

void write_pt(const std::filesystem::path& path, const std::vector<TensorView>& tensors) {
  const std::string folder = path.stem().string() + "/";
  std::map<std::tuple<const std::byte*, size_t, DType>, std::string> storages;
  std::vector<std::pair<std::string, std::span<const std::byte>>> contents;
  std::set<std::string> names;
  Pickler pickle;
  pickle.global("collections", "OrderedDict");
  pickle.op(')');
  pickle.op('R');
  pickle.op('(');
  uint64_t total = 0;
  for (const TensorView& tensor : tensors) {
    if (!names.insert(tensor.name).second)
      fail("{}: tensor '{}' is there twice", path.string(), tensor.name);
    const auto [it, is_new] = storages.try_emplace(
        {tensor.data.data(), tensor.data.size(), tensor.type}, std::to_string(contents.size()));
    if (is_new) {
      contents.emplace_back(it->second, tensor.data);
      total += tensor.data.size();
    }
    pickle.string(tensor.name);
    try {
      put_tensor(pickle, tensor, it->second);
    } catch (const Error& error) {
      fail("{}: tensor '{}': {}", path.string(), tensor.name, error.what());
    }
  }
  if (total >= kMostBytes)
    fail("{}: {} bytes of tensors, at most {} are allowed", path.string(), total, kMostBytes);
  pickle.op('u');  // sets all items of the dict
  const std::string program = pickle.finish();
  const auto text = [](const std::string& value) { return std::as_bytes(std::span(value)); };
  write_file_atomically(path, [&](const ByteSink& sink) {
    ZipWriter zip(sink);
    zip.add(folder + "data.pkl", text(program));
    const std::string order = "little", version = "3\n";
    zip.add(folder + "byteorder", text(order));
    for (const auto& [key, data] : contents) zip.add(folder + "data/" + key, data);
    zip.add(folder + "version", text(version));
    zip.finish();
  });
}

}  // namespace reprise
