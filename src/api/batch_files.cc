#include "api/batch_files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/json.h"

namespace reprise {
namespace {

constexpr size_t kBuffer = size_t{1} << 16;
// What every answer begins with: keys are sorted.
constexpr std::string_view kBegin = "{\"custom_id\":";

// Whether a last line without its newline is an answer that is half written, and nothing else that
// somebody would miss: a whole JSON text isn't, unless it is an answer.
bool half_answer(const std::string& text) {
  if (!kBegin.starts_with(std::string_view(text).substr(0, kBegin.size()))) return false;
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_discarded() || (json.is_object() && json.contains("line"));
}

}  // namespace

LineReader::LineReader(const std::filesystem::path& path, int flags)
    : path_(path), fd_(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0666)) {
  if (fd_ < 0) fail("{}: can't be opened: {}", path.string(), std::strerror(errno));
  struct stat info = {};
  if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd_);
    fail("{}: expected a regular file", path.string());
  }
}

LineReader::~LineReader() { close(fd_); }

void LineReader::rewind() {
  if (lseek(fd_, 0, SEEK_SET) < 0) fail("{}: {}", path_.string(), std::strerror(errno));
  lines_ = 0;
  buffer_.clear();
  used_ = 0;
}

std::optional<LineReader::Line> LineReader::next() {
  Line line;
  bool any = false;
  while (true) {
    if (used_ == buffer_.size()) {
      buffer_.resize(kBuffer);
      ssize_t bytes;
      do {
        bytes = read(fd_, buffer_.data(), buffer_.size());
      } while (bytes < 0 && errno == EINTR);
      if (bytes < 0) fail("{}: can't be read: {}", path_.string(), std::strerror(errno));
      buffer_.resize(static_cast<size_t>(bytes));
      used_ = 0;
    }
    if (buffer_.empty()) {
      if (!any) return std::nullopt;
      line.complete = false;
      break;
    }
    any = true;
    const size_t newline = buffer_.find('\n', used_);
    const size_t end = std::min(newline, buffer_.size());
    const size_t room = kMostBytes - line.text.size();
    line.text.append(buffer_, used_, std::min(end - used_, room));
    line.too_long |= end - used_ > room;
    used_ = end;
    if (newline == std::string::npos) continue;
    ++used_;
    break;
  }
  line.number = ++lines_;
  return line;
}

BatchOutput::BatchOutput(const std::filesystem::path& path)
    : file_(path, O_RDWR | O_CREAT | O_APPEND) {
  if (flock(file_.fd(), LOCK_EX | LOCK_NB) != 0)
    fail("{}: another process writes it: expected one batch at a time", path.string());
  int64_t size = 0;
  while (const auto line = file_.next()) {
    const std::string where = fmt::format("{}: line {}", path.string(), line->number);
    const std::string what = where + ": expected an answer of 'reprise batch'";
    if (!line->complete) {
      if (!half_answer(line->text)) fail("{}; the file is left as it is", what);
      if (ftruncate(file_.fd(), size) != 0) fail("{}: {}", where, std::strerror(errno));
      break;
    }
    size += std::ssize(line->text) + 1;
    if (line->too_long || !line->text.starts_with(kBegin)) fail("{}", what);
    const Json json = parse_json(line->text, where);
    const JsonObject answer(json, where);
    const int64_t number = answer.get_int("line", 1, INT64_MAX);
    const Answered known{answer.find_string("custom_id").value_or(""),
                         answer.get_string("made_from")};
    if (!answered_.emplace(number, known).second)
      fail("{}: answers line {} for the second time", where, number);
  }
}

void BatchOutput::write(const Json& answer) {
  const std::string line = answer.dump(-1, ' ', false, Json::error_handler_t::replace) + '\n';
  REPRISE_CHECK(line.starts_with(kBegin));
  const off_t before = lseek(file_.fd(), 0, SEEK_END);
  std::string_view left = line;
  while (!left.empty()) {
    const ssize_t bytes = ::write(file_.fd(), left.data(), left.size());
    if (bytes > 0) {
      left.remove_prefix(static_cast<size_t>(bytes));
    } else if (errno != EINTR) {
      const int error = errno;
      if (ftruncate(file_.fd(), before) != 0) {
        // The next start takes the half line away.
      }
      fail("{}: can't be written: {}", file_.path().string(), std::strerror(error));
    }
  }
}

}  // namespace reprise
