#include "base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/error.h"

namespace reprise {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

template <class Action>
std::string error_of(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class File : public ::testing::Test {
 protected:
  File()
      : folder_(std::filesystem::temp_directory_path() /
                ("reprise-file-test-" + std::to_string(::getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~File() override { std::filesystem::remove_all(folder_); }
  std::string text_of(const std::shared_ptr<const MappedFile>& file) const {
    return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
  }
  size_t files_in_folder() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }
  const std::filesystem::path folder_;
};

TEST_F(File, MapsReadsAndReleases) {
  const auto path = folder_ / "a";
  std::string text(3 * 4096 + 17, 'x');
  text[5000] = 'y';
  write_file_atomically(path, text);
  const auto file = MappedFile::open(path);
  EXPECT_EQ(file->path(), path);
  EXPECT_EQ(text_of(file), text);
  file->release(file->bytes());
  file->release(file->bytes().subspan(10, 20));
  file->release({});
  EXPECT_EQ(text_of(file), text);
  EXPECT_EQ(read_file(path), text);
}

TEST_F(File, EmptyFilesAreFine) {
  const auto path = folder_ / "empty";
  write_file_atomically(path, "");
  EXPECT_TRUE(MappedFile::open(path)->bytes().empty());
  EXPECT_EQ(read_file(path), "");
}

TEST_F(File, OpeningErrorsNameThePath) {
  const std::string none = (folder_ / "none").string();
  EXPECT_THAT(error_of([&] { MappedFile::open(none); }),
              AllOf(HasSubstr(none), HasSubstr("No such file")));
  EXPECT_THAT(error_of([&] { read_file(none); }), HasSubstr(none));
  EXPECT_THAT(error_of([&] { MappedFile::open(folder_); }),
              AllOf(HasSubstr(folder_.string()), HasSubstr("not a regular file")));
  EXPECT_THAT(error_of([&] { read_file("/dev/null"); }), HasSubstr("not a regular file"));
  const auto fifo = folder_ / "fifo";  // nobody ever writes to it: must not be waited for
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { read_file(fifo); }), HasSubstr("not a regular file"));
}

TEST_F(File, ReadHasALimit) {
  const auto path = folder_ / "a";
  write_file_atomically(path, "12345");
  EXPECT_EQ(read_file(path, 5), "12345");
  EXPECT_THAT(error_of([&] { read_file(path, 4); }),
              AllOf(HasSubstr(path.string()), HasSubstr("limit of 4")));
}

TEST_F(File, WritesInPiecesAndReplacesTheOldFile) {
  const auto path = folder_ / "a";
  write_file_atomically(path, "old");
  write_file_atomically(path, [&](const ByteSink& sink) {
    for (const char* piece : {"ab", "", "cde"})
      sink(std::as_bytes(std::span(piece, std::strlen(piece))));
    EXPECT_EQ(read_file(path), "old");  // the old one until all is written
  });
  EXPECT_EQ(read_file(path), "abcde");
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(File, AFailedWriteLeavesTheOldFileAndNothingElse) {
  const auto path = folder_ / "a";
  write_file_atomically(path, "old");
  EXPECT_THROW(write_file_atomically(path,
                                     [](const ByteSink& sink) {
                                       sink(std::as_bytes(std::span("new", 3)));
                                       throw std::runtime_error("producer failed");
                                     }),
               std::runtime_error);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(files_in_folder(), 1u);
  const auto nowhere = folder_ / "none" / "a";
  EXPECT_THAT(error_of([&] { write_file_atomically(nowhere, "x"); }), HasSubstr(nowhere.string()));
  std::filesystem::create_directory(folder_ / "dir");
  EXPECT_THAT(error_of([&] { write_file_atomically(folder_ / "dir", "x"); }), HasSubstr("dir"));
  EXPECT_EQ(files_in_folder(), 2u);
}

TEST_F(File, DevicesAreWrittenToAndStayDevices) {
  write_file_atomically("/dev/null", "x");
  struct stat status{};
  ASSERT_EQ(::stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
  EXPECT_THAT(error_of([] { write_file_atomically("/dev/full", "x"); }),
              AllOf(HasSubstr("/dev/full"), HasSubstr("No space")));
  ASSERT_EQ(::stat("/dev/full", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST_F(File, AKilledWriterLeavesTheOldFileAndNothingElse) {
  const auto path = folder_ / "a";
  write_file_atomically(path, "old");
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    write_file_atomically(path, [&](const ByteSink& sink) {
      const std::string text(100'000, 'x');
      sink(std::as_bytes(std::span(text)));
      if (::write(ready[1], "!", 1) == 1) ::pause();
    });
    ::_exit(1);
  }
  ::close(ready[1]);
  char byte = 0;
  EXPECT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  ::kill(child, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_file(path), "old");
  const int nameless = ::open(folder_.c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (nameless >= 0) {
    EXPECT_EQ(files_in_folder(), 1u);
    ::close(nameless);
  }
}

}  // namespace
}  // namespace reprise
