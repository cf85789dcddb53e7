// `reprise inspect`: what a model file is, its plan as a table, stored and effective parameters,
// memory at a given context.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/json.h"
#include "tools/commands.h"
#include "tools/exit_options.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

struct RoleTotals {
  int64_t tensors = 0;
  int64_t values = 0;
  std::set<std::string> types;
};

std::string join(const std::vector<std::string>& words, const char* none) {
  if (words.empty()) return none;
  return fmt::format("{}", fmt::join(words, ", "));
}

// Keys that a token sees in layers with a window, itself included; 0: no layer has one.
int64_t window_of(const TextConfig& text) {
  int64_t window = 0;
  for (const BlockConfig& block : text.blocks) window = std::max(window, block.window);
  return window;
}

std::string window_text(const TextConfig& text) {
  const int64_t window = window_of(text);
  if (window == 0) return "";
  const auto layers =
      std::ranges::count_if(text.blocks, [](const BlockConfig& block) { return block.window > 0; });
  const bool all = layers == std::ssize(text.blocks);
  return fmt::format(", sliding window {}{}", window,
                     all ? "" : fmt::format(" in {} of {} layers", layers, text.layers));
}

class InspectCommand : public Command {
 public:
  void setup(cli::App& app) override {
    app.description("Shows what a model file is, its plan, its parameters and its memory");
    app.footer(
        "Examples:\n"
        "  reprise inspect model.gguf --ctx 4096\n"
        "  reprise inspect model.gguf --plan 0-14,10-14@0.1,15-23 --json");
    flags_.add(app);
    flags_.add_chat_template(app);
    add_plan_options(app, plan_);
    app.add_option("--ctx", context_, "Tokens that memory is computed for (default: at most 2048)")
        ->check(cli::Range(int64_t{1}, int64_t{1} << 31));
    app.add_flag("--json", json_, "One line of JSON instead of text");
  }

  int run() override {
    const auto loaded = LoadedModel::load(flags_.options());
    const Json facts = describe(*loaded);
    if (json_) {
      print_json(facts);
    } else {
      print_text(*loaded, facts);
    }
    return 0;
  }

 private:
  Json describe(LoadedModel& loaded) {
    Model& model = loaded.model();
    const ModelConfig& config = loaded.config();
    const TextConfig& text = config.text;
    const Plan prefill = model.prefill_plan(plan_);
    const Plan decode = model.decode_plan(plan_);

    Json facts;
    facts["path"] = flags_.model;
    facts["format"] = model.source().format();
    facts["architecture"] = text.architecture;
    facts["scheme"] = config.scheme;
    facts["presets"] = config.presets;
    facts["backend"] = loaded.backend().description();
    facts["chat_format"] = chat_format_name(loaded);
    try {
      if (const ExitConfig exit = own_exit(model); exit.active())
        facts["exit"] = {{"rule", exit_text(exit)}, {"kv", exit_kv_name(exit.kv)}};
    } catch (const Error& error) {  // nothing that keeps the model from running
      facts["exit"] = {{"problem", error.what()}};
    }
    facts["text"] = {{"blocks", text.layers},
                     {"d", text.d},
                     {"heads", text.heads},
                     {"kv_heads", text.kv_heads},
                     {"head_dim", text.head_dim},
                     {"ffn", text.ffn},
                     {"vocabulary", text.vocab},
                     {"tied_head", text.tied_head},
                     {"window", window_of(text)},
                     {"context", text.max_position},
                     {"rope_theta", text.ropes[0].theta}};
    if (config.vision) {
      const VisionConfig& v = *config.vision;
      facts["vision"] = {{"kind", v.kind == VisionConfig::Kind::Clip ? "CLIP" : "InternViT"},
                         {"layers", v.layers},
                         {"d", v.d},
                         {"heads", v.heads},
                         {"image_size", v.image_size},
                         {"patch", v.patch},
                         {"tokens_per_tile", v.tokens_per_tile()},
                         {"max_tiles", config.image.max_tiles}};
    }
    facts["parameters"] = {{"unique", model.parameters()},
                           {"effective_prefill", model.effective_parameters(prefill)},
                           {"effective_decode", model.effective_parameters(decode)}};
    facts["depth"] = {{"blocks", text.layers},
                      {"prefill_visits", prefill.visits()},
                      {"decode_visits", decode.visits()},
                      {"loops", prefill.loops()}};
    facts["plan"] = {{"summary", plan_summary(prefill)},
                     {"stored", config.plan.empty() ? Json() : Json(config.plan)},
                     {"prefill", plan_to_json(prefill)},
                     {"decode", plan_to_json(decode)}};
    facts["memory"] = memory(loaded, prefill);
    if (Json held = held_as_f32(model); !held.empty()) facts["memory"]["held_as_f32"] = held;
    facts["tensors"] = tensors(model);
    return facts;
  }

  // The rule that `run` goes by where it isn't told another.
  ExitConfig own_exit(const Model& model) const {
    const Plan decode = model.decode_plan(plan_);
    if (!given_exit_option(model, plan_).empty()) return asked_exit(model, decode, plan_);
    return default_exit(model, decode, plan_, kRunDefaults);
  }

  static Json chat_format_name(LoadedModel& loaded) {
    const ChatFormat* format = nullptr;
    try {
      format = loaded.chat_format();
    } catch (const Error&) {
      return "(not recognised; --chat-template names one)";
    }
    return format == nullptr ? Json() : Json(format->name);
  }

  Json memory(LoadedModel& loaded, const Plan& prefill) const {
    const int64_t limit = loaded.config().text.max_position;
    const int64_t context = context_ > 0 ? context_ : std::min<int64_t>(2048, limit);
    int64_t request_rows = 0, prompt_rows = 0;
    for (const KvDecl& row : prefill.kv_rows) {
      ++(row.lifetime == Lifetime::Request ? request_rows : prompt_rows);
    }
    const int64_t token = loaded.model().kv_spec().bytes_per_token();
    const int64_t pages = (context + kKvPageTokens - 1) / kKvPageTokens * kKvPageTokens;
    const int64_t weights = loaded.backend().stats().weight_bytes;
    return {{"context", context},
            {"weight_bytes", weights},
            {"kv_bytes_per_token", request_rows * token},
            {"kv_bytes", request_rows * token * pages},
            {"prompt_kv_bytes", prompt_rows * token * pages},
            {"total_bytes", weights + (request_rows + prompt_rows) * token * pages}};
  }

  // Matrices of quantized types that the backend has no kernels for: what they take as F32 instead.
  static Json held_as_f32(Model& model) {
    std::set<std::string> types;
    int64_t bytes = 0, stored = 0;
    model.visit_tensors([&](const TensorSlot& slot) {
      const TensorView* view = model.source().weights().find(slot.name);
      if (!view || !is_quantized(view->type) || slot.tensor->dtype() != DType::F32) return;
      types.insert(std::string(dtype_name(view->type)));
      bytes += tensor_bytes(DType::F32, slot.shape);
      stored += static_cast<int64_t>(view->data.size());
    });
    if (types.empty()) return Json::object();
    return {{"types", types}, {"bytes", bytes}, {"stored_bytes", stored}};
  }

  static Json tensors(Model& model) {
    std::map<std::string, RoleTotals> totals;
    model.visit_tensors([&](const TensorSlot& slot) {
      RoleTotals& role = totals[role_name(slot)];
      ++role.tensors;
      role.values += num_elements(slot.shape);
      role.types.insert(std::string(dtype_name(slot.tensor->dtype())));
    });
    Json list = Json::array();
    for (const auto& [name, role] : totals) {
      list.push_back({{"role", name},
                      {"tensors", role.tensors},
                      {"parameters", role.values},
                      {"types", role.types}});
    }
    return list;
  }

  void print_text(LoadedModel& loaded, const Json& facts) const {
    const ModelConfig& config = loaded.config();
    const TextConfig& text = config.text;
    const auto line = [](const char* name, const std::string& value) {
      fmt::print("{:<14}{}\n", name, value);
    };
    const auto number = [&](const char* group, const char* key) {
      return facts[group][key].get<int64_t>();
    };
    line("model", flags_.model);
    line("format", facts["format"].get<std::string>());
    line("architecture", fmt::format("{}, scheme {}", text.architecture, config.scheme));
    line("shape",
         fmt::format("{} blocks, d {}, {} heads / {} KV heads of {}, ffn {}, vocabulary {}",
                     text.layers, text.d, text.heads, text.kv_heads, text.head_dim, text.ffn,
                     text.vocab));
    line("context", fmt::format("{} tokens{}", text.max_position, window_text(text)));
    if (config.vision) {
      const VisionConfig& v = *config.vision;
      line("vision",
           fmt::format("{}, {} layers, d {}, tiles of {} x {}, {} tokens each, at most {}",
                       v.kind == VisionConfig::Kind::Clip ? "CLIP" : "InternViT", v.layers, v.d,
                       v.image_size, v.image_size, v.tokens_per_tile(), config.image.max_tiles));
    }
    line("presets", join(config.presets, "none"));
    if (facts.contains("exit")) {
      const Json& exit = facts["exit"];
      line("early exit", exit.contains("problem")
                             ? "can't be used: " + exit["problem"].get<std::string>()
                             : fmt::format("{}, KV {}", exit["rule"].get<std::string>(),
                                           exit["kv"].get<std::string>()));
    }
    line("chat format",
         facts["chat_format"].is_null() ? "none" : facts["chat_format"].get<std::string>());
    line("backend", loaded.backend().description());
    line("parameters", fmt::format("{} unique, {} effective in a prompt, {} in decode",
                                   human_count(number("parameters", "unique")),
                                   human_count(number("parameters", "effective_prefill")),
                                   human_count(number("parameters", "effective_decode"))));
    line("memory",
         fmt::format("{} weights + {} KV at {} tokens ({} a token)",
                     human_bytes(number("memory", "weight_bytes")),
                     human_bytes(number("memory", "kv_bytes")), number("memory", "context"),
                     human_bytes(number("memory", "kv_bytes_per_token"))));
    if (facts["memory"].contains("held_as_f32")) {
      const Json& held = facts["memory"]["held_as_f32"];
      line("", fmt::format("of the weights {} are {} held as F32 ({} in the file): no kernels read "
                           "them yet",
                           human_bytes(held["bytes"].get<int64_t>()),
                           join(held["types"].get<std::vector<std::string>>(), ""),
                           human_bytes(held["stored_bytes"].get<int64_t>())));
    }
    if (number("memory", "prompt_kv_bytes") > 0) {
      line("", fmt::format("+ {} KV while a prompt of that length runs",
                           human_bytes(number("memory", "prompt_kv_bytes"))));
    }
    fmt::print("\ntensors\n{:>12}  {:>6}  {:>10}  types\n", "role", "count", "values");
    for (const Json& role : facts["tensors"]) {
      fmt::print("{:>12}  {:>6}  {:>10}  {}\n", role["role"].get<std::string>(),
                 role["tensors"].get<int64_t>(), human_count(role["parameters"].get<int64_t>()),
                 join(role["types"].get<std::vector<std::string>>(), ""));
    }
    const Plan prefill = loaded.model().prefill_plan(plan_);
    const Plan decode = loaded.model().decode_plan(plan_);
    const bool same = prefill == decode;
    const bool stored = !loaded.config().plan.empty() && !plan_.has("plan");
    fmt::print("\nplan{}{}: {} visits of {} blocks: {}\n{}", same ? "" : " of prompts",
               stored ? ", stored in the model" : "", prefill.visits(), prefill.unique_blocks(),
               plan_summary(prefill), plan_table(prefill));
    if (!same) {
      fmt::print("\nplan of decode: {} visits of {} blocks: {}\n{}", decode.visits(),
                 decode.unique_blocks(), plan_summary(decode), plan_table(decode));
    }
  }

  ModelFlags flags_;
  PlanOptions plan_;
  int64_t context_ = 0;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace reprise::tools
