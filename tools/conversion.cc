#include "tools/conversion.h"

#include <fmt/format.h>

#include <chrono>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "convert/report.h"
#include "tools/interrupt.h"
#include "tools/options.h"

namespace reprise::tools {
namespace {

struct Interrupted {};  // passes through the library, which cleans up behind it

}  // namespace

void ConversionFlags::add(cli::App& app) {
  app.add_option("source", source, "Hugging Face folder or GGUF file")
      ->type_name("SRC")
      ->required();
  app.add_option("target", target, "What to write")->type_name("DST")->required();
  app.add_option("--sensitive", sensitive,
                 "Type of vision tower, projector, gates and matrices of the scheme's own when "
                 "the rest is quantized: keep, f32, f16 or bf16")
      ->capture_default_str();
  app.add_option("--keep", overrides,
                 "PATTERN=TYPE: tensors whose name matches ('*' is any text) get this type; 'keep' "
                 "leaves them as they are. Repeatable, the first match counts")
      ->type_name("PATTERN=TYPE")
      ->repeatable();
  app.add_option("--threads", threads, "Threads; 0: all that this process may use")
      ->check(cli::Range(0, 1024))
      ->capture_default_str();
  add_scheme_options(app, SchemeOption::When::Load, scheme);
  app.add_flag("--force", force, "Replace what is at DST");
  app.add_flag("--json", json, "One JSON object instead of text");
}

ConvertOptions ConversionFlags::options() const {
  ConvertOptions options;
  set_type(options.types, type, "--type");
  options.types.delicate = parse_type(sensitive, "--sensitive");
  for (const std::string& text : overrides)
    options.types.overrides.push_back(parse_override(text, "--keep"));
  options.threads = threads > 0 ? threads : ThreadPool::hardware_threads();
  options.replace = force;
  return options;
}

LoadOptions ConversionFlags::load_options() const {
  LoadOptions options;
  options.scheme = scheme;
  return options;
}

bool run_conversion(ConvertOptions options,
                    const std::function<void(const ConvertOptions&)>& convert,
                    const std::string& unit) {
  constexpr auto kRedraw = std::chrono::milliseconds(100);
  const int64_t divisor = unit == "MB" ? 1'000'000 : 1;
  const InterruptScope interrupt;
  Progress progress(unit);
  Clock::time_point drawn = Clock::now();
  options.progress = [&](int64_t done, int64_t total, const std::string& tensor) {
    if (interrupt.flag()) throw Interrupted();
    if (Clock::now() - drawn < kRedraw) return;
    drawn = Clock::now();
    if (total > 0) progress.update(done / divisor, std::max<int64_t>(1, total / divisor), tensor);
  };
  try {
    convert(options);
  } catch (const Interrupted&) {
    return false;
  }
  return true;
}

int report_interrupted() {
  fmt::print(stderr, "reprise: interrupted; nothing was written\n");
  return interrupted_exit();
}

void print_conversion(const ConvertResult& result) {
  fmt::print("{:<14}{:>8}{:>10}{:>11}{:>11}  {:<14}{:>10}{:>11}\n", "tensors of", "number",
             "values", "before", "after", "types", "rel. RMS", "max error");
  for (const RoleSummary& role : summarize(result)) {
    const bool exact = role.error.error_squares == 0;
    fmt::print("{:<14}{:>8}{:>10}{:>11}{:>11}  {:<14}{:>10}{:>11}\n", role.role, role.tensors,
               human_count(role.values), human_bytes(role.source_bytes), human_bytes(role.bytes),
               role.types, exact ? "exact" : fmt::format("{:.2e}", role.error.relative_rms()),
               exact ? "" : fmt::format("{:.2e}", role.error.largest));
  }
  for (const std::string& note : conversion_notes(result)) fmt::print("note: {}\n", note);
}

}  // namespace reprise::tools
