#include "model/plan/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace reprise {

int Plan::add_kv_row(Lifetime lifetime) {
  kv_rows.push_back({lifetime});
  return static_cast<int>(kv_rows.size()) - 1;
}

void Plan::visit(int block, int kv, int adapter, std::string label) {
  steps.push_back({Visit{block, kv, kv, adapter}, std::move(label)});
}

void Plan::mix(const Mix& mix, std::string label) { steps.push_back({mix, std::move(label)}); }

std::string mix_tokens_name(MixTokens kind) {
  return kind == MixTokens::Image ? "image" : kind == MixTokens::Text ? "text" : "all";
}

MixTokens parse_mix_tokens(std::string_view name, const std::string& where) {
  for (const MixTokens kind : {MixTokens::All, MixTokens::Image, MixTokens::Text})
    if (name == mix_tokens_name(kind)) return kind;
  fail("{}: expected all, image or text, found '{}'", where, name);
}

void Plan::loop_end(int loop, bool norm) {
  steps.push_back({LoopEnd{loop, norm}, fmt::format("exit.{}", loop)});
}

int Plan::visits() const {
  return static_cast<int>(std::count_if(steps.begin(), steps.end(), [](const Step& step) {
    return std::holds_alternative<Visit>(step.op);
  }));
}

int Plan::unique_blocks() const {
  std::set<int> blocks;
  for (const Step& step : steps)
    if (const auto* visit = std::get_if<Visit>(&step.op)) blocks.insert(visit->block);
  return static_cast<int>(blocks.size());
}

int Plan::loops() const {
  return static_cast<int>(std::count_if(steps.begin(), steps.end(), [](const Step& step) {
    return std::holds_alternative<LoopEnd>(step.op);
  }));
}

void Plan::check(int blocks, const std::string& where) const {
  std::set<int> written, saved;
  bool visited = false;  // a Mix needs the visit right before it
  for (size_t i = 0; i < steps.size(); ++i) {
    const auto bad = [&](const std::string& what) { fail("{}: step {}: {}", where, i, what); };
    const auto row_ok = [&](int row) { return row >= 0 && row < static_cast<int>(kv_rows.size()); };
    const bool after_visit = std::exchange(visited, false);
    if (const auto* visit = std::get_if<Visit>(&steps[i].op)) {
      if (visit->block < 0 || visit->block >= blocks)
        bad(fmt::format("block {} does not exist, the model has blocks 0 to {}", visit->block,
                        blocks - 1));
      if (!row_ok(visit->read) || !row_ok(visit->write))
        bad(fmt::format("KV rows {} and {}, but the plan declares {}", visit->read, visit->write,
                        kv_rows.size()));
      if (!written.insert(visit->write).second)
        bad(fmt::format("KV row {} is written a second time", visit->write));
      if (!written.contains(visit->read))
        bad(fmt::format("KV row {} is read before it is written", visit->read));
      visited = true;
    } else if (const auto* mix = std::get_if<Mix>(&steps[i].op)) {
      if (!after_visit) bad("a mix must follow a visit");
      if (!(mix->skip_below >= 0 && mix->skip_below <= 1))
        bad(fmt::format("tokens are skipped below {}, expected 0 to 1", mix->skip_below));
    } else if (const auto* save = std::get_if<Save>(&steps[i].op)) {
      if (save->reg < 0 || save->reg >= registers)
        bad(fmt::format("register {}, but the plan declares {}", save->reg, registers));
      saved.insert(save->reg);
    } else if (const auto* combine = std::get_if<Combine>(&steps[i].op)) {
      if (!saved.contains(combine->reg))
        bad(fmt::format("register {} is combined before it is saved", combine->reg));
    }
  }
  if (steps.empty()) fail("{}: the plan has no steps", where);
}

Plan dense_plan(int blocks) {
  Plan plan;
  for (int b = 0; b < blocks; ++b)
    plan.visit(b, plan.add_kv_row(), /*adapter=*/-1, fmt::format("layer.{}.out", b));
  return plan;
}

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
      const bool prompt = plan.kv_rows[static_cast<size_t>(v->write)].lifetime == Lifetime::Prompt;
      line("visit", std::to_string(v->block), std::to_string(v->read),
           std::to_string(v->write) + (prompt ? "*" : ""),
           v->adapter < 0 ? "-" : std::to_string(v->adapter));
    } else if (const auto* m = std::get_if<Mix>(&step.op)) {
      line("mix", fmt::format("gate {}", m->gate), "",
           m->tokens == MixTokens::All ? "" : mix_tokens_name(m->tokens),
           m->skip_below > 0 ? fmt::format("w >= {:.4g}", m->skip_below) : "");
    } else if (const auto* s = std::get_if<Save>(&step.op)) {
      line("save", fmt::format("r{}", s->reg), "", "", "");
    } else if (const auto* c = std::get_if<Combine>(&step.op)) {
      line("combine", fmt::format("r{}", c->reg), "", "", fmt::format("x{:.4g}", c->alpha));
    } else if (const auto* e = std::get_if<LoopEnd>(&step.op)) {
      line("loop end", std::to_string(e->loop), "", "", e->norm ? "norm" : "");
    }
  }
  const bool prompt_rows = std::any_of(plan.kv_rows.begin(), plan.kv_rows.end(),
                                       [](KvDecl row) { return row.lifetime == Lifetime::Prompt; });
  if (prompt_rows) text += "       * KV row kept until the prompt is done\n";
  return text;
}

Json plan_to_json(const Plan& plan) {
  Json steps = Json::array();
  for (const Step& step : plan.steps) {
    Json item;
    if (const auto* v = std::get_if<Visit>(&step.op))
      item = {{"op", "visit"},
              {"block", v->block},
              {"read", v->read},
              {"write", v->write},
              {"adapter", v->adapter}};
    else if (const auto* m = std::get_if<Mix>(&step.op))
      item = {{"op", "mix"},
              {"gate", m->gate},
              {"skip_below", m->skip_below},
              {"tokens", mix_tokens_name(m->tokens)}};
    else if (const auto* s = std::get_if<Save>(&step.op))
      item = {{"op", "save"}, {"register", s->reg}};
    else if (const auto* c = std::get_if<Combine>(&step.op))
      item = {{"op", "combine"}, {"register", c->reg}, {"alpha", c->alpha}};
    else if (const auto* e = std::get_if<LoopEnd>(&step.op))
      item = {{"op", "loop_end"}, {"loop", e->loop}, {"norm", e->norm}};
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
    if (op == "visit")
      parsed.op = Visit{number("block"), number("read"), number("write"), number("adapter", -1)};
    else if (op == "mix")
      parsed.op =
          Mix{number("gate"), static_cast<float>(step.find_number("skip_below").value_or(0.0)),
              parse_mix_tokens(step.find_string("tokens").value_or("all"), where)};
    else if (op == "save")
      parsed.op = Save{number("register")};
    else if (op == "combine")
      parsed.op = Combine{number("register"), static_cast<float>(step.get_number("alpha"))};
    else if (op == "loop_end")
      parsed.op = LoopEnd{number("loop"), step.get_bool("norm")};
    else
      step.fail_at("op", "expected visit, mix, save, combine or loop_end, found \"" + op + "\"");
    plan.steps.push_back(std::move(parsed));
  }
  return plan;
}

}  // namespace reprise
