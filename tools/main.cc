// The program: finds the command, parses its options, turns errors into one line on stderr.
// Exit codes: 0 done, 1 error, 2 wrong usage, 128 + signal interrupted for good.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <numeric>

#include "base/error.h"
#include "model/scheme_type.h"
#include "tools/commands.h"
#include "tools/interrupt.h"

namespace reprise::tools {
namespace {

constexpr int kError = 1;
constexpr int kUsage = 2;

int print_error(const std::string& message, int code) {
  std::fflush(stdout);
  fmt::print(stderr, "reprise: error: {}\n", message);
  return code;
}

// Letters to insert, delete or replace to get from one word to the other.
size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

std::string unknown_command(const std::string& word, const std::vector<std::string>& names) {
  std::string known, near;
  size_t best = 3;
  for (const std::string& name : names) {
    known += (known.empty() ? "" : ", ") + name;
    const size_t distance = edit_distance(word, name);
    if (distance < best) {
      best = distance;
      near = name;
    }
  }
  const std::string hint = near.empty() ? "" : fmt::format(" Did you mean '{}'?", near);
  return fmt::format("unknown command '{}'.{} Commands: {}", word, hint, known);
}

int run_program(int argc, char** argv) {
  CLI::App app{"Runs, inspects and trains transformers that reuse their layers."};
  app.name("reprise");
  app.set_version_flag("--version", "reprise " REPRISE_VERSION);
  app.require_subcommand(1);
  std::string schemes;
  for (const SchemeType* scheme : scheme_types())
    schemes += fmt::format("  {:<12}{}\n", scheme->name, scheme->summary);
  app.footer(
      "Schemes of reuse:\n" + schemes +
      "Examples:\n"
      "  reprise run model.gguf --prompt \"Why is the sky blue?\"\n"
      "  reprise run models/tiny-trol.gguf --image photo.png --prompt \"What shape is shown?\"\n"
      "  reprise inspect model.gguf --plan 0-14,10-14@0.1,15-23\n"
      "'reprise COMMAND --help' lists the options of a command.");

  struct Added {
    CLI::App* parser;
    std::unique_ptr<cli::App> options;
    std::unique_ptr<Command> command;
  };
  std::vector<Added> commands;
  std::vector<std::string> names;
  const auto add = [&](std::string name, std::unique_ptr<Command> command) {
    std::replace(name.begin(), name.end(), '_', '-');
    CLI::App* sub = app.add_subcommand(name);
    commands.push_back({sub, std::make_unique<cli::App>(sub), std::move(command)});
    commands.back().command->setup(*commands.back().options);
    names.push_back(name);
  };
#define REPRISE_ADD_COMMAND(name) add(#name, make_##name##_command());
  REPRISE_COMMANDS(REPRISE_ADD_COMMAND)
#undef REPRISE_ADD_COMMAND

  if (argc > 1 && argv[1][0] != '-' &&
      std::find(names.begin(), names.end(), argv[1]) == names.end()) {
    return print_error(unknown_command(argv[1], names), kUsage);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::string message = error.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    const std::string command = app.get_subcommands().empty()
                                    ? std::string("reprise")
                                    : "reprise " + app.get_subcommands()[0]->get_name();
    return print_error(fmt::format("{} (see '{} --help')", message, command), kUsage);
  }
  for (const Added& added : commands) {
    if (added.parser->parsed()) return added.command->run();
  }
  return kUsage;
}

}  // namespace
}  // namespace reprise::tools

int main(int argc, char** argv) {
  reprise::tools::let_writes_fail();
  using reprise::tools::kError;
  using reprise::tools::print_error;
  try {
    const int code = reprise::tools::run_program(argc, argv);
    // Streamed text was flushed before: its errors show only in ferror.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return print_error("standard output can't be written", kError);
    return code;
  } catch (const reprise::Error& error) {
    return print_error(error.what(), kError);
  } catch (const reprise::InternalError& error) {
    return print_error(std::string("this is a bug in reprise: ") + error.what(), kError);
  } catch (const std::bad_alloc&) {
    return print_error("out of memory", kError);
  } catch (const std::exception& error) {
    return print_error(error.what(), kError);
  }
}
