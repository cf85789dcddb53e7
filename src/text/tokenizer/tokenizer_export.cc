#include "text/tokenizer/tokenizer_export.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer/sentencepiece_model.h"
#include "text/tokenizer/tokenizer_gguf.h"
#include "text/tokenizer/tokenizer_sentencepiece.h"
#include "text/tokenizer/utf8.h"

namespace reprise {
namespace {

using OrderedJson = nlohmann::ordered_json;
using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

constexpr const char* kMeta = "\u2581";
constexpr const char* kTemplate = "tokenizer.chat_template";
constexpr const char* kTemplates = "tokenizer.chat_templates";  // names of others

// ---- A SentencePiece vocabulary as merges.

std::vector<std::string> merges_of(const std::vector<Piece>& pieces) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < pieces.size(); ++id)
    if (pieces[id].type == Type::Normal) ids.emplace(pieces[id].text, static_cast<int32_t>(id));
  struct Merge {
    float score;
    std::string_view left, right;
  };
  std::vector<Merge> merges;
  for (const auto& [text, id] : ids) {
    for (size_t at = first_char(text).length; at < text.size();
         at += first_char(text.substr(at)).length) {
      const Merge merge = {pieces[static_cast<size_t>(id)].score, text.substr(0, at),
                           text.substr(at)};
      if (ids.contains(merge.left) && ids.contains(merge.right)) merges.push_back(merge);
    }
  }
  // Of one piece's the longest left part first. Texts only break ties of scores, so that the order is
  // the same everywhere.
  std::ranges::sort(merges, [](const Merge& a, const Merge& b) {
    return std::tuple(-a.score, -std::ssize(a.left), -std::ssize(a.right), a.left, a.right) <
           std::tuple(-b.score, -std::ssize(b.left), -std::ssize(b.right), b.left, b.right);
  });
  std::vector<std::string> texts;
  for (const Merge& merge : merges) texts.push_back(fmt::format("{} {}", merge.left, merge.right));
  return texts;
}

TokenizerSpec spec_from_sentencepiece(const GgufMetadata& metadata) {
  SentencePieceSpec source = sentencepiece_spec_from_gguf(metadata);
  const SentencePieceModel model = read_sentencepiece_model(source.model, source.where);
  if (model.remove_extra_whitespaces)
    metadata.fail_at("tokenizer.ggml.remove_extra_whitespaces",
                     "true can't be said in a folder's tokenizer.json: expected false, or none");
  if (!model.precompiled_charsmap.empty())
    metadata.fail_at("tokenizer.ggml.precompiled_charsmap",
                     "can't be said in a folder's tokenizer.json as this program reads it: "
                     "expected none");
  TokenizerSpec spec;
  static_cast<TokenizerCommon&>(spec) = std::move(source);
  spec.vocab_key = "tokenizer.ggml.tokens";
  spec.merges_key = "tokenizer.ggml.scores";
  spec.fuse_unknown = true;
  spec.metaspace = Metaspace{.prepend = model.add_dummy_prefix ? Metaspace::Prepend::Normalizer
                                                               : Metaspace::Prepend::Never,
                             .byte_fallback = model.byte_fallback,
                             .decode = {.strip_first_space = model.add_dummy_prefix}};
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    const bool hole =
        piece.type == Type::Unused && piece.text == gguf_hole_text(static_cast<int64_t>(id));
    const bool own = piece.type == Type::Normal || piece.type == Type::Byte ||
                     (piece.type == Type::Unused && !hole);
    spec.tokens.push_back(own ? piece.text : "");
    if (piece.type == Type::Unknown) spec.unknown_byte = static_cast<int32_t>(id);
  }
  spec.merges = merges_of(model.pieces);
  return spec;
}

// ---- tokenizer.json

// A token's text as the file writes it.
const std::string& text_of(const TokenizerSpec& spec, int32_t id) {
  for (const AddedToken& token : spec.added)
    if (token.id == id) return token.text;
  REPRISE_CHECK(id >= 0 && static_cast<size_t>(id) < spec.tokens.size(), "token {}", id);
  return spec.tokens[static_cast<size_t>(id)];
}

// The vocabulary, by id. Added tokens that don't follow behind it with no id left out are part of it
// too: the `tokenizers` package numbers those that it doesn't find there.
OrderedJson vocabulary(const TokenizerSpec& spec) {
  std::vector<const std::string*> texts(spec.tokens.size());
  size_t size = 0;
  for (size_t id = 0; id < spec.tokens.size(); ++id)
    if (!spec.tokens[id].empty()) texts[id] = &spec.tokens[id], size = id + 1;
  std::vector<const AddedToken*> behind;
  const auto put = [&](const AddedToken& token) {
    texts.resize(std::max(texts.size(), static_cast<size_t>(token.id) + 1));
    texts[static_cast<size_t>(token.id)] = &token.text;
  };
  for (const AddedToken& token : spec.added) {
    if (static_cast<size_t>(token.id) < size || token.id == spec.unknown_byte)
      put(token);
    else
      behind.push_back(&token);
  }
  std::ranges::sort(behind, {}, &AddedToken::id);
  bool follows = std::find(texts.begin(), texts.begin() + std::ssize(texts), nullptr) >=
                 texts.begin() + static_cast<std::ptrdiff_t>(size);
  for (size_t i = 0; i < behind.size(); ++i)
    follows = follows && static_cast<size_t>(behind[i]->id) == size + i;
  if (!follows)
    for (const AddedToken* token : behind) put(*token);
  OrderedJson vocab = OrderedJson::object();
  for (size_t id = 0; id < texts.size(); ++id)
    if (texts[id]) vocab[*texts[id]] = id;
  return vocab;
}

OrderedJson added_token(const AddedToken& token) {
  return {{"content", token.text},  {"single_word", token.single_word}, {"lstrip", token.lstrip},
          {"rstrip", token.rstrip}, {"normalized", token.normalized},   {"special", token.special}};
}

OrderedJson replace_step(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

OrderedJson normalizer(const TokenizerSpec& spec) {
  if (!spec.metaspace) return spec.nfc ? OrderedJson{{"type", "NFC"}} : OrderedJson();
  const OrderedJson spaces = replace_step(" ", kMeta);
  if (spec.metaspace->prepend == Metaspace::Prepend::Never) return spaces;
  OrderedJson steps = OrderedJson::array();
  steps.push_back({{"type", "Prepend"}, {"prepend", kMeta}});
  steps.push_back(spaces);
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

OrderedJson pre_tokenizer(const TokenizerSpec& spec) {
  if (spec.metaspace) return nullptr;
  OrderedJson steps = OrderedJson::array();
  for (const SplitStep& split : spec.splits)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", split.pattern}}},
                     {"behavior", split.drop_unmatched ? "Removed" : "Isolated"},
                     {"invert", split.drop_unmatched}});
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

OrderedJson byte_level() {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", true},
          {"trim_offsets", true},
          {"use_regex", true}};
}

OrderedJson decoder(const TokenizerSpec& spec) {
  if (!spec.metaspace) return byte_level();
  OrderedJson steps = OrderedJson::array();
  steps.push_back(replace_step(kMeta, " "));
  if (spec.metaspace->byte_fallback) steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (spec.metaspace->decode.strip_first_space)
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

OrderedJson post_processor(const TokenizerSpec& spec) {
  if (spec.prefix.empty() && spec.suffix.empty() && !spec.metaspace) return byte_level();
  OrderedJson special = OrderedJson::object();
  const auto around = [&](OrderedJson& steps, const char* sequence, int type) {
    const auto add = [&](const std::vector<int32_t>& ids) {
      for (const int32_t id : ids) {
        const std::string& text = text_of(spec, id);
        special[text] = {{"id", text}, {"ids", {id}}, {"tokens", {text}}};
        steps.push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
      }
    };
    add(spec.prefix);
    steps.push_back({{"Sequence", {{"id", sequence}, {"type_id", type}}}});
    add(spec.suffix);
  };
  OrderedJson single = OrderedJson::array(), pair = OrderedJson::array();
  around(single, "A", 0);
  around(pair, "A", 0);
  around(pair, "B", 1);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", special}};
}

// ---- tokenizer_config.json

// Of several templates all, by name.
OrderedJson chat_template(const GgufMetadata& metadata, const std::optional<std::string>& usual) {
  if (!metadata.has(kTemplates)) return usual ? OrderedJson(*usual) : OrderedJson();
  OrderedJson list = OrderedJson::array();
  if (usual) list.push_back({{"name", "default"}, {"template", *usual}});
  for (const std::string& name : metadata.get_strings(kTemplates)) {
    if (name == "default" && usual) continue;
    const std::string& text = metadata.get_string(fmt::format("{}.{}", kTemplate, name));
    list.push_back({{"name", name}, {"template", text}});
  }
  return list;
}

OrderedJson config_json(const GgufMetadata& metadata, const TokenizerSpec& spec,
                        const std::string& model_type) {
  OrderedJson json;
  OrderedJson added = OrderedJson::object();
  std::vector<AddedToken> by_id = spec.added;
  std::ranges::sort(by_id, {}, &AddedToken::id);
  for (const AddedToken& token : by_id) added[std::to_string(token.id)] = added_token(token);
  json["added_tokens_decoder"] = added;
  const std::pair<const char*, std::optional<int32_t>> roles[] = {{"bos_token", spec.ids.bos},
                                                                  {"eos_token", spec.ids.eos},
                                                                  {"unk_token", spec.ids.unknown},
                                                                  {"pad_token", spec.ids.pad}};
  for (const auto& [role, id] : roles) {
    // An ordinary token with a role would be found in texts before all else.
    const bool is_added = id && std::ranges::count(by_id, *id, &AddedToken::id) > 0;
    json[role] = is_added ? OrderedJson(text_of(spec, *id)) : OrderedJson();
  }
  json["clean_up_tokenization_spaces"] = false;
  const std::string context =
      metadata.find_string("general.architecture").value_or("") + ".context_length";
  if (const auto length = metadata.find_int(context)) json["model_max_length"] = *length;
  // The class that takes tokenizer.json at its word. transformers 5 has one of its own for every
  // model of type qwen2, whatever is written here.
  json["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (model_type == "qwen2") {
    const NamedPreTokenizer& qwen2 = *find_pre_tokenizer("qwen2");
    if (spec.metaspace || spec.splits != qwen2.splits || spec.nfc != qwen2.nfc)
      metadata.fail_at(spec.metaspace ? "tokenizer.ggml.model" : "tokenizer.ggml.pre",
                       "transformers cuts the texts of every model of type qwen2 as 'qwen2' says, "
                       "so this tokenizer can't be a folder's: expected 'gpt2' and 'qwen2'");
    json["tokenizer_class"] = "Qwen2Tokenizer";
  }
  if (const OrderedJson text = chat_template(metadata, spec.chat_template); !text.is_null())
    json["chat_template"] = text;
  return json;
}

}  // namespace

TokenizerSpec merges_from_gguf(const GgufMetadata& metadata) {
  return metadata.find_string("tokenizer.ggml.model") == "llama" ? spec_from_sentencepiece(metadata)
                                                                 : spec_from_gguf(metadata);
}

OrderedJson tokenizer_to_json(const TokenizerSpec& spec) {
  OrderedJson added = OrderedJson::array();
  std::vector<AddedToken> by_id = spec.added;
  std::ranges::sort(by_id, {}, &AddedToken::id);
  for (const AddedToken& token : by_id) {
    OrderedJson entry = {{"id", token.id}};
    entry.update(added_token(token));
    added.push_back(entry);
  }
  const bool bytes = spec.metaspace && spec.metaspace->byte_fallback;
  OrderedJson unknown;
  if (spec.unknown_byte) unknown = text_of(spec, *spec.unknown_byte);
  const OrderedJson model = {{"type", "BPE"},
                             {"dropout", nullptr},
                             {"unk_token", unknown},
                             {"continuing_subword_prefix", nullptr},
                             {"end_of_word_suffix", nullptr},
                             {"fuse_unk", spec.fuse_unknown},
                             {"byte_fallback", bytes},
                             {"ignore_merges", spec.ignore_merges},
                             {"vocab", vocabulary(spec)},
                             {"merges", spec.merges}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", normalizer(spec)},
          {"pre_tokenizer", pre_tokenizer(spec)},
          {"post_processor", post_processor(spec)},
          {"decoder", decoder(spec)},
          {"model", model}};
}

std::map<std::string, std::string> export_tokenizer(const GgufMetadata& metadata,
                                                    const std::string& model_type) {
  const TokenizerSpec spec = merges_from_gguf(metadata);
  const OrderedJson config = config_json(metadata, spec, model_type);
  make_tokenizer(spec);  // what is wrong with it is said now
  return {{"tokenizer.json", tokenizer_to_json(spec).dump(1) + "\n"},
          {"tokenizer_config.json", config.dump(2) + "\n"}};
}

}  // namespace reprise
