// Tokenizers: text to token ids and back. Goals: the same ids as the `tokenizers` package for the
// same tokenizer.json; no surprise for hostile text (time O(n log n), bad UTF-8 never an error).
// Not goals: training vocabularies, offsets into the text, padding and truncation.
//
// A tokenizer is built from a TokenizerSpec, plain data that adapters fill: tokenizer_json.h
// (Hugging Face) and tokenizer_gguf.h. It is immutable and may be used by many threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace reprise {

struct EncodeOptions {
  // Special tokens written out in the text ("<|im_end|>") become their ids. With false they are
  // text like any other; added tokens that are not special are recognised in either case.
  bool parse_special = true;
  // Adds what the model's own post-processor adds around a text (a BOS token, mostly).
  bool add_special = false;
  // The text goes on after other tokens (a picture's): what only happens at the beginning of a whole
  // text, some tokenizers' space in front, is left out.
  bool continues = false;
};

// Token ids with a role; nullopt where the files name none.
struct SpecialIds {
  std::optional<int32_t> bos, eos, unknown, pad;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Invalid UTF-8 in `text` is read as U+FFFD (one per maximal subpart). Throws Error only when the
  // tokenizer's own pattern runs into its match limits.
  virtual std::vector<int32_t> encode(std::string_view text,
                                      const EncodeOptions& options = {}) const = 0;

  // Ids are 0..vocab_size()-1, special and added tokens included; there may be holes in between.
  virtual int32_t vocab_size() const = 0;
  // The bytes a token stands for; not always whole characters. Empty for a hole. Throws Error when
  // id is outside the vocabulary.
  virtual std::string_view token_bytes(int32_t id) const = 0;
  virtual bool is_special(int32_t id) const = 0;  // throws Error as token_bytes
  // The token with this text: an added token as it is written ("<|im_end|>"), else a token of the
  // vocabulary as the file writes it (byte alphabet: "\u0120the").
  virtual std::optional<int32_t> find(std::string_view token_text) const = 0;
  virtual const SpecialIds& ids() const = 0;
  // The model's own Jinja chat template, if it has one; see chat.h.
  virtual const std::optional<std::string>& chat_template() const = 0;

  // Where decoding is more than joining token_bytes(): SentencePiece vocabularies begin a text with
  // a space that isn't part of it.
  struct DecodeRules {
    bool strip_first_space = false;    // a space at the very beginning is left out
    bool strip_after_special = false;  // and one after a special token
    bool operator==(const DecodeRules&) const = default;
  };
  virtual DecodeRules decode_rules() const { return {}; }

  // All bytes joined, by decode_rules(); invalid parts replaced by U+FFFD. Throws Error on an id
  // outside the vocabulary.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
};

// One token beside the model's vocabulary, found in the text before anything else happens.
struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool special = false;      // left out by decode(skip_special); not recognised in plain text
  bool normalized = false;   // looked for in the normalized text, not in the raw one
  bool lstrip = false;       // takes white space on its left with it
  bool rstrip = false;       // and on its right
  bool single_word = false;  // only where no word character touches it
};

// One step of pre-tokenization; steps apply in order to the pieces of the step before.
struct SplitStep {
  enum class Kind {
    Pattern,     // each match of `pattern` and each text between matches becomes a piece
    PrefixSpace  // a space is put in front of a piece which has none
  };
  Kind kind = Kind::Pattern;
  std::string pattern;          // in the common subset of Oniguruma and PCRE2
  bool drop_unmatched = false;  // the text between matches is thrown away
  bool operator==(const SplitStep&) const = default;
};

// What every kind of tokenizer has, as data.
struct TokenizerCommon {
  std::string where;  // the file, for error messages
  std::vector<AddedToken> added;
  std::vector<int32_t> prefix, suffix;  // what add_special adds
  SpecialIds ids;
  std::optional<std::string> chat_template;
};

// How vocabularies of characters (Llama-2's and Phi-3's tokenizer.json) write spaces: as U+2581,
// with one more in front of a text.
struct Metaspace {
  enum class Prepend {
    Never,
    First,      // at the beginning of the whole text, where there is no space yet
    Always,     // of every part between added tokens, where there is no space yet
    Normalizer  // the same whether there is one or not, before normalized added tokens are looked
                // for
  };
  Prepend prepend = Prepend::Always;
  bool split = false;          // pieces begin at spaces; else a part is merged as a whole
  bool byte_fallback = false;  // an unknown character is its bytes, tokens <0x00> to <0xFF>
  Tokenizer::DecodeRules decode;
};

// A BPE tokenizer as data: of bytes, or with `metaspace` of characters.
struct TokenizerSpec : TokenizerCommon {
  std::string vocab_key;  // the keys of the two tables, for error messages
  std::string merges_key;
  std::vector<std::string> tokens;  // [id] as the file writes them; empty = no such token
  std::vector<std::string> merges;  // "left right", the best first
  bool ignore_merges = false;       // a piece that is a token as a whole is not merged from bytes
  bool fuse_unknown = false;        // neighbouring unknown bytes become one unknown token
  bool nfc = false;                 // normalize to NFC first
  // As slow (Python) tokenizers do it: NFC before any added token is looked for, and strip flags
  // that take what Python calls white space.
  bool slow = false;
  std::vector<SplitStep> splits;
  std::optional<Metaspace> metaspace;   // then neither nfc nor splits
  std::optional<int32_t> unknown_byte;  // stands for what has no token; nullopt: it is dropped
};

// Checks the whole spec. Throws Error naming spec.where, the key and what was found: a merge of
// unknown tokens, a text outside the byte alphabet, ids that clash or are out of range, a pattern
// that does not compile.
std::unique_ptr<Tokenizer> make_tokenizer(TokenizerSpec spec);

// The largest vocabulary for so many entries: ids may leave holes, but a file can't ask for memory
// that its own size does not justify.
constexpr int64_t max_vocab_size(int64_t entries) { return 2 * entries + (1 << 16); }

// The split steps of well-known models by GGUF's names for them ("gpt-2", "qwen2", "llama-bpe",
// "smollm" and aliases); nullptr when the name is unknown.
struct NamedPreTokenizer {
  std::string_view name;
  bool nfc = false;
  bool ignore_merges = false;
  bool adds_bos = false;  // where a file doesn't say (tokenizer.ggml.add_bos_token)
  std::vector<SplitStep> splits;
};
const NamedPreTokenizer* find_pre_tokenizer(std::string_view name);
// The name whose steps these are; empty when none. For writing GGUF files.
std::string_view pre_tokenizer_name(const TokenizerSpec& spec);
std::string known_pre_tokenizers();  // "gpt-2, qwen2, ...": for error messages

}  // namespace reprise
