#include "tools/options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include "base/json.h"
#include "model/scheme_type.h"

namespace reprise::tools {

void ModelFlags::add(cli::App& app) {
  app.add_option("model", model, "Hugging Face folder or GGUF file")
      ->type_name("MODEL")
      ->required();
  app.add_option("--backend", backend, "cpu or torch")
      ->check(cli::IsMember({"cpu", "torch"}))
      ->capture_default_str();
  app.add_option("--device", device, "Where the torch backend computes: cpu or cuda")
      ->check(cli::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--threads", threads, "Threads; 0: all that this process may use")
      ->check(cli::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--isa", isa,
                 "Instruction set of the cpu backend, by name (default: the best one here, or "
                 "$REPRISE_ISA)");
  app.add_option("--activations", activations,
                 "int8: activations are quantized where weights are; f32: for parity")
      ->check(cli::IsMember({"f32", "int8"}))
      ->capture_default_str();
  app.add_option("--kv", kv, "Element type of the KV cache: f32 or f16")
      ->check(cli::IsMember({"f32", "f16"}))
      ->capture_default_str();
  add_scheme_options(app, SchemeOption::When::Load, scheme);
}

cli::Option* ModelFlags::add_chat_template(cli::App& app) {
  return app.add_option("--chat-template", chat_template,
                        "Chat format by name, where the model's own is not recognised");
}

LoadedModelOptions ModelFlags::options() const {
  if (device != "cpu" && backend != "torch") {
    fail("--device {}: only --backend torch computes there", device);
  }
  LoadedModelOptions options;
  options.model = model;
  options.backend = backend;
  options.compute.threads = threads;
  options.compute.isa = isa;
  options.compute.device = device;
  options.compute.activations = activations == "f32" ? Activations::F32 : Activations::Int8;
  options.load.kv_type = kv == "f16" ? DType::F16 : DType::F32;
  options.load.scheme = scheme;
  options.chat_template = chat_template;
  return options;
}

std::vector<cli::Option*> add_picture_options(cli::App& app, PictureOptions& options) {
  return {
      app.add_flag("--exif", options.apply_exif,
                   "Turn pictures as their EXIF orientation says (a TIFF is always turned)"),
      app.add_option_function(
             "--alpha", [&options](const std::string& text) { options.alpha = parse_alpha(text); },
             "Where a picture is transparent: official (the colour stored there, as the models' "
             "own code does) or white")
          ->check(parsed_by([](const std::string& text) { (void)parse_alpha(text); }))
          ->type_name("official|white")
          ->default_str("official")};
}

cli::Check parsed_by(std::function<void(const std::string&)> parse) {
  return cli::Check([parse = std::move(parse)](const std::string& text) -> std::string {
    try {
      parse(text);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  });
}

namespace {

// The value of an option that several schemes may declare: as the first takes it that does. Whether
// the model's own does is said when it is known.
OptionValue parse_declared(const DeclaredOption& known, const std::string& text) {
  std::string message;
  for (const SchemeOption* option : known.declared) {
    try {
      return parse_option(*option, text);
    } catch (const Error& error) {
      message = error.what();
    }
  }
  fail("{}", message);
}

std::string shown_type(const SchemeOption& option) {
  if (!option.placeholder.empty()) return option.placeholder;
  switch (option.type) {
    case SchemeOption::Type::Integer:
      return fmt::format("{} to {}", option.low, option.high);
    case SchemeOption::Type::Choice:
      return fmt::format("{}", fmt::join(option.choices, "|"));
    default:
      return option.type == SchemeOption::Type::Number ? "X" : "TEXT";
  }
}

std::string group_name(const DeclaredOption& known) {
  std::string name =
      known.schemes.size() == 1 ? "Options of models of scheme " : "Options of models of schemes ";
  for (size_t i = 0; i < known.schemes.size(); ++i)
    name += (i == 0 ? "" : i + 1 < known.schemes.size() ? ", " : " and ") + known.schemes[i]->name;
  return name;
}

}  // namespace

void add_scheme_options(cli::App& app, SchemeOption::When when, SchemeOptions& options,
                        const std::string& prefix) {
  for (const DeclaredOption& known : declared_options(when)) {
    const SchemeOption& option = known.option();
    const std::string flag = option_flag(prefix + option.name);
    const std::string help = prefix.empty()
                                 ? option.help
                                 : fmt::format("{} of the second model", option_flag(option.name));
    cli::Option* added = nullptr;
    if (option.type == SchemeOption::Type::Flag) {
      added = app.add_flag_callback(
          flag, [&options, name = option.name] { options.set(name, true); }, help);
    } else {
      added =
          app.add_option_function(
                 flag,
                 [&options, declared = &option](const std::string& text) {
                   options.set(declared->name, parse_option(*declared, text));
                 },
                 help)
              ->check(parsed_by([known](const std::string& text) { parse_declared(known, text); }))
              ->type_name(shown_type(option));
      if (!option.fallback.empty()) added->default_str(option.fallback);
    }
    added->group(group_name(known));
  }
}

namespace {

// NAME=VALUE of an option that some scheme declares for requests.
std::pair<std::string, OptionValue> parse_named_option(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string name = text.substr(0, equals);
  std::string names;
  for (const DeclaredOption& known : declared_options(SchemeOption::When::Request)) {
    names += (names.empty() ? "" : ", ") + known.option().name;
    if (known.option().name != name || equals == std::string::npos) continue;
    try {
      return {name, parse_declared(known, text.substr(equals + 1))};
    } catch (const Error& error) {
      fail("{}: {}", name, error.what());
    }
  }
  fail("expected NAME=VALUE with a name among {}, found '{}'", names, text);
}

}  // namespace

void add_plan_options(cli::App& app, PlanOptions& options) {
  add_scheme_options(app, SchemeOption::When::Request, options);
  app.add_option_function(
         "--option",
         [&options](const std::string& text) {
           auto [name, value] = parse_named_option(text);
           options.set(name, std::move(value));
         },
         "An option of the model's scheme by its own name, as in exit_at_step=1; may be repeated")
      ->check(parsed_by(parse_named_option))
      ->type_name("NAME=VALUE")
      ->called_for_each();
}

void print_json(const Json& json) {
  // Text of a model may end in the middle of a character; such bytes become U+FFFD.
  fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

std::string human_bytes(int64_t bytes) {
  constexpr std::array kUnits = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_count(int64_t count) {
  if (count >= 1'000'000'000) return fmt::format("{:.2f}B", static_cast<double>(count) * 1e-9);
  if (count >= 1'000'000) return fmt::format("{:.1f}M", static_cast<double>(count) * 1e-6);
  if (count >= 1'000) return fmt::format("{:.1f}k", static_cast<double>(count) * 1e-3);
  return std::to_string(count);
}

Progress::Progress(std::string label) : label_(std::move(label)), shown_(isatty(STDERR_FILENO)) {}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
}

void Progress::update(int64_t done, int64_t total, const std::string& note) {
  if (!shown_ || total <= 0) return;
  constexpr int kWidth = 30;
  const auto filled = static_cast<size_t>(kWidth * done / total);
  fmt::print(stderr, "\r\x1b[K{} [{}{}] {}/{} {}", label_, std::string(filled, '#'),
             std::string(kWidth - filled, '.'), done, total, note);
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace reprise::tools
