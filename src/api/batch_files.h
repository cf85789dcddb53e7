// The two files of a batch: requests in, a line each, and answers out. A batch that was stopped goes
// on from what its answers say: each names the line of its request.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "base/json_fwd.h"

namespace reprise {

// Reads a file line by line, in little memory.
class LineReader {
 public:
  // Longest line handed out. A picture of the largest size is shorter.
  static constexpr size_t kMostBytes = size_t{128} << 20;

  // Throws Error naming the path when it can't be opened or is no regular file.
  explicit LineReader(const std::filesystem::path& path, int flags = 0);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  struct Line {
    int64_t number = 0;     // from 1
    std::string text;       // without the newline; cut at kMostBytes
    bool too_long = false;  // it was cut
    bool complete = true;   // the newline was there
    bool blank() const { return text.find_first_not_of(" \t\r") == std::string::npos; }
  };
  // nullopt at the end. Throws Error naming the path when it can't be read.
  std::optional<Line> next();
  // Back to the first line.
  void rewind();

  int fd() const { return fd_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_;
  int64_t lines_ = 0;
  std::string buffer_;
  size_t used_ = 0;  // of the buffer
};

// The answers. One process at a time; each answer is written whole or not at all.
class BatchOutput {
 public:
  // Opens `path`, or makes it. What is there must be answers of a batch; a last one that is half
  // written is taken away. Throws Error naming path and line where it is something else, or where
  // another process writes it.
  explicit BatchOutput(const std::filesystem::path& path);

  struct Answered {
    std::string custom_id;  // "" where it had none
    std::string made_from;
  };
  // Answers that are there, by line of the request.
  const std::map<int64_t, Answered>& answered() const { return answered_; }
  // Appends a line. Throws Error naming the path when it can't be written (a full disk); the file is
  // then as it was.
  void write(const Json& answer);
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  LineReader file_;
  std::map<int64_t, Answered> answered_;
};

}  // namespace reprise
