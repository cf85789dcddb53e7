#include "text/tokenizer/metaspace_json.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace reprise {
namespace {

constexpr const char* kMeta = "\u2581";

// {"pattern": {"String": a}, "content": b}
void require_replace(const JsonObject& step, const std::string& from, const std::string& to) {
  if (step.get_object("pattern").find_string("String") != from)
    step.fail_at("pattern", fmt::format("expected the string '{}'", from));
  if (step.get_string("content") != to)
    step.fail_at("content",
                 fmt::format("expected '{}', found '{}'", to, step.get_string("content")));
}

void require_meta(const JsonObject& step) {
  if (const auto text = step.find_string("replacement"); text && *text != kMeta)
    step.fail_at("replacement", "expected U+2581, found '" + *text + "'");
}

// Metaspace's "prepend_scheme"; older files have "add_prefix_space" instead.
Metaspace::Prepend read_scheme(const JsonObject& step) {
  if (!step.has("prepend_scheme"))
    return step.find_bool("add_prefix_space").value_or(true) ? Metaspace::Prepend::Always
                                                             : Metaspace::Prepend::Never;
  const std::string scheme = step.get_string("prepend_scheme");
  if (scheme == "always") return Metaspace::Prepend::Always;
  if (scheme == "first") return Metaspace::Prepend::First;
  if (scheme == "never") return Metaspace::Prepend::Never;
  step.fail_at("prepend_scheme", "expected always, first or never, found '" + scheme + "'");
}

// Whether spaces are replaced; sets out.prepend.
bool read_normalizer(const JsonObject& root, Metaspace& out) {
  bool replaced = false;
  for (const JsonObject& step : json_steps(root, "normalizer", "normalizers")) {
    const std::string type = step.get_string("type");
    if (type == "Prepend" && !replaced && out.prepend == Metaspace::Prepend::Never) {
      if (step.get_string("prepend") != kMeta) step.fail_at("prepend", "expected U+2581");
      out.prepend = Metaspace::Prepend::Normalizer;
    } else if (type == "Replace") {
      require_replace(step, " ", kMeta);
      replaced = true;
    } else {
      step.fail_at("type", "unknown normalizer '" + type +
                               "' beside U+2581 for spaces, known are " +
                               "Prepend before Replace, Replace");
    }
  }
  return replaced;
}

// Whether all that is done is to cut at spaces.
bool cuts_at_spaces(const std::vector<JsonObject>& steps) {
  return std::ranges::all_of(steps, [](const JsonObject& step) {
    return step.get_string("type") == "Split" &&
           step.get_object("pattern").find_string("String") == " ";
  });
}

void read_decoder(const JsonObject& root, Metaspace& out) {
  bool spaces = false, bytes = false;
  for (const JsonObject& step : json_steps(root, "decoder", "decoders")) {
    const std::string type = step.get_string("type");
    if (type == "Replace") {
      require_replace(step, kMeta, " ");
      spaces = true;
    } else if (type == "ByteFallback") {
      bytes = true;
    } else if (type == "Strip") {
      if (step.get_string("content") != " " || step.get_int("start") != 1 ||
          step.get_int("stop") != 0)
        step.fail_at("type", "Strip: expected one space at the start to be stripped");
      out.decode.strip_first_space = true;
    } else if (type == "Metaspace") {
      require_meta(step);
      spaces = true;
      out.decode.strip_first_space = read_scheme(step) != Metaspace::Prepend::Never;
    } else if (type != "Fuse") {
      step.fail_at("type", "unknown decoder '" + type +
                               "', known are Replace, ByteFallback, Fuse, Strip, Metaspace");
    }
  }
  if (!spaces) root.fail_at("decoder", "expected a step that turns U+2581 into spaces");
  if (out.byte_fallback && !bytes)
    root.fail_at("decoder", "expected a step ByteFallback, as model.byte_fallback is true");
}

}  // namespace

std::vector<JsonObject> json_steps(const JsonObject& root, const std::string& key,
                                   const std::string& list_key) {
  const auto step = root.find_object(key);
  if (!step) return {};
  if (step->get_string("type") != "Sequence") return {*step};
  const auto it = step->json().find(list_key);
  if (it == step->json().end() || !it->is_array())
    step->fail_at(list_key, "expected an array of objects");
  std::vector<JsonObject> steps;
  for (size_t i = 0; i < it->size(); ++i)
    steps.emplace_back((*it)[i], root.where(), fmt::format("{}.{}[{}].", key, list_key, i));
  return steps;
}

bool is_metaspace(const JsonObject& root) {
  if (root.get_object("model").find_bool("byte_fallback").value_or(false)) return true;
  const auto has = [&](const char* key, const char* list_key, const char* type) {
    const std::vector<JsonObject> steps = json_steps(root, key, list_key);
    return std::any_of(steps.begin(), steps.end(), [&](const JsonObject& step) {
      return step.find_string("type").value_or("") == type;
    });
  };
  return has("pre_tokenizer", "pretokenizers", "Metaspace") ||
         has("normalizer", "normalizers", "Replace") || has("normalizer", "normalizers", "Prepend");
}

void read_metaspace(const JsonObject& root, TokenizerSpec& spec) {
  Metaspace meta;
  meta.prepend = Metaspace::Prepend::Never;
  meta.byte_fallback = root.get_object("model").find_bool("byte_fallback").value_or(false);
  bool spaces = read_normalizer(root, meta);
  std::vector<JsonObject> steps = json_steps(root, "pre_tokenizer", "pretokenizers");
  // Gemma's cuts at spaces, of which the normalizer has left none.
  if (spaces && cuts_at_spaces(steps)) steps.clear();
  if (steps.size() > 1) root.fail_at("pre_tokenizer", "expected one step beside U+2581 for spaces");
  if (!steps.empty()) {
    const JsonObject& step = steps[0];
    if (step.get_string("type") == "ByteLevel" && meta.byte_fallback)
      root.get_object("model").fail_at("byte_fallback",
                                       "expected false beside pre_tokenizer ByteLevel");
    if (step.get_string("type") != "Metaspace")
      step.fail_at("type", "unknown pre_tokenizer '" + step.get_string("type") +
                               "' beside U+2581 for spaces, known is Metaspace");
    require_meta(step);
    spaces = true;
    meta.split = step.find_bool("split").value_or(true);
    const Metaspace::Prepend scheme = read_scheme(step);
    if (meta.prepend == Metaspace::Prepend::Never) meta.prepend = scheme;
  }
  if (!spaces)
    root.fail_at("normalizer",
                 "expected a step that turns spaces into U+2581, here or in key "
                 "'pre_tokenizer'");
  read_decoder(root, meta);
  if (meta.prepend == Metaspace::Prepend::Normalizer || steps.empty()) {
    for (const AddedToken& token : spec.added) {
      if (token.normalized && (token.lstrip || token.rstrip))
        root.fail_at("added_tokens",
                     fmt::format("'{}': flags lstrip and rstrip of a normalized "
                                 "token are not supported beside normalizer Replace",
                                 token.text));
    }
  }
  spec.metaspace = meta;
}

}  // namespace reprise
