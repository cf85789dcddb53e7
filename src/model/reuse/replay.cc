// Layer replay with the plan stored in the model file: an ordinary decoder whose config says
//   "reprise": {"scheme": "replay", "replay": {"plan": "0-23,10-14"}}
// Plain repetition or damped (arXiv 2605.23872), as parse_plan reads it. A plan on the command line
// takes the stored one's place.
#include "base/error.h"
#include "base/json_object.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

class Replay : public Scheme {
 public:
  explicit Replay(const ModelConfig& config) : Scheme(config) {
    const JsonObject keys(config.scheme_config, config.where, "reprise.replay.");
    keys.allow_only({"plan"});
    plan_ = keys.get_string("plan");
    parse_plan(plan_, config.text.layers, config.where + ": key 'reprise.replay.plan'");
  }

  Plan decode_plan(const PlanOptions& options) const override {
    PlanOptions stored = options;
    if (!stored.has("plan")) stored.set("plan", plan_);
    return Scheme::decode_plan(stored);
  }

 private:
  std::string plan_;
};

}  // namespace

const SchemeType& replay_scheme() {
  static const SchemeType type = {
      .name = "replay",
      .summary = "a decoder some of whose layers run again, by a stored plan",
      .make = make_as<Replay>,
      .options = {plan_option()}};
  return type;
}

}  // namespace reprise
