#include "tools/beam_options.h"

#include <string>

namespace reprise::tools {

std::vector<cli::Option*> add_beam_options(cli::App& app, BeamOptions& options, bool answers) {
  std::vector<cli::Option*> all;
  all.push_back(
      app.add_option(
             "--beams", options.beams,
             "Beam search over N continuations, as transformers' num_beams; 1: greedy or sampled. "
             "The answer comes when the search is done, not word by word")
          ->check(cli::Range(1, 1024))
          ->capture_default_str());
  all.push_back(
      app.add_option(
             "--length-penalty", options.length_penalty,
             "A beam's score is its log-probability over length^X: above 0 favours long answers")
          ->capture_default_str());
  all.push_back(
      app.add_option_function(
             "--beam-early-stop",
             [&options](const std::string& text) { options.early_stop = parse_early_stop(text); },
             "With N answers found, go on while a better one is likely (no), not at all (yes), or "
             "while one is possible (never)")
          ->check(cli::IsMember({"no", "yes", "never"}))
          ->default_str("no"));
  if (!answers) return all;
  all.push_back(
      app.add_option("--num-return-sequences", options.returned, "Answers to show, the best first")
          ->check(cli::Range(1, 1024))
          ->capture_default_str());
  return all;
}

}  // namespace reprise::tools
