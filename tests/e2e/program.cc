#include "e2e/program.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "base/error.h"
#include "support/paths.h"

namespace reprise::testing {

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kLimitsMemory = false;
#else
constexpr bool kLimitsMemory = true;
#endif

using Clock = std::chrono::steady_clock;
constexpr auto kLongest = std::chrono::seconds(240);  // then the program is killed

[[noreturn]] void exec_program(const std::vector<std::string>& arguments,
                               const std::vector<std::string>& wrapper = {}) {
  std::vector<char*> argv;
  for (const std::string& word : wrapper) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(const_cast<char*>(test::program()));
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

// Appends what can be read now; false at the end.
bool read_some(int fd, std::string& text) {
  std::array<char, 4096> buffer;
  const ssize_t n = read(fd, buffer.data(), buffer.size());
  if (n > 0) text.append(buffer.data(), static_cast<size_t>(n));
  return n > 0;
}

void set_status(int status, ProgramResult& result) {
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result.signal = WTERMSIG(status);
}

}  // namespace

ProgramResult run_program(const std::vector<std::string>& arguments,
                          const ProgramOptions& options) {
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) fail("pipe");
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(err[1], STDERR_FILENO);
    const int to =
        options.stdout_path.empty() ? out[1] : open(options.stdout_path.c_str(), O_WRONLY);
    if (to < 0 || dup2(to, STDOUT_FILENO) < 0) _exit(126);
    if (options.largest_file >= 0) {
      const rlimit limit = {static_cast<rlim_t>(options.largest_file),
                            static_cast<rlim_t>(options.largest_file)};
      if (setrlimit(RLIMIT_FSIZE, &limit)) _exit(126);
    }
    if (kLimitsMemory && options.memory >= 0) {
      const auto bytes = static_cast<rlim_t>(options.memory);
      const rlimit limit = {bytes, bytes};
      if (setrlimit(RLIMIT_AS, &limit)) _exit(126);
    }
    signal(SIGHUP, SIG_DFL);  // the tests may run under nohup
    exec_program(arguments, options.wrapper);
  }
  close(in[0]);
  close(out[1]);
  close(err[1]);
  signal(SIGPIPE, SIG_IGN);
  if (!options.input.empty() && write(in[1], options.input.data(), options.input.size()) < 0) {
    // the program may end without reading its input
  }
  close(in[1]);

  ProgramResult result;
  const Clock::time_point start = Clock::now();
  bool out_open = true, err_open = true, interrupted = false;
  while (out_open || err_open) {
    pollfd polls[] = {{out_open ? out[0] : -1, POLLIN, 0}, {err_open ? err[0] : -1, POLLIN, 0}};
    poll(polls, 2, 20);
    if (polls[0].revents) out_open = read_some(out[0], result.out);
    if (polls[1].revents) err_open = read_some(err[0], result.err);
    const auto passed = Clock::now() - start;
    const auto due = [&] {
      if (options.interrupt_when) return options.interrupt_when();
      return options.interrupt_after_ms >= 0
                 ? passed >= std::chrono::milliseconds(options.interrupt_after_ms)
                 : !result.out.empty();
    };
    if (options.interrupt != 0 && !interrupted && due()) {
      kill(child, options.interrupt);
      interrupted = true;
    }
    if (passed > kLongest) kill(child, SIGKILL);
  }
  close(out[0]);
  close(err[0]);
  int status = 0;
  waitpid(child, &status, 0);
  set_status(status, result);
  return result;
}

ProgramResult run_on_terminal(const std::vector<std::string>& arguments, const std::string& prompt,
                              const std::vector<std::string>& lines) {
  int terminal = -1;
  const winsize size = {24, 200, 0, 0};
  const pid_t child = forkpty(&terminal, nullptr, nullptr, &size);
  if (child < 0) fail("forkpty");
  if (child == 0) {
    setenv("TERM", "dumb", 1);
    exec_program(arguments);
  }
  ProgramResult result;
  const Clock::time_point start = Clock::now();
  size_t line = 0, mark = 0;  // lines typed; where on the screen the next prompt is looked for
  for (;;) {
    pollfd polls[] = {{terminal, POLLIN, 0}};
    if (poll(polls, 1, 100) > 0 && polls[0].revents) {
      if (!read_some(terminal, result.out)) break;
      continue;  // until the screen is still
    }
    if (line <= lines.size() && result.out.find(prompt, mark) != std::string::npos) {
      mark = result.out.size();
      const std::string keys = line < lines.size() ? lines[line] + "\n" : "\x04";
      if (write(terminal, keys.data(), keys.size()) < 0) break;
      ++line;
    }
    if (Clock::now() - start > kLongest) kill(child, SIGKILL);
  }
  close(terminal);
  int status = 0;
  waitpid(child, &status, 0);
  set_status(status, result);
  return result;
}

}  // namespace reprise::testing
