// Runs the real program and shows what it did.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace reprise::testing {

struct ProgramResult {
  int exit_code = -1;  // -1: ended by a signal
  int signal = 0;
  std::string out, err;
};

struct ProgramOptions {
  std::string input;                 // to stdin, which is a pipe
  std::string stdout_path;           // instead of being captured
  std::vector<std::string> wrapper;  // a command that runs the program: an emulator
  int64_t largest_file = -1;         // bytes; writes beyond it fail as on a full disk
  int64_t memory = -1;          // bytes of address space; ignored under sanitizers, which need it
  int interrupt = 0;            // signal sent once the first output has been seen
  int interrupt_after_ms = -1;  // or that much time after the start
  std::function<bool()> interrupt_when = {};  // or when this is true
};

// The program of this build with these arguments.
ProgramResult run_program(const std::vector<std::string>& arguments,
                          const ProgramOptions& options = {});

// The same on a terminal of its own (stdin, stdout and stderr): types each line when `prompt` has
// been shown again, then Ctrl-D. `out` is the whole screen.
ProgramResult run_on_terminal(const std::vector<std::string>& arguments, const std::string& prompt,
                              const std::vector<std::string>& lines);

}  // namespace reprise::testing
