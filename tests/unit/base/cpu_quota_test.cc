// Quotas of control groups of both versions, in a made-up file system.
#include "base/cpu_quota.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "support/temp_folder.h"

namespace reprise::testing {
namespace {

class CpuQuota : public ::testing::Test {
 protected:
  void put(const std::string& path, const std::string& text) const {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    write_file_atomically(file, text);
  }
  std::optional<double> quota() const { return cpu_quota(root_ / ""); }
  TempFolder root_;
};

TEST_F(CpuQuota, NoneWhereNothingSaysSo) {
  EXPECT_EQ(quota(), std::nullopt);
  put("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(quota(), std::nullopt);
  put("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), std::nullopt);
}

TEST_F(CpuQuota, VersionTwo) {
  put("proc/self/cgroup", "0::/system.slice/run.service\n");
  put("sys/fs/cgroup/cpu.max", "400000 100000\n");
  EXPECT_EQ(quota(), 4);
  put("sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");
  put("sys/fs/cgroup/system.slice/run.service/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota(), 0.5) << "of the process's own group";
  put("sys/fs/cgroup/system.slice/cpu.max", "25000 100000\n");
  EXPECT_EQ(quota(), 0.25) << "of a group around it";
  put("sys/fs/cgroup/other/cpu.max", "1000 100000\n");
  EXPECT_EQ(quota(), 0.25) << "another group's";
}

TEST_F(CpuQuota, VersionOne) {
  put("proc/self/cgroup", "5:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n0::/\n");
  put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), std::nullopt);
  put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(quota(), 1.5) << "at the top of the mount: the container's own";
  put("sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us", "50000\n");
  put("sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 0.5);
}

TEST_F(CpuQuota, TheOtherNameOfTheMount) {
  put("proc/self/cgroup", "4:cpuacct,cpu:/a\n");
  put("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "200000\n");
  put("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota(), 2);
}

TEST_F(CpuQuota, FilesThatHoldNoQuota) {
  put("proc/self/cgroup", "0::/\nnonsense\n:\n");
  for (const char* text :
       {"", "\n", "many 100000", "100000 often", "1e", "-5 100000", "0 100000", "100000 0"}) {
    put("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(quota(), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace reprise::testing
