#include "cpus.h"

#include <algorithm>
#include <climits>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace recurra {
namespace {

// A hierarchy of groups that may limit CPU time, as cgroups(7) describes it.
struct Hierarchy {
  bool unified;       // version 2
  std::string point;  // where it is mounted
  std::string top;    // the group seen there, which in a container need not be the root
};

bool lists(const std::string& names, const std::string& name) {
  return ("," + names + ",").find("," + name + ",") != std::string::npos;
}

// A line of mountinfo: id, parent, device, top, point, options, tags, "-", type, source, options.
std::vector<Hierarchy> hierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    const std::vector<std::string> all{std::istream_iterator<std::string>(words), {}};
    const auto dash = std::find(all.begin(), all.end(), "-");
    if (dash - all.begin() < 6 || all.end() - dash < 4) continue;
    if (dash[1] == "cgroup2" || (dash[1] == "cgroup" && lists(dash[3], "cpu")))
      found.push_back({dash[1] == "cgroup2", root + all[4], all[3]});
  }
  return found;
}

// This process's group. A line of the file: number, controllers (none in version 2), path.
std::string own_group(const std::string& root, bool unified) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (unified ? controllers.empty() : lists(controllers, "cpu")) return line.substr(second + 1);
  }
  return "";
}

// Where a group lies below the one that is mounted; one that lies elsewhere is seen there itself.
std::string below(const std::string& group, const std::string& top) {
  const std::string start = top + "/";
  return group.compare(0, start.size(), start) == 0 && group.find("/..") == std::string::npos ? group.substr(top.size()) : "";
}

// One group's limit, in CPUs.
int limit(const Hierarchy& hierarchy, const std::string& group) {
  double quota = 0, period = 0;
  if (hierarchy.unified) {
    std::ifstream(hierarchy.point + group + "/cpu.max") >> quota >> period;  // "max 100000": no limit
  } else {
    std::ifstream(hierarchy.point + group + "/cpu.cfs_quota_us") >> quota;  // -1: no limit
    std::ifstream(hierarchy.point + group + "/cpu.cfs_period_us") >> period;
  }
  return quota > 0 && period > 0 ? int(std::clamp(quota / period, 1.0, double(INT_MAX))) : INT_MAX;
}

}  // namespace

int quota_cpus(const std::string& root) {
  int cpus = INT_MAX;
  for (const Hierarchy& hierarchy : hierarchies(root)) {
    std::string group = below(own_group(root, hierarchy.unified), hierarchy.top == "/" ? "" : hierarchy.top);
    // Every group above may set a limit too.
    for (; !group.empty(); group.erase(group.rfind('/'))) cpus = std::min(cpus, limit(hierarchy, group));
    cpus = std::min(cpus, limit(hierarchy, ""));
  }
  return cpus;
}

int usable_cpus() {
  int cpus = std::max(1, int(std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
#endif
  return std::min(cpus, quota_cpus());
}

}  // namespace recurra
