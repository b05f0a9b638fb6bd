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
#define RECURRA_ROLLED _Pragma("unroll 1")

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

// Blocks of a grid that runs together wait for each other by a count in memory: what has been written before somebody adds one
// is there for whoever then reads the sum. A kernel that waits for too long ends with an error.
inline void add_one(unsigned* count) { asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory"); }
inline unsigned count_of(const unsigned* count) {
  unsigned now;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(count) : "memory");
  return now;
}
constexpr int kMostLooks = 1 << 23;  // some seconds, if one takes half a microsecond
inline void give_up() { asm volatile("trap;"); }

// sum += a b, of a warp: fragments of mma.m16n8k16, of IEEE's numbers of 16 bits or of bfloat16. From compute capability 8.0
// on.
template <bool is_half>
inline void multiply_fragments(float (&sum)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
#define RECURRA_MMA(type)                                                                                                 \
  asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                                                            \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))
  if constexpr (is_half)
    RECURRA_MMA("f16");
  else
    RECURRA_MMA("bf16");
#undef RECURRA_MMA
}
#else
#define RECURRA_UNROLL
#define RECURRA_UNROLL_8
#define RECURRA_ROLLED
#endif
