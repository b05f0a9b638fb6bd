// What control groups grant, from files as containers of either version show them.
#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../../cpp/threads/cpus.h"

namespace {

namespace fs = std::filesystem;

const char* const kVersion1 =
    "23 1 0:20 / /sys rw - sysfs sysfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n";
const char* const kVersion1InContainer = "32 31 0:29 /docker/1f /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n";
const char* const kVersion2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
const char* const kBoth =
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

struct Case {
  const char* what;
  int want;
  std::vector<std::pair<const char*, const char*>> files;
};

const Case cases[] = {
    {"nothing to read", INT_MAX, {}},
    {"version 1, the root group without a limit",
     INT_MAX,
     {{"proc/self/mountinfo", kVersion1},
      {"proc/self/cgroup", "4:memory:/a\n1:cpu,cpuacct:/\n0::/\n"},
      {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"},
      {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"}}},
    {"version 1, one CPU for the process's own group",
     1,
     {{"proc/self/mountinfo", kVersion1},
      {"proc/self/cgroup", "2:cpuset:/other\n1:cpu,cpuacct:/jobs/mine\n"},
      {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"},
      {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"},
      {"sys/fs/cgroup/cpu,cpuacct/jobs/mine/cpu.cfs_quota_us", "100000\n"},
      {"sys/fs/cgroup/cpu,cpuacct/jobs/mine/cpu.cfs_period_us", "100000\n"}}},
    {"version 1, three and a half CPUs for a group above",
     3,
     {{"proc/self/mountinfo", kVersion1},
      {"proc/self/cgroup", "1:cpu,cpuacct:/jobs/mine\n"},
      {"sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "175000\n"},
      {"sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "50000\n"},
      {"sys/fs/cgroup/cpu,cpuacct/jobs/mine/cpu.cfs_quota_us", "-1\n"},
      {"sys/fs/cgroup/cpu,cpuacct/jobs/mine/cpu.cfs_period_us", "100000\n"}}},
    {"version 1 in a container that sees its own group only, by its full path",
     2,
     {{"proc/self/mountinfo", kVersion1InContainer},
      {"proc/self/cgroup", "1:cpu:/docker/1f\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}},
    {"version 1 in a container with a name space of its own",
     2,
     {{"proc/self/mountinfo", kVersion1InContainer},
      {"proc/self/cgroup", "1:cpu:/\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}},
    {"version 1, a group whose name only begins like the mounted one's",
     2,
     {{"proc/self/mountinfo", kVersion1InContainer},
      {"proc/self/cgroup", "1:cpu:/docker/1ff/x\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}},
    {"less than a CPU",
     1,
     {{"proc/self/mountinfo", kVersion1InContainer},
      {"proc/self/cgroup", "1:cpu:/docker/1f\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "20000\n"},
      {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}}},
    {"version 2, a container's root",
     2,
     {{"proc/self/mountinfo", kVersion2}, {"proc/self/cgroup", "0::/\n"}, {"sys/fs/cgroup/cpu.max", "250000 100000\n"}}},
    {"version 2, the least of a group and those above",
     1,
     {{"proc/self/mountinfo", kVersion2},
      {"proc/self/cgroup", "0::/user.slice/mine.scope\n"},
      {"sys/fs/cgroup/user.slice/cpu.max", "100000 100000\n"},
      {"sys/fs/cgroup/user.slice/mine.scope/cpu.max", "max 100000\n"}}},
    {"version 2, a group outside of the name space",
     INT_MAX,
     {{"proc/self/mountinfo", kVersion2}, {"proc/self/cgroup", "0::/../other\n"}, {"sys/fs/cgroup/cpu.max", "max 100000\n"}}},
    {"both, of which only version 1 controls CPUs",
     1,
     {{"proc/self/mountinfo", kBoth},
      {"proc/self/cgroup", "1:cpu:/a\n0::/a\n"},
      {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "100000\n"},
      {"sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"}}},
};

}  // namespace

int main() {
  const fs::path folder = fs::temp_directory_path() / ("recurra_cpus_" + std::to_string(std::random_device()()));
  int failed = 0;
  for (const Case& one : cases) {
    fs::remove_all(folder);
    for (const auto& [name, text] : one.files) {
      fs::create_directories((folder / name).parent_path());
      std::ofstream(folder / name) << text;
    }
    const int got = recurra::quota_cpus(folder.string());
    if (got == one.want) continue;
    ++failed;
    std::printf("%s: expected %d, got %d\n", one.what, one.want, got);
  }
  fs::remove_all(folder);
  std::printf("%zu cases, %d failed\n", sizeof cases / sizeof *cases, failed);
  return failed ? 1 : 0;
}
