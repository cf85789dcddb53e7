// `reprise eval --calibrate-exit`: the threshold to leave loops by, from a text.
#pragma once

#include <optional>
#include <string>

#include "engine/session.h"
#include "tools/cli.h"
#include "tools/options.h"

namespace reprise::tools {

class ExitCalibration {
 public:
  // `measure`: the group of things to measure, of which one is given.
  void add(cli::App& app, cli::App& measure);
  bool asked() const { return !text_.empty(); }
  int run(const ModelFlags& flags, const PlanOptions& plan, int64_t ctx, bool json) const;

 private:
  std::string text_, held_out_, store_as_;
  ExitKind kind_ = ExitKind::Confidence;
  std::optional<ExitKv> kv_;
  double agreement_ = 0.95;
  bool store_ = false;
  cli::Option* rule_ = nullptr;
};

}  // namespace reprise::tools
