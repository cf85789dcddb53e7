// What `reprise plan search` judges plans by: the windows of a text, or questions with their answers;
// a part to choose a plan by and a part to report it on.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "eval/plan_score.h"
#include "eval/qa.h"

namespace reprise::tools {

struct PlanMaterialOptions {
  std::string text, questions;  // one of them: a file
  std::string held_out;         // another one of the kind; empty: the second half of the first
  int64_t context = 256;        // tokens of a window
  std::string images;           // folder of the questions' pictures
  int64_t limit = 0;            // questions; 0: all
  PictureOptions picture;
};

struct PlanMaterial {
  const char* unit = "windows";
  std::vector<JudgedPrompt> calibration, held_out;
  std::vector<Question> held_out_questions;  // empty for a text
  Json inputs;                               // which files and how they were cut (PlanFile)

  // Throws Error naming option and file where one is too short, or a question can't be asked.
  static PlanMaterial read(LoadedModel& loaded, const PlanMaterialOptions& options);
};

}  // namespace reprise::tools
