// What a design of persistent kernels assumes of a GPU, each in a kernel of its own that does one thing `count` times. Compiled
// by NVRTC (gpu_assumptions.py), timed with two counts, so that launches drop out of the difference.
#include "cuda/kernels/device.cuh"

struct Arguments {
  uint64_t memory;   // of device memory, zeros
  uint64_t results;  // so that nothing is left out
  int64_t bytes;     // of memory that is read
  int count;
};

RECURRA_KERNEL(nothing, Arguments) {
  if (a.count < 0) *reinterpret_cast<int*>(a.results) = 0;
}

#ifndef RECURRA_EMULATED
RECURRA_KERNEL(thousand_cycles, Arguments) {
  const long long start = clock64();
  while (clock64() - start < 1000ll * a.count) {
  }
}

inline void mma(float (&d)[4], const uint32_t (&x)[4], const uint32_t (&y)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
}

// Each warp: so many independent chains of mma.
template <int chains>
inline void mma_chains(const Arguments& a) {
  const uint32_t numbers = 0x3f803f80u | (threadIdx.x * 0x00130029u & 0x007f007fu);  // pairs from 1 to 2: zeros cost less
  const uint32_t x[4] = {numbers, ~numbers & 0xbfffbfffu, numbers ^ 0x80000000u, numbers}, y[2] = {numbers, numbers ^ 0x8000u};
  float d[chains][4] = {};
  for (int i = 0; i < a.count; ++i)
#pragma unroll
    for (int c = 0; c < chains; ++c) mma(d[c], x, y);
  float sum = 0;
#pragma unroll
  for (int c = 0; c < chains; ++c) sum += d[c][0] + d[c][1] + d[c][2] + d[c][3];
  if (sum < 0) *reinterpret_cast<float*>(a.results) = sum;
}
RECURRA_KERNEL(mma_rate, Arguments) { mma_chains<8>(a); }
RECURRA_KERNEL(mma_latency, Arguments) { mma_chains<1>(a); }

// Every block reads the same bytes, past its L1.
RECURRA_KERNEL(read_l2, Arguments) {
  unsigned sum = 0;
  for (int i = 0; i < a.count; ++i)
    for (int64_t at = int64_t(threadIdx.x) * 16; at < a.bytes; at += int64_t(blockDim.x) * 64) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int64_t here = at + int64_t(part) * blockDim.x * 16;
        if (here < a.bytes) {
          unsigned v, w, x, y;
          asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v), "=r"(w), "=r"(x), "=r"(y) : "l"(a.memory + here));
          sum += v ^ w ^ x ^ y;
        }
      }
    }
  if (sum == 1) *reinterpret_cast<unsigned*>(a.results) = sum;
}

inline unsigned load_acquire(uint64_t at) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(at) : "memory");
  return v;
}

// A counter that all blocks add to and wait for.
RECURRA_KERNEL(grid_counter, Arguments) {
  for (int i = 1; i <= a.count; ++i) {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(a.memory) : "memory");
      while (load_acquire(a.memory) < unsigned(i) * gridDim.x) {
      }
    }
    __syncthreads();
  }
}

// Every block writes 8 bytes, half of them the step's number, to an address of its own in one of two rows; thread t waits for
// the word of block t.
RECURRA_KERNEL(grid_flag, Arguments) {
  for (int i = 1; i <= a.count; ++i) {
    const uint64_t row = a.memory + uint64_t(i & 1) * gridDim.x * 8;
    if (threadIdx.x == 0)
      asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(row + blockIdx.x * 8), "r"(i), "r"(i) : "memory");
    if (threadIdx.x < gridDim.x) {
      unsigned step, data;
      do {
        asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];"
                     : "=r"(step), "=r"(data)
                     : "l"(row + threadIdx.x * 8)
                     : "memory");
      } while (step < unsigned(i) || data < step);
    }
    __syncthreads();
  }
}

// Every block writes 4 bytes to each block of its cluster, and all meet.
inline void exchange(const Arguments& a) {
  unsigned size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  const unsigned words = unsigned(__cvta_generic_to_shared(shared_memory()));
  cluster_sync();  // another block's memory is there only once that block has begun
  for (int i = 0; i < a.count; ++i) {
    if (threadIdx.x < size) {
      unsigned there;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                   : "=r"(there)
                   : "r"(words + (i & 1) * 128 + blockIdx.x % size * 4), "r"(threadIdx.x));
      asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(there), "r"(i) : "memory");
    }
    cluster_sync();
  }
}
#define CLUSTER(size) \
  extern "C" __global__ void __cluster_dims__(size, 1, 1) cluster_##size(const Arguments a) { exchange(a); }
#if __CUDA_ARCH__ >= 900
CLUSTER(2)
CLUSTER(8)
CLUSTER(16)
#endif
#endif
