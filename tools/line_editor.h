// Reading lines from a terminal with editing and history (libedit).
#pragma once

#include <memory>
#include <optional>
#include <string>

namespace reprise::tools {

class LineEditor {
 public:
  explicit LineEditor(const std::string& prompt);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // The next line without its end; nullopt at the end of input (Ctrl-D). Ctrl-C ends the program
  // with the terminal restored.
  std::optional<std::string> read();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace reprise::tools
