#include "base/folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

namespace reprise {
namespace {

using ::testing::HasSubstr;

class WriteFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "reprise-folder-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  // Everything in the root, so that nothing can be left over unseen.
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : std::filesystem::directory_iterator(root_))
      list.push_back(entry.path().filename().string());
    return list;
  }
  static void write_one(const std::filesystem::path& folder) {
    write_file_atomically(folder / "file", "new");
  }
  template <class Action>
  static std::string error_of(Action action) {
    try {
      action();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::filesystem::path root_;
};

TEST_F(WriteFolder, AppearsWhenItIsWhole) {
  write_folder_atomically(root_ / "out/", false, [&](const std::filesystem::path& folder) {
    write_one(folder);
    EXPECT_FALSE(std::filesystem::exists(root_ / "out"));
  });
  EXPECT_EQ(read_file(root_ / "out/file"), "new");
  EXPECT_THAT(names(), ::testing::ElementsAre("out"));
  std::filesystem::create_directory(root_ / "empty");
  write_folder_atomically(root_ / "empty", false, write_one);
  EXPECT_EQ(read_file(root_ / "empty/file"), "new");
}

TEST_F(WriteFolder, ReplacesOnlyWhenAsked) {
  std::filesystem::create_directory(root_ / "out");
  write_file_atomically(root_ / "out/old", "old");
  EXPECT_THAT(error_of([&] { write_folder_atomically(root_ / "out", false, write_one); }),
              HasSubstr("exists already"));
  EXPECT_EQ(read_file(root_ / "out/old"), "old");
  write_folder_atomically(root_ / "out", true, write_one);
  EXPECT_FALSE(std::filesystem::exists(root_ / "out/old"));
  EXPECT_EQ(read_file(root_ / "out/file"), "new");
  EXPECT_THAT(names(), ::testing::ElementsAre("out"));
}

TEST_F(WriteFolder, NothingIsLeftWhenWritingFails) {
  std::filesystem::create_directory(root_ / "out");
  write_file_atomically(root_ / "out/old", "old");
  const std::string message = error_of([&] {
    write_folder_atomically(root_ / "out", true, [](const std::filesystem::path& folder) {
      write_one(folder);
      fail("{}: disk full", (folder / "second").string());
    });
  });
  EXPECT_EQ(message, (root_ / "out/second").string() + ": disk full");
  EXPECT_THAT(names(), ::testing::ElementsAre("out"));
  EXPECT_EQ(read_file(root_ / "out/old"), "old");
  EXPECT_FALSE(std::filesystem::exists(root_ / "out/file"));
  EXPECT_THAT(error_of([&] { write_folder_atomically(root_ / "no/out", false, write_one); }),
              HasSubstr("no/out"));
}

}  // namespace
}  // namespace reprise
