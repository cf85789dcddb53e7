// What `reprise convert` and `reprise quantize` share: options, progress, Ctrl-C, the table.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "convert/convert.h"
#include "tools/cli.h"

namespace reprise::tools {

struct ConversionFlags {
  std::string source, target;
  std::string type = "keep";
  std::string sensitive = "keep";
  std::vector<std::string> overrides;
  int threads = 0;
  bool force = false;
  bool json = false;
  SchemeOptions scheme;  // for loading

  void add(cli::App& app);
  ConvertOptions options() const;
  LoadOptions load_options() const;
};

// Runs convert(options) with a progress bar; Ctrl-C and the like (interrupt.h) end it. Returns false
// when it was interrupted; nothing is left of the target then.
bool run_conversion(ConvertOptions options,
                    const std::function<void(const ConvertOptions&)>& convert,
                    const std::string& unit = "MB");

// Says so; the exit code.
int report_interrupted();

// Role by role: how many values, as what, how large, how far from the source.
void print_conversion(const ConvertResult& result);

}  // namespace reprise::tools
