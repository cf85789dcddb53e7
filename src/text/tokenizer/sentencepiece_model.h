// SentencePiece model files (tokenizer.model): a serialized protocol buffer, message ModelProto of
// sentencepiece_model.proto. Read here for two reasons: to know what the library does not tell
// (types, flags), and to check everything in an untrusted file that the library relies on before it
// sees it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace reprise {

struct SentencePieceModel {
  enum class Type { Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6 };
  enum class Algorithm { Unigram = 1, Bpe = 2 };
  struct Piece {
    std::string text;  // spaces are written as U+2581
    float score = 0;
    Type type = Type::Normal;
  };
  std::vector<Piece> pieces;
  // trainer_spec
  Algorithm algorithm = Algorithm::Unigram;
  bool byte_fallback = false;
  // normalizer_spec
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  std::string precompiled_charsmap;  // empty: text is not normalized
};

// Parses and checks: types and scores, one unknown piece, no empty or double piece, all 256 byte
// pieces where bytes are the fallback, and the map of characters (a double array of the darts-clone
// library, which SentencePiece walks without checks). Throws Error beginning with `where`.
SentencePieceModel read_sentencepiece_model(std::string_view bytes, const std::string& where);

// Checks and serializes; for vocabularies that come from elsewhere. read(write(m)) is m.
std::string write_sentencepiece_model(const SentencePieceModel& model, const std::string& where);

// What to append to a serialized model to turn its dummy prefix off (the later field counts).
std::string without_dummy_prefix(std::string_view serialized);

// The byte that a byte piece's text ("<0x0A>") names, -1 when it isn't of that form.
int byte_of_piece(std::string_view text);

}  // namespace reprise
