// Plans as a table for people and as JSON for files.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "model/plan/plan.h"

namespace reprise {

std::string plan_table(const Plan& plan) {
  std::string text = fmt::format("{:>5}  {:<8} {:>6} {:>5} {:>6} {:>8}  {}\n", "step", "what",
                                 "block", "read", "write", "adapter", "state");
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const Step& step = plan.steps[i];
    const auto line = [&](const char* what, const std::string& block, const std::string& read,
                          const std::string& write, const std::string& adapter) {
      text += fmt::format("{:>5}  {:<8} {:>6} {:>5} {:>6} {:>8}  {}\n", i, what, block, read, write,
                          adapter, step.label);
    };
    if (const auto* v = std::get_if<Visit>(&step.op)) {
      const bool prompt =
          v->write >= 0 && plan.kv_rows[static_cast<size_t>(v->write)].lifetime == Lifetime::Prompt;
      line("visit", std::to_string(v->block),
           (v->past ? "<" : "") + std::to_string(v->read) +
               (v->deepest < 0 ? "" : fmt::format("/{}", v->deepest)),
           v->write < 0 ? "-" : std::to_string(v->write) + (prompt ? "*" : ""),
           v->adapter < 0 ? "-" : std::to_string(v->adapter));
    } else if (const auto* m = std::get_if<Mix>(&step.op)) {
      line("mix", fmt::format("gate {}", m->gate), "",
           m->tokens == MixTokens::All ? "" : mix_tokens_name(m->tokens),
           m->skip_below > 0 ? fmt::format("w >= {:.4g}", m->skip_below) : "");
    } else if (const auto* s = std::get_if<Save>(&step.op)) {
      line("save", fmt::format("r{}", s->reg), "", "", "");
    } else if (const auto* c = std::get_if<Combine>(&step.op)) {
      line("combine", fmt::format("r{}", c->reg), "", "", fmt::format("x{:.4g}", c->alpha));
    } else if (const auto* a = std::get_if<Add>(&step.op)) {
      line("add", fmt::format("r{}", a->reg), "", "",
           a->scale == 1 ? "" : fmt::format("x{:.4g}", a->scale));
    } else if (const auto* inject = std::get_if<Inject>(&step.op)) {
      line("inject", fmt::format("r{}", inject->reg), "", "", std::to_string(inject->index));
    } else if (const auto* norm = std::get_if<Norm>(&step.op)) {
      line("norm", norm->index < 0 ? "final" : std::to_string(norm->index), "", "", "");
    } else if (const auto* initial = std::get_if<Initial>(&step.op)) {
      line("initial", std::to_string(initial->index), "", "",
           initial->scale == 1 ? "" : fmt::format("x{:.4g}", initial->scale));
    } else if (const auto* carry = std::get_if<Carry>(&step.op)) {
      line("carry", std::to_string(carry->index), "", "", "");
    } else if (const auto* e = std::get_if<LoopEnd>(&step.op)) {
      line("loop end", std::to_string(e->loop), "", e->coda < 0 ? "" : fmt::format("->{}", e->coda),
           e->norm ? "norm" : "");
    }
  }
  const bool prompt_rows = std::any_of(plan.kv_rows.begin(), plan.kv_rows.end(),
                                       [](KvDecl row) { return row.lifetime == Lifetime::Prompt; });
  if (prompt_rows) text += "       * KV row kept until the prompt is done\n";
  const auto any = [&](auto holds) {
    return std::any_of(plan.steps.begin(), plan.steps.end(), holds);
  };
  if (any([](const Step& s) {
        const auto* visit = std::get_if<Visit>(&s.op);
        return visit && visit->past;
      }))
    text += "       < the row's past alone, and the visit's own keys and values\n";
  if (any([](const Step& s) {
        const auto* visit = std::get_if<Visit>(&s.op);
        return visit && visit->deepest >= 0;
      }))
    text +=
        "       / the row of each token's deepest entries, read where the one before lacks some\n";
  if (any([](const Step& s) {
        const auto* end = std::get_if<LoopEnd>(&s.op);
        return end && end->coda >= 0;
      }))
    text += "       -> the step at which a token that leaves here goes on\n";
  return text;
}

Json plan_to_json(const Plan& plan) {
  Json steps = Json::array();
  for (const Step& step : plan.steps) {
    Json item;
    if (const auto* v = std::get_if<Visit>(&step.op)) {
      item = {{"op", "visit"},
              {"block", v->block},
              {"read", v->read},
              {"write", v->write},
              {"adapter", v->adapter}};
      if (v->past) item["past"] = true;
      if (v->deepest >= 0) item["deepest"] = v->deepest;
    } else if (const auto* m = std::get_if<Mix>(&step.op))
      item = {{"op", "mix"},
              {"gate", m->gate},
              {"skip_below", m->skip_below},
              {"tokens", mix_tokens_name(m->tokens)}};
    else if (const auto* s = std::get_if<Save>(&step.op))
      item = {{"op", "save"}, {"register", s->reg}};
    else if (const auto* c = std::get_if<Combine>(&step.op))
      item = {{"op", "combine"}, {"register", c->reg}, {"alpha", c->alpha}};
    else if (const auto* a = std::get_if<Add>(&step.op))
      item = {{"op", "add"}, {"register", a->reg}, {"scale", a->scale}};
    else if (const auto* inject = std::get_if<Inject>(&step.op))
      item = {{"op", "inject"}, {"register", inject->reg}, {"index", inject->index}};
    else if (const auto* norm = std::get_if<Norm>(&step.op))
      item = {{"op", "norm"}, {"index", norm->index}};
    else if (const auto* initial = std::get_if<Initial>(&step.op))
      item = {{"op", "initial"}, {"index", initial->index}, {"scale", initial->scale}};
    else if (const auto* carry = std::get_if<Carry>(&step.op))
      item = {{"op", "carry"}, {"index", carry->index}};
    else if (const auto* e = std::get_if<LoopEnd>(&step.op)) {
      item = {{"op", "loop_end"}, {"loop", e->loop}, {"norm", e->norm}};
      if (e->coda >= 0) item["coda"] = e->coda;
    }
    item["label"] = step.label;
    steps.push_back(std::move(item));
  }
  Json rows = Json::array();
  for (const KvDecl& row : plan.kv_rows)
    rows.push_back(row.lifetime == Lifetime::Prompt ? "prompt" : "request");
  return {{"steps", steps}, {"kv_rows", rows}, {"registers", plan.registers}};
}

Plan plan_from_json(const Json& json, const std::string& where) {
  constexpr int64_t kLimit = 100000;  // steps, rows and registers of any sensible plan
  const JsonObject object(json, where);
  Plan plan;
  plan.registers = static_cast<int>(object.get_int("registers", 0, kLimit));
  if (!object.has("kv_rows") || !json["kv_rows"].is_array())
    object.fail_at("kv_rows", "expected an array of \"request\" and \"prompt\"");
  for (const Json& row : json["kv_rows"]) {
    if (row != "request" && row != "prompt")
      object.fail_at("kv_rows", "expected \"request\" or \"prompt\", found " + row.dump());
    plan.add_kv_row(row == "prompt" ? Lifetime::Prompt : Lifetime::Request);
  }
  if (!object.has("steps") || !json["steps"].is_array())
    object.fail_at("steps", "expected an array");
  for (const Json& item : json["steps"]) {
    const JsonObject step(item, where, fmt::format("steps[{}].", plan.steps.size()));
    const auto number = [&](const char* key, int64_t low = 0) {
      return static_cast<int>(step.get_int(key, low, kLimit));
    };
    const std::string op = step.get_string("op");
    Step parsed;
    parsed.label = step.find_string("label").value_or("");
    const auto real = [&](const char* key) {
      return static_cast<float>(step.find_number(key).value_or(1.0));
    };
    if (op == "visit")
      parsed.op = Visit{number("block"),
                        number("read"),
                        number("write", -1),
                        number("adapter", -1),
                        step.find_bool("past").value_or(false),
                        step.has("deepest") ? number("deepest") : -1};
    else if (op == "mix")
      parsed.op =
          Mix{number("gate"), static_cast<float>(step.find_number("skip_below").value_or(0.0)),
              parse_mix_tokens(step.find_string("tokens").value_or("all"), where)};
    else if (op == "save")
      parsed.op = Save{number("register")};
    else if (op == "combine")
      parsed.op = Combine{number("register"), static_cast<float>(step.get_number("alpha"))};
    else if (op == "add")
      parsed.op = Add{number("register"), real("scale")};
    else if (op == "inject")
      parsed.op = Inject{number("register"), number("index")};
    else if (op == "norm")
      parsed.op = Norm{number("index", -1)};
    else if (op == "initial")
      parsed.op = Initial{number("index"), real("scale")};
    else if (op == "carry")
      parsed.op = Carry{number("index")};
    else if (op == "loop_end")
      parsed.op =
          LoopEnd{number("loop"), step.get_bool("norm"), step.has("coda") ? number("coda") : -1};
    else
      step.fail_at("op",
                   "expected visit, mix, save, combine, add, inject, norm, initial, carry or "
                   "loop_end, found \"" +
                       op + "\"");
    plan.steps.push_back(std::move(parsed));
  }
  return plan;
}

}  // namespace reprise
