// Runs a kernel on the CPU, block after block, or cluster after cluster, or a grid that runs together. A thread of a kernel
// that meets others is a fiber: it runs until it reaches a barrier, and which one goes on is drawn by a seed, so that a missing
// barrier shows as a wrong result. With -fsanitize=thread every thread is one to the sanitizer too and nothing but barriers
// orders it: what it then touches without one is reported, in a block or between blocks. It cannot show speed, or orders weaker
// than those of a barrier.
#pragma once
#include <string>

#include "machine.h"

namespace standin {

struct Launch {
  const Kernel* kernel;
  const void* arguments;
  Index grid, block, cluster;  // a cooperative grid is one cluster, without shared memory or a barrier in common
  bool cooperative;
  size_t shared_bytes;
  bool flush;  // subnormals are zero
};

extern Machine machine;

// Empty, or what went wrong: threads that wait for ever, shared memory written past its end.
std::string run(const Launch& launch);

}  // namespace standin
