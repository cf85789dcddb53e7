// What a step tells whoever watches: one line of log.jsonl.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace reprise {

struct StepReport {
  int64_t step = 0;  // steps done
  int64_t steps = 0;
  double loss = 0;  // what is minimised: the objective's terms, weighted
  // The objective's terms alone and what else it measures, by their names ("preference_loss").
  std::map<std::string, double> values;
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  int64_t tokens = 0;        // rows run in this step
  double tokens_per_second = 0;
  // Seconds of the step by part: data, forward, teacher (where there is one), loss (with the head),
  // backward, optimizer. On an accelerator, whose work goes on after a call, parts that wait for
  // results also hold what was begun before them.
  std::map<std::string, double> seconds;
  double seconds_left = 0;
  std::optional<double> validation_loss;
  // Share of answers whose every token is the most likely one.
  std::optional<double> validation_exact;
};

}  // namespace reprise
