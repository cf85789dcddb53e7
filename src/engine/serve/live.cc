#include "engine/serve/live.h"

#include "engine/early_exits.h"

namespace reprise {
namespace {

std::optional<ExitRule> rule_of(const Model& model, const ServeRequest& request) {
  if (!request.exit.active()) return std::nullopt;
  return ExitRule(model, request.plans->decode, request.exit);
}

// A request's sequence before anything of it has run.
Sequence new_sequence(const ServeRequest& request) {
  Sequence sequence;
  sequence.initial = request.initial ? request.initial
                                     : std::make_shared<const InitialStates>(
                                           InitialStates{.seed = request.rules.sampler.seed});
  return sequence;
}

bool has_step(const Plan& plan, bool (*is)(const Step&)) {
  return std::any_of(plan.steps.begin(), plan.steps.end(), is);
}

// Whether a token starts from what the one before has handed on.
bool carries(const Plan& plan) {
  return has_step(plan, [](const Step& step) { return std::holds_alternative<Carry>(step.op); });
}

// Whether tokens see the deepest entries of those before them, whose depth must be known.
bool sees_deepest(const Plan& plan) {
  return has_step(plan, [](const Step& step) {
    const auto* visit = std::get_if<Visit>(&step.op);
    return visit && visit->deepest >= 0;
  });
}

}  // namespace

Live::Live(const Model& model, ServeRequest asked)
    : request(std::move(asked)),
      rule(rule_of(model, request)),
      prompt_leaves(rule && leaves_with_prompts(model, request.exit)),
      answer(request.rules, request.prompt.ids),
      sequence(new_sequence(request)) {}

bool Live::one_by_one() const {
  const Plan& plan = decode_plan();
  return plan.whole_prompts() || carries(plan) || sees_deepest(plan);
}

bool Live::must_wait() const {
  if (sequence.under_way.empty()) return false;
  // A token that leaves writes deeper rows at once, so all before it must have written theirs.
  if (rule && rule->config().kv == ExitKv::Share) return true;
  // The token before must have come to its end: it hands its state on; or this one's answers are
  // looked at in every loop, behind layers that the one before must have run.
  const bool asks = rule && rule->reads_answers() && !reruns();
  return (asks || carries(decode_plan())) &&
         std::any_of(sequence.under_way.begin(), sequence.under_way.end(),
                     [](const Cohort* cohort) { return cohort->mode() == Mode::Live; });
}

bool Live::answers_are_prompts(const Model& model) const {
  const Plans& plans = *request.plans;
  return !rule && sequence.under_way.empty() && plans.prefill == plans.decode &&
         !plans.decode.whole_prompts() && !carries(plans.decode) &&
         std::ranges::all_of(plans.decode.kv_rows,
                             [](const KvDecl& row) { return row.lifetime == Lifetime::Request; }) &&
         same_rope(model.config().text, prompt_size(), sequence.length);
}

bool Live::has_run(int64_t tokens) const {
  return sequence.length >= tokens &&
         std::ranges::none_of(sequence.under_way, [&](const Cohort* cohort) {
           // Before the answer cohorts are of one request.
           return cohort->rows().positions[0] < tokens;
         });
}

void Live::clear_sequence() {
  REPRISE_CHECK(sequence.under_way.empty(), "rows of a request that starts again");
  std::shared_ptr<KvAccount> account = std::move(sequence.account);
  sequence = new_sequence(request);
  sequence.account = std::move(account);
  taken = shared_bytes = lasting_shared_bytes = 0;
  pin.reset();
}

void Live::rewind() {
  clear_sequence();
  sequence.account.reset();
  reservation.reset();
  room = 0;
  prompt_done = false;
  whole.reset();
  memory = {};
  left_at = -1;
}

}  // namespace reprise
