// The ordinary decoder: every block once, in order. All of it is Scheme's defaults; a replay plan
// given at run time (--plan) works on it without any more weights.
#include "base/json_object.h"
#include "model/reuse/schemes.h"

namespace reprise {
namespace {

class Dense : public Scheme {
 public:
  explicit Dense(const ModelConfig& config) : Scheme(config) {
    JsonObject(config.scheme_config, config.where, "reprise.dense.").allow_only({});
  }
};

}  // namespace

const SchemeType& dense_scheme() {
  static const SchemeType type = {.name = "dense",
                                  .summary = "the ordinary decoder: every layer once",
                                  .make = make_as<Dense>,
                                  .options = {plan_option()},
                                  .stored_plan = true};
  return type;
}

}  // namespace reprise
