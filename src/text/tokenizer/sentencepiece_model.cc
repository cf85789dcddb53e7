#include "text/tokenizer/sentencepiece_model.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <unordered_set>

#include "base/error.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using Model = SentencePieceModel;

constexpr size_t kMaxPieces = size_t{1} << 22;
constexpr size_t kMaxPieceBytes = 4096;

// The wire format of protocol buffers: fields of (number, wire type, value).
class WireReader {
 public:
  WireReader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  struct Field {
    uint64_t number = 0;
    int wire = 0;            // 0 varint, 1 eight bytes, 2 a length and bytes, 5 four bytes
    uint64_t value = 0;      // of wire types 0, 1 and 5
    std::string_view bytes;  // of wire type 2
  };
  std::optional<Field> next() {
    if (bytes_.empty()) return std::nullopt;
    const uint64_t tag = varint();
    Field field{tag >> 3, static_cast<int>(tag & 7), 0, {}};
    if (field.number == 0) damaged();
    switch (field.wire) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.value = fixed(4);
        break;
      default:
        damaged();
    }
    return field;
  }
  [[noreturn]] void damaged() const {
    fail("{}: is not a SentencePiece model, or damaged (expected a serialized ModelProto)", where_);
  }
  void expect(const Field& field, int wire) const {
    if (field.wire != wire) damaged();
  }

 private:
  std::string_view take(uint64_t count) {
    if (count > bytes_.size()) damaged();
    const std::string_view taken = bytes_.substr(0, count);
    bytes_.remove_prefix(count);
    return taken;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 70; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      if (shift == 63 && byte > 1) damaged();
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    damaged();
  }
  uint64_t fixed(size_t count) {  // little-endian
    const std::string_view taken = take(count);
    uint64_t value = 0;
    for (size_t i = count; i-- > 0;) value = value << 8 | static_cast<uint8_t>(taken[i]);
    return value;
  }
  std::string_view bytes_;
  const std::string& where_;
};

class WireWriter {
 public:
  void number(uint64_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void real(uint64_t field, float value) {
    varint(field << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int i = 0; i < 4; ++i) out_ += static_cast<char>(bits >> (8 * i));
  }
  void bytes(uint64_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    out_ += value;
  }
  std::string take() { return std::move(out_); }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
  }
  std::string out_;
};

Model::Piece read_piece(std::string_view bytes, size_t id, const std::string& where) {
  Model::Piece piece;
  WireReader reader(bytes, where);
  while (const auto field = reader.next()) {
    if (field->number == 1) {
      reader.expect(*field, 2);
      piece.text = field->bytes;
    } else if (field->number == 2) {
      reader.expect(*field, 5);
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    } else if (field->number == 3) {
      reader.expect(*field, 0);
      if (field->value < 1 || field->value > 6)
        fail("{}: piece {}: expected a type from 1 to 6, found {}", where, id, field->value);
      piece.type = static_cast<Model::Type>(field->value);
    }
  }
  return piece;
}

void read_trainer(std::string_view bytes, Model& model, const std::string& where) {
  WireReader reader(bytes, where);
  while (const auto field = reader.next()) {
    if (field->number == 3) {
      reader.expect(*field, 0);
      if (field->value != 1 && field->value != 2)
        fail("{}: trainer_spec.model_type: expected 1 (unigram) or 2 (BPE), found {}", where,
             field->value);
      model.algorithm = static_cast<Model::Algorithm>(field->value);
    } else if (field->number == 35) {
      reader.expect(*field, 0);
      model.byte_fallback = field->value != 0;
    }
  }
}

void read_normalizer(std::string_view bytes, Model& model, const std::string& where) {
  WireReader reader(bytes, where);
  while (const auto field = reader.next()) {
    if (field->number == 2) {
      reader.expect(*field, 2);
      model.precompiled_charsmap = field->bytes;
    }
    if (field->number < 3 || field->number > 5) continue;
    reader.expect(*field, 0);
    bool& flag = field->number == 3   ? model.add_dummy_prefix
                 : field->number == 4 ? model.remove_extra_whitespaces
                                      : model.escape_whitespaces;
    flag = field->value != 0;
  }
}

// precompiled_charsmap: u32 size of the double array in bytes, the array, then the replacements,
// each ended by a zero byte. A walk goes from a node to node ^ offset ^ byte; the array's end must
// lie behind all of them, and every value must be the start of a replacement.
void check_charsmap(std::string_view map, const std::string& where) {
  if (map.empty()) return;
  const auto u32 = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = 4; i-- > 0;) value = value << 8 | static_cast<uint8_t>(map[at + i]);
    return value;
  };
  const auto damaged = [&](const char* what) {
    fail("{}: normalizer_spec.precompiled_charsmap is damaged: {}", where, what);
  };
  if (map.size() < 4) damaged("no size");
  const size_t array_bytes = u32(0);
  if (array_bytes < 1024 || array_bytes % 1024 != 0 || array_bytes >= map.size() - 4)
    damaged("its double array is no multiple of 1024 bytes, or larger than the map");
  if (map.back() != '\0') damaged("its last replacement has no end");
  const size_t units = array_bytes / 4, replacements = map.size() - 4 - array_bytes;
  for (size_t i = 0; i < units; ++i) {
    const uint32_t unit = u32(4 + 4 * i);
    if (unit >> 31) continue;  // a value, or nothing that a byte leads to
    const size_t offset = size_t{unit >> 10} << ((unit & (1u << 9)) >> 6);
    if (((i ^ offset) | 0xFF) >= units) damaged("a node lies outside");
    const bool has_value = (unit >> 8 & 1) != 0;
    if (has_value && (u32(4 + 4 * (i ^ offset)) & 0x7FFFFFFF) >= replacements)
      damaged("a replacement lies outside");
  }
}

void check(const Model& model, const std::string& where) {
  if (model.pieces.empty() || model.pieces.size() > kMaxPieces)
    fail("{}: expected 1 to {} pieces, found {}", where, kMaxPieces, model.pieces.size());
  std::unordered_set<std::string_view> seen;
  std::array<bool, 256> has_byte{};
  int64_t unknown = -1;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Model::Piece& piece = model.pieces[id];
    if (piece.text.empty() || piece.text.size() > kMaxPieceBytes || !is_valid_utf8(piece.text) ||
        piece.text.find('\0') != std::string::npos)
      fail("{}: piece {}: expected 1 to {} bytes of UTF-8, found '{}' ({} bytes)", where, id,
           kMaxPieceBytes, to_valid_utf8(std::string_view(piece.text).substr(0, 40)),
           piece.text.size());
    if (!std::isfinite(piece.score))
      fail("{}: piece {} '{}': its score is not a number", where, id, piece.text);
    if (!seen.insert(piece.text).second)
      fail("{}: piece {} '{}' is there twice", where, id, piece.text);
    if (piece.type == Model::Type::Unknown) {
      if (unknown >= 0) fail("{}: pieces {} and {} are both 'unknown'", where, unknown, id);
      unknown = static_cast<int64_t>(id);
    } else if (piece.type == Model::Type::Byte) {
      const int byte = byte_of_piece(piece.text);
      if (byte < 0)
        fail("{}: byte piece {}: expected <0x00> to <0xFF>, found '{}'", where, id, piece.text);
      if (!model.byte_fallback)
        fail("{}: piece {} '{}' is a byte, but trainer_spec.byte_fallback is false", where, id,
             piece.text);
      has_byte[static_cast<size_t>(byte)] = true;
    }
  }
  if (unknown < 0) fail("{}: no piece has type 'unknown' (2), expected one", where);
  for (size_t byte = 0; model.byte_fallback && byte < 256; ++byte) {
    if (!has_byte[byte])
      fail("{}: trainer_spec.byte_fallback is true, but there is no byte piece <0x{:02X}>", where,
           byte);
  }
  check_charsmap(model.precompiled_charsmap, where);
}

}  // namespace

int byte_of_piece(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const size_t high = digits.find(text[3]), low = digits.find(text[4]);
  if (high == std::string_view::npos || low == std::string_view::npos) return -1;
  return static_cast<int>(16 * high + low);
}

SentencePieceModel read_sentencepiece_model(std::string_view bytes, const std::string& where) {
  Model model;
  WireReader reader(bytes, where);
  Model denormalizer;
  while (const auto field = reader.next()) {
    if (field->number < 1 || field->number > 5) continue;  // extensions
    reader.expect(*field, 2);
    if (field->number == 1) {
      if (model.pieces.size() >= kMaxPieces) fail("{}: more than {} pieces", where, kMaxPieces);
      model.pieces.push_back(read_piece(field->bytes, model.pieces.size(), where));
    } else if (field->number == 2) {
      read_trainer(field->bytes, model, where);
    } else if (field->number == 3) {
      read_normalizer(field->bytes, model, where);
    } else if (field->number == 5) {
      read_normalizer(field->bytes, denormalizer, where);
    }
  }
  if (!denormalizer.precompiled_charsmap.empty())
    fail("{}: denormalizer_spec.precompiled_charsmap: expected none, this is not supported", where);
  check(model, where);
  return model;
}

std::string write_sentencepiece_model(const SentencePieceModel& model, const std::string& where) {
  check(model, where);
  WireWriter out;
  for (const Model::Piece& piece : model.pieces) {
    WireWriter message;
    message.bytes(1, piece.text);
    message.real(2, piece.score);
    message.number(3, static_cast<uint64_t>(piece.type));
    out.bytes(1, message.take());
  }
  WireWriter trainer;
  trainer.number(3, static_cast<uint64_t>(model.algorithm));
  trainer.number(35, model.byte_fallback);
  out.bytes(2, trainer.take());
  WireWriter normalizer;
  if (!model.precompiled_charsmap.empty()) normalizer.bytes(2, model.precompiled_charsmap);
  normalizer.number(3, model.add_dummy_prefix);
  normalizer.number(4, model.remove_extra_whitespaces);
  normalizer.number(5, model.escape_whitespaces);
  out.bytes(3, normalizer.take());
  return out.take();
}

std::string without_dummy_prefix(std::string_view serialized) {
  WireWriter normalizer;
  normalizer.number(3, 0);
  WireWriter out;
  out.bytes(3, normalizer.take());
  return std::string(serialized) + out.take();
}

}  // namespace reprise
