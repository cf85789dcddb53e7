// A request to the scheduler that the same one alone (Session and Answer) is compared with.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/serve/scheduler.h"

namespace reprise::test {

struct Asked {
  TokenPrompt prompt;
  std::vector<float> image_rows;
  PlanOptions options;
  AnswerRules rules;
  ExitConfig exit;
  std::shared_ptr<const InitialStates> initial;  // null: the sampler's seed
  int priority = 0;
};

struct Given {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;
  std::vector<int> loops;
  std::optional<StopReason> end;
  std::string error;
};

TokenPrompt prompt_of(const Asked& asked, Model& model);

// Throws what the request runs into.
Given alone(Model& model, const Asked& asked);
// Adds what came; a failure where something comes behind the end.
void receive(Given& given, const ServeEvent& event);

// The plans of one choice of options are one object: only then do requests share cohorts.
class PlanStore {
 public:
  explicit PlanStore(const Model& model) : model_(model) {}
  std::shared_ptr<const Plans> of(const PlanOptions& options) {
    for (const auto& [known, plans] : list_)
      if (known == options) return plans;
    list_.emplace_back(options, make_plans(model_, options));
    return list_.back().second;
  }

 private:
  const Model& model_;
  std::vector<std::pair<PlanOptions, std::shared_ptr<const Plans>>> list_;
};

ServeRequest serve_request(const Asked& asked, Model& model, PlanStore& plans, Given& given);

// `whole`: false for one that was ended from outside: what it had until then.
void expect_same(const Given& expected, const Given& found, bool whole);

}  // namespace reprise::test
