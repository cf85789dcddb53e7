// Errors. Two kinds, never mixed:
//   Error          anything a user or a file can cause. The message names the file, the key or
//                  argument, what was found and what was expected. The program prints it and
//                  exits with a code that is not 0; a library call never exits and never prints.
//   InternalError  a bug of ours, thrown by REPRISE_CHECK.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace reprise {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// Throws Error with a formatted message: fail("{}: key '{}': expected {}", path, key, what).
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// Collects what is wrong so that all of it can be said at once.
class Problems {
 public:
  // Runs `step`; an Error it throws is noted. False when there was one.
  template <class Step>
  bool attempt(const Step& step) {
    try {
      step();
      return true;
    } catch (const Error& error) {
      add(error.what());
      return false;
    }
  }
  void add(std::string problem) { list_.push_back(std::move(problem)); }
  bool empty() const { return list_.empty(); }
  const std::vector<std::string>& list() const { return list_; }
  // Throws one Error with a line for each problem; does nothing when there is none.
  void raise() const;

 private:
  std::vector<std::string> list_;
};

namespace internal {
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& message);
}  // namespace internal

}  // namespace reprise

// REPRISE_CHECK(condition) or REPRISE_CHECK(condition, "format {}", value): our own invariants
// only.
#define REPRISE_CHECK(condition, ...)                                   \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      ::reprise::internal::check_failed(#condition, __FILE__, __LINE__, \
                                        ::fmt::format("" __VA_ARGS__)); \
  } while (false)
