#include "text/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer/metaspace_json.h"
#include "text/tokenizer/tokenizer_config.h"
#include "text/tokenizer/tokenizer_vocab.h"

namespace reprise {
namespace {

// Only what is written out as an object is a step; null and absent mean "none".
std::optional<JsonObject> find_step(const JsonObject& root, const std::string& key) {
  return root.find_object(key);
}

std::vector<JsonObject> get_objects(const JsonObject& object, const std::string& key,
                                    const std::string& prefix) {
  const auto it = object.json().find(key);
  if (it == object.json().end() || !it->is_array())
    object.fail_at(key, "expected an array of objects");
  std::vector<JsonObject> objects;
  for (size_t i = 0; i < it->size(); ++i)
    objects.emplace_back((*it)[i], object.where(), fmt::format("{}{}[{}].", prefix, key, i));
  return objects;
}

void require_empty(const JsonObject& object, const std::string& key) {
  if (!object.find_string(key).value_or("").empty())
    object.fail_at(key, "expected null or '', found '" + object.get_string(key) +
                            "' (not a byte-level vocabulary)");
}

void read_merges(const JsonObject& model, TokenizerSpec& spec) {
  const auto it = model.json().find("merges");
  if (it == model.json().end() || !it->is_array())
    model.fail_at("merges", "expected an array of merges");
  spec.merges.reserve(it->size());
  for (size_t i = 0; i < it->size(); ++i) {
    const Json& merge = (*it)[i];
    if (merge.is_string()) {
      spec.merges.push_back(merge.get<std::string>());
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      spec.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    } else {
      model.fail_at("merges", fmt::format("entry {}: expected \"a b\" or [\"a\", \"b\"], found {}",
                                          i, merge.dump().substr(0, 60)));
    }
  }
}

void read_model(const JsonObject& root, TokenizerSpec& spec) {
  const JsonObject model = root.get_object("model");
  const std::string type = model.find_string("type").value_or("BPE");
  if (type != "BPE") model.fail_at("type", "expected 'BPE', found '" + type + "'");
  if (model.find_number("dropout").value_or(0) != 0)
    model.fail_at("dropout", "expected null: merges left out at random are not supported");
  require_empty(model, "continuing_subword_prefix");
  require_empty(model, "end_of_word_suffix");
  spec.ignore_merges = model.find_bool("ignore_merges").value_or(false);
  spec.fuse_unknown = model.find_bool("fuse_unk").value_or(false);
  read_vocab_object(model.get_object("vocab").json(), spec.where, "key 'model.vocab': ", spec);
  read_merges(model, spec);
  if (const auto unknown = model.find_string("unk_token")) {
    const Json& vocab = model.json()["vocab"];
    if (!vocab.contains(*unknown))
      model.fail_at("unk_token", "'" + *unknown + "' is not in key 'model.vocab'");
    spec.unknown_byte = vocab[*unknown].get<int32_t>();
    spec.ids.unknown = spec.unknown_byte;
  }
}

void read_normalizer(const JsonObject& step, TokenizerSpec& spec) {
  const std::string type = step.get_string("type");
  if (type == "NFC") {
    spec.nfc = true;
  } else if (type == "Sequence") {
    for (const JsonObject& inner : get_objects(step, "normalizers", "normalizer."))
      read_normalizer(inner, spec);
  } else {
    step.fail_at("type", "unknown normalizer '" + type + "', known are NFC, Sequence");
  }
}

std::string escape_pattern(const std::string& literal) {
  std::string out;
  for (const char c : literal) {
    if (std::string_view(R"(\^$.|?*+()[]{}-&#)").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

SplitStep read_split(const JsonObject& step) {
  SplitStep split;
  const JsonObject pattern = step.get_object("pattern");
  split.pattern = pattern.has("Regex") ? pattern.get_string("Regex")
                                       : escape_pattern(pattern.get_string("String"));
  const std::string behavior = step.get_string("behavior");
  const bool invert = step.find_bool("invert").value_or(false);
  split.drop_unmatched = behavior == "Removed" && invert;
  if (behavior != "Isolated" && !split.drop_unmatched)
    step.fail_at("behavior", "expected 'Isolated', or 'Removed' with invert, found '" + behavior +
                                 (invert ? "' with invert" : "'"));
  return split;
}

void read_byte_level(const JsonObject& step, TokenizerSpec& spec) {
  if (step.find_bool("add_prefix_space").value_or(true))
    spec.splits.push_back({SplitStep::Kind::PrefixSpace, "", false});
  if (step.find_bool("use_regex").value_or(true)) {
    const auto& gpt2 = find_pre_tokenizer("gpt-2")->splits;
    spec.splits.insert(spec.splits.end(), gpt2.begin(), gpt2.end());
  }
}

// Everything that can't be read ends here, so that each message lists what can.
[[noreturn]] void fail_pre_tokenizer(const JsonObject& step, const std::string& key,
                                     const std::string& found) {
  step.fail_at(key, "unknown pre_tokenizer: " + found +
                        "; known are ByteLevel, and a Sequence of Split, Digits and a last "
                        "ByteLevel");
}

void read_pre_tokenizer(const JsonObject& root, TokenizerSpec& spec) {
  const auto top = find_step(root, "pre_tokenizer");
  if (!top) fail_pre_tokenizer(root, "pre_tokenizer", "none");
  std::vector<JsonObject> steps{*top};
  if (top->get_string("type") == "Sequence")
    steps = get_objects(*top, "pretokenizers", "pre_tokenizer.");
  for (size_t i = 0; i < steps.size(); ++i) {
    const JsonObject& step = steps[i];
    const std::string type = step.get_string("type");
    const bool last = i + 1 == steps.size();
    if (last != (type == "ByteLevel"))
      fail_pre_tokenizer(step, "type", "'" + type + (last ? "' at the end" : "' before the end"));
    if (type == "ByteLevel") {
      read_byte_level(step, spec);
    } else if (type == "Split") {
      spec.splits.push_back(read_split(step));
    } else if (type == "Digits") {
      const bool single = step.find_bool("individual_digits").value_or(false);
      spec.splits.push_back({SplitStep::Kind::Pattern, single ? R"(\p{N})" : R"(\p{N}+)", false});
    } else {
      fail_pre_tokenizer(step, "type", "'" + type + "'");
    }
  }
  if (steps.empty()) fail_pre_tokenizer(*top, "pretokenizers", "an empty Sequence");
}

void read_added_tokens(const JsonObject& root, TokenizerSpec& spec) {
  if (!root.has("added_tokens")) return;
  for (const JsonObject& entry : get_objects(root, "added_tokens", "")) {
    AddedToken token;
    token.id = static_cast<int32_t>(entry.get_int("id", 0, INT32_MAX - 1));
    token.text = entry.get_string("content");
    token.special = entry.find_bool("special").value_or(false);
    token.normalized = entry.find_bool("normalized").value_or(!token.special);
    token.lstrip = entry.find_bool("lstrip").value_or(false);
    token.rstrip = entry.find_bool("rstrip").value_or(false);
    token.single_word = entry.find_bool("single_word").value_or(false);
    spec.added.push_back(std::move(token));
  }
}

// TemplateProcessing's "single" template: special tokens before and after the one sequence.
void read_post_processor(const JsonObject& step, TokenizerSpec& spec) {
  const std::string type = step.get_string("type");
  if (type == "ByteLevel") return;  // offsets only
  if (type == "Sequence") {
    for (const JsonObject& inner : get_objects(step, "processors", "post_processor."))
      read_post_processor(inner, spec);
    return;
  }
  if (type != "TemplateProcessing")
    step.fail_at("type", "unknown post_processor '" + type +
                             "', known are ByteLevel, TemplateProcessing, Sequence");
  const JsonObject special = step.get_object("special_tokens");
  auto* ids = &spec.prefix;
  for (const JsonObject& piece : get_objects(step, "single", "post_processor.")) {
    if (piece.has("Sequence")) {
      ids = &spec.suffix;
      continue;
    }
    const std::string name = piece.get_object("SpecialToken").get_string("id");
    const auto it = special.get_object(name).json().find("ids");
    if (it == special.json()[name].end() || !it->is_array())
      special.fail_at(name, "expected a list 'ids'");
    for (const Json& id : *it) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= INT32_MAX)
        special.fail_at(name, "expected a list of ids, found " + it->dump().substr(0, 60));
      ids->push_back(id.get<int32_t>());
    }
  }
}

}  // namespace

TokenizerSpec spec_from_json(const Json& tokenizer, const std::string& where) {
  const JsonObject root(tokenizer, where);
  TokenizerSpec spec;
  spec.where = where;
  spec.vocab_key = "model.vocab";
  spec.merges_key = "model.merges";
  read_model(root, spec);
  read_added_tokens(root, spec);
  if (const auto step = find_step(root, "post_processor")) read_post_processor(*step, spec);
  if (is_metaspace(root)) {
    read_metaspace(root, spec);
  } else {
    if (const auto step = find_step(root, "normalizer")) read_normalizer(*step, spec);
    read_pre_tokenizer(root, spec);
    const auto step = find_step(root, "decoder");
    if (step && step->get_string("type") != "ByteLevel")
      step->fail_at("type", "expected 'ByteLevel', found '" + step->get_string("type") + "'");
  }
  return spec;
}

TokenizerSpec spec_from_files(const TokenizerFiles& files) {
  const std::string where = files.path_of("tokenizer.json");
  const Json tokenizer = parse_json(files.get("tokenizer.json"), where);
  TokenizerSpec spec = spec_from_json(tokenizer, where);
  const auto step = find_step(JsonObject(tokenizer, where), "pre_tokenizer");
  apply_fast_config(files, step && step->get_string("type") == "ByteLevel", spec);
  return spec;
}

}  // namespace reprise
