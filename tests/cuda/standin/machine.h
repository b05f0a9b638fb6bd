// What an emulated kernel and the stand-in know of each other. A compiled kernel finds the machine through a pointer that the
// stand-in sets when it loads the module.
#pragma once
#include <cstddef>
#include <cstdint>

namespace standin {

struct Index {
  unsigned x, y, z;
};

struct Thread {
  Index index, block;
  unsigned lane;
  unsigned char* shared;
  unsigned rank;  // of the block in its cluster
};

struct Machine {
  Thread* self;  // the thread that runs now
  Index block_dim, grid_dim;
  void (*sync_block)();
  void (*sync_warp)(unsigned mask);
  uint64_t (*exchange)(unsigned mask, uint64_t mine, unsigned from);  // what lane `from` gave
  unsigned (*ballot)(unsigned mask, bool mine);
  void (*sync_cluster)();
  unsigned char* (*shared_of)(unsigned rank);             // of a block of the cluster
  const uint32_t (*(*collect)(const uint32_t* mine))[6];  // six words of each lane of a whole warp, until it meets again
  void (*yield)();                                        // others go on
  void (*give_up)();                                      // the launch fails
};

struct Kernel {
  void (*call)(const void* arguments);  // one thread
  size_t argument_bytes;
  bool meets;  // has barriers, shuffles or votes
};

}  // namespace standin
