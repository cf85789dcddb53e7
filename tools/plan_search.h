// `reprise plan search`.
#pragma once

#include "tools/commands.h"
#include "tools/options.h"
#include "tools/plan_material.h"

namespace reprise::tools {

class PlanSearchCommand : public Command {
 public:
  void setup(cli::App& app) override;
  int run() override;

 private:
  ModelFlags flags_;
  PlanMaterialOptions material_;
  std::string out_;
  std::vector<std::string> tried_;
  int budget_ = 200;
  int keep_ = 0;
  bool json_ = false;
};

}  // namespace reprise::tools
