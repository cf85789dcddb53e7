// What is left of outputs under way: whose it is, and when it goes.
#include "base/partial.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/folder.h"

namespace reprise {
namespace {

namespace fs = std::filesystem;
using ::testing::UnorderedElementsAre;

class Partials : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "reprise-partial-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : fs::directory_iterator(root_))
      list.push_back(entry.path().filename().string());
    return list;
  }
  void make_folder(const std::string& name) const {
    fs::create_directories(root_ / name);
    write_file_atomically(root_ / name / "file", "half");
  }
  static void write_one(const fs::path& folder) { write_file_atomically(folder / "file", "new"); }

  fs::path root_;
};

TEST_F(Partials, TheNextRunRemovesWhatAKilledOneLeft) {
  make_folder("out.partial-4711-0");
  write_file_atomically(root_ / "out.partial-4711-1", "half");
  write_folder_atomically(root_ / "out", false, write_one);
  EXPECT_THAT(names(), UnorderedElementsAre("out"));
  make_folder("out.gguf.partial-4711-0");
  write_file_atomically(root_ / "out.gguf.partial-4711-1", "half");
  write_file_atomically(root_ / "out.gguf", "new");
  EXPECT_THAT(names(), UnorderedElementsAre("out", "out.gguf"));
}

TEST_F(Partials, OtherNamesStay) {
  for (const char* name :
       {"out.partial-backup", "out.partial-1", "out.partial-1-0.bak", "out.partial--",
        "out.partial-", "out2.partial-1-0", "my-out.partial-1-0", "out.partial-x-0"})
    make_folder(name);
  const size_t before = names().size();
  write_folder_atomically(root_ / "out", false, write_one);
  EXPECT_EQ(names().size(), before + 1);
}

TEST_F(Partials, WhatIsUnderWayStays) {
  {
    const Partial folder = make_partial_folder(root_ / "out"),
                  file = make_partial_file(root_ / "out");
    ASSERT_FALSE(folder.name.empty() || file.name.empty());
    EXPECT_NE(folder.name, file.name);
    remove_stale_partials(root_ / "out");
    EXPECT_EQ(names().size(), 2u);
  }
  remove_stale_partials(root_ / "out");
  EXPECT_THAT(names(), UnorderedElementsAre());
}

// However its owner ends.
TEST_F(Partials, TheLockEndsWithTheProcess) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const Partial partial = make_partial_folder(root_ / "out");
    const char byte = partial.name.empty() ? 'n' : 'y';
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    for (;;) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, 'y');
  remove_stale_partials(root_ / "out");
  EXPECT_EQ(names().size(), 1u) << "its owner lives";
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(names().size(), 1u);
  remove_stale_partials(root_ / "out");
  EXPECT_THAT(names(), UnorderedElementsAre());
  close(ready[0]);
  close(ready[1]);
}

}  // namespace
}  // namespace reprise
