// How many CPUs this process may use.
#pragma once
#include <string>

namespace recurra {

int usable_cpus();

// The CPU time that control groups grant to this process, in whole CPUs and at least one: more spinning threads than that stall
// each other. INT_MAX where there is no limit. root: of the file system, for tests.
int quota_cpus(const std::string& root = "");

}  // namespace recurra
