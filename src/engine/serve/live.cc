#include "engine/serve/live.h"

namespace reprise {
namespace {

std::optional<ExitRule> rule_of(const Model& model, const ServeRequest& request) {
  if (!request.exit.active()) return std::nullopt;
  return ExitRule(model, request.plans->decode, request.exit);
}

}  // namespace

Live::Live(const Model& model, ServeRequest asked)
    : request(std::move(asked)),
      rule(rule_of(model, request)),
      answer(request.rules, request.prompt.ids) {}

void Live::rewind() {
  REPRISE_CHECK(sequence.under_way.empty(), "rows of a request that starts again");
  sequence = Sequence();
  reservation.reset();
  room = 0;
  prompt_done = false;
  memory = {};
  left_at = -1;
}

}  // namespace reprise
