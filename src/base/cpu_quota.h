// CPU quotas of Linux control groups: what containers and service managers let a process use, however
// many processors it sees. https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
// https://docs.kernel.org/scheduler/sched-bwc.html (version 1: cpu.cfs_quota_us, cpu.cfs_period_us).
#pragma once

#include <filesystem>
#include <optional>

namespace reprise {

// Processors' worth of time this process may use: the smallest quota of its own group and of those
// around it, of either version; 0.5 is half of one. nullopt: there is none. A file that is missing or
// holds no quota is none. `root`: where the file system begins (for tests).
std::optional<double> cpu_quota(const std::filesystem::path& root = "/");

}  // namespace reprise
