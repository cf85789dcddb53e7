#include "base/file.h"

#include <gmock/gmock.h>
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

}  // namespace
}  // namespace reprise
