#include "train/data/token_source.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "formats/safetensors.h"
#include "train/data/documents.h"

namespace reprise {
namespace {

// ---- Token files

class TokenFile : public TokenSource {
 public:
  TokenFile(const TextSource& source, const TokenSourceOptions& options)
      : tokens_(open_safetensors(source.file).weights.get("tokens")) {
    const std::string where = source.file.string() + ": tensor 'tokens'";
    if (tokens_.type != DType::I64)
      fail("{}: expected type I64, found {}", where, dtype_name(tokens_.type));
    const std::string wanted =
        options.context > 0 ? std::to_string(options.context + 1) : "context + 1, at least 2";
    const Shape& shape = tokens_.shape;
    if (shape.size() != 2 || shape[0] < 1 || shape[1] < 2 ||
        (options.context > 0 && shape[1] != options.context + 1))
      fail("{}: expected shape [rows, {}], found {}", where, wanted, shape_string(shape));
    hash_ = kHashStart;
    for (int64_t row = 0; row < shape[0]; ++row)
      for (int64_t i = 0; i < shape[1]; ++i) {
        const int64_t id = at(row * shape[1] + i);
        if (id < 0 || id >= options.vocab)
          fail("{}, row {}: {} is outside of the model's vocabulary of {}", where, row, id,
               options.vocab);
        hash_ = hash_word(static_cast<uint32_t>(id), hash_);
      }
    if (tokens_.file) tokens_.file->release(tokens_.data);
  }
  int64_t rows() const override { return tokens_.shape[0]; }
  int64_t context() const override { return tokens_.shape[1] - 1; }
  void read(int64_t row, std::span<int32_t> out) const override {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<int32_t>(at(row * tokens_.shape[1] + static_cast<int64_t>(i)));
  }
  uint64_t fingerprint() const override { return hash_; }

 private:
  int64_t at(int64_t i) const {  // the data may lie at any byte
    int64_t value = 0;
    std::memcpy(&value, tokens_.data.data() + 8 * i, 8);
    return value;
  }

  TensorView tokens_;
  uint64_t hash_ = 0;
};

// ---- Texts

// Documents are tokenized at most so many bytes at a time, cut behind a line: a file without an
// empty line is one document, and may be larger than memory.
constexpr size_t kMostBytes = 1 << 20;

class DocumentEncoder {
 public:
  explicit DocumentEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
    const SpecialIds& ids = tokenizer.ids();
    end_ = ids.eos;
    if (!end_) begin_ = ids.bos;
  }
  // Gives the document's tokens to `sink` in parts.
  template <class Sink>
  void encode(std::string_view document, Sink&& sink) const {
    for (bool first = true; first || !document.empty(); first = false) {
      const std::string_view part = take_part(document);
      EncodeOptions options;
      options.add_special = first;
      options.continues = !first;
      std::vector<int32_t> ids = tokenizer_.encode(part, options);
      if (first && begin_ && (ids.empty() || ids[0] != *begin_)) ids.insert(ids.begin(), *begin_);
      if (document.empty() && end_ && (ids.empty() || ids.back() != *end_)) ids.push_back(*end_);
      sink(ids);
    }
  }

 private:
  static std::string_view take_part(std::string_view& document) {
    size_t size = document.size();
    if (size > kMostBytes) {
      const size_t line = document.rfind('\n', kMostBytes - 1);
      size = line == std::string_view::npos ? kMostBytes : line + 1;
      // Else between two characters.
      while (line == std::string_view::npos && size > 1 &&
             (static_cast<unsigned char>(document[size]) & 0xC0) == 0x80)
        --size;
    }
    const std::string_view part = document.substr(0, size);
    document.remove_prefix(size);
    return part;
  }

  const Tokenizer& tokenizer_;
  std::optional<int32_t> begin_, end_;  // what a document is put between
};

// Of everything that a text's tokens depend on but the tokenizer's merges.
uint64_t text_fingerprint(const TextSource& source, const Tokenizer& tokenizer) {
  uint64_t hash = hash_bytes(source.key);
  const auto file = MappedFile::open(source.file);
  const std::span<const std::byte> bytes = file->bytes();
  hash = hash_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, hash);
  file->release(bytes);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    hash = hash_word(0x100, hash_bytes(tokenizer.token_bytes(id), hash));
  return hash;
}

// A file of int32 ids, with this behind them.
struct CacheEnd {
  char magic[8] = {'r', 'e', 'p', 'r', 't', 'o', 'k', '1'};
  uint64_t fingerprint = 0;
  int64_t count = 0;
};

class PackedText : public TokenSource {
 public:
  PackedText(const TextSource& source, const TokenSourceOptions& options)
      : context_(options.context) {
    REPRISE_CHECK(options.tokenizer && context_ > 0);
    hash_ = text_fingerprint(source, *options.tokenizer);
    if (!open(options.cache) || !begins_as(source, *options.tokenizer)) {
      file_.reset();
      write(source, options);
      if (!open(options.cache)) fail("{}: can't be read back", options.cache.string());
    }
    if (rows() < 1)
      fail("{}: {} tokens, too few for a row of {} (and the one behind it)", source.file.string(),
           count_, context_);
  }
  int64_t rows() const override { return count_ == 0 ? 0 : (count_ - 1) / context_; }
  int64_t context() const override { return context_; }
  void read(int64_t row, std::span<int32_t> out) const override {
    std::memcpy(out.data(), file_->bytes().data() + 4 * row * context_, out.size_bytes());
  }
  uint64_t fingerprint() const override { return hash_; }

 private:
  // False where there is no file, or another text's.
  bool open(const std::filesystem::path& path) {
    if (!std::filesystem::is_regular_file(path)) return false;
    file_ = MappedFile::open(path);
    const std::span<const std::byte> bytes = file_->bytes();
    CacheEnd end;
    const CacheEnd expected;
    if (bytes.size() < sizeof end) return false;
    std::memcpy(&end, bytes.data() + bytes.size() - sizeof end, sizeof end);
    count_ = end.count;
    return std::memcmp(end.magic, expected.magic, sizeof end.magic) == 0 &&
           end.fingerprint == hash_ && end.count >= 0 &&
           bytes.size() == 4 * static_cast<size_t>(end.count) + sizeof end;
  }

  // Whether the file begins with the tokens of the first document's first part: a tokenizer may
  // have the same tokens and other merges.
  bool begins_as(const TextSource& source, const Tokenizer& tokenizer) const {
    bool same = true;
    for_each_document(source, [&](std::string_view document, const std::string&) {
      size_t at = 0;
      DocumentEncoder(tokenizer).encode(document, [&](const std::vector<int32_t>& ids) {
        const size_t bytes = 4 * ids.size();
        if (4 * at + bytes > 4 * static_cast<size_t>(count_) ||
            std::memcmp(file_->bytes().data() + 4 * at, ids.data(), bytes) != 0)
          same = false;
        at += ids.size();
      });
      return false;
    });
    return same;
  }

  void write(const TextSource& source, const TokenSourceOptions& options) {
    const DocumentEncoder encoder(*options.tokenizer);
    CacheEnd end;
    end.fingerprint = hash_;
    write_file_atomically(options.cache, [&](const ByteSink& sink) {
      for_each_document(source, [&](std::string_view document, const std::string& where) {
        options.may_stop();
        encoder.encode(document, [&](const std::vector<int32_t>& ids) {
          for (const int32_t id : ids)
            if (id < 0 || id >= options.vocab)
              fail("{}: token {} is outside of the model's vocabulary of {}", where, id,
                   options.vocab);
          sink(std::as_bytes(std::span(ids)));
          end.count += static_cast<int64_t>(ids.size());
        });
        return true;
      });
      sink(std::as_bytes(std::span(&end, 1)));
    });
  }

  int64_t context_ = 0;
  int64_t count_ = 0;  // tokens
  uint64_t hash_ = 0;
  std::shared_ptr<const MappedFile> file_;
};

}  // namespace

std::unique_ptr<TokenSource> open_token_source(const TextSource& source,
                                               const TokenSourceOptions& options) {
  if (source.kind == TextSource::Kind::Tokens) return std::make_unique<TokenFile>(source, options);
  return std::make_unique<PackedText>(source, options);
}

}  // namespace reprise
