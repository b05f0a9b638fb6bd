// How kernels are written. Every kernel takes one plain struct by value and has C linkage; its shared memory is dynamic. The
// same sources run on a CPU under the tests' emulator, which defines RECURRA_EMULATED and brings these names itself.
#pragma once
#include <cstdint>

#ifndef RECURRA_EMULATED
// The threads of a block do not meet; or they do.
#define RECURRA_KERNEL(name, Arguments) extern "C" __global__ void name(const __grid_constant__ Arguments a)
#define RECURRA_BLOCK_KERNEL(name, Arguments) extern "C" __global__ void name(const __grid_constant__ Arguments a)
// Of blocks that have at most so many threads, and a multiprocessor's registers to themselves.
#define RECURRA_BOUNDED_KERNEL(name, Arguments, threads) \
  extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Arguments a)

#define RECURRA_UNROLL _Pragma("unroll")
#define RECURRA_UNROLL_8 _Pragma("unroll 8")

inline unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return shared_bytes;
}

// All threads of a cluster meet, from compute capability 9.0 on. Another block's shared memory is there from the first time
// that they do until the last. The barrier asks that threads of a warp come to it together.
inline void cluster_sync() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The same place in another block's shared memory.
template <class T>
inline T* in_block(T* mine, unsigned rank) {
  T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(mine), "r"(rank));
  return there;
}
#else
#define RECURRA_UNROLL
#define RECURRA_UNROLL_8
#endif
