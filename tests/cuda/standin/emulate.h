// What CUDA gives to a kernel, for g++: included before the source of every kernel that the stand-in compiles. Shared memory is
// dynamic and begins as NaN; of atomics there is a count that blocks wait for, and of the tensor cores one product.
#pragma once
#include <cmath>
#include <cstring>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

extern "C" __attribute__((visibility("default"))) standin::Machine* recurra_machine = nullptr;

// Kernels take one struct, `a`, by value. RECURRA_KERNEL is for those whose threads never meet, RECURRA_BLOCK_KERNEL for those
// with barriers, shuffles or votes.
#define RECURRA_KERNEL(name, Arguments) RECURRA_EMULATED_KERNEL(name, Arguments, false)
#define RECURRA_BLOCK_KERNEL(name, Arguments) RECURRA_EMULATED_KERNEL(name, Arguments, true)
#define RECURRA_BOUNDED_KERNEL(name, Arguments, threads) RECURRA_EMULATED_KERNEL(name, Arguments, true)
#define RECURRA_EMULATED_KERNEL(name, Arguments, meets)                                                   \
  static void name##_body(const Arguments a);                                                             \
  extern "C" void name(const void* arguments) { name##_body(*static_cast<const Arguments*>(arguments)); } \
  extern "C" __attribute__((visibility("default"))) const standin::Kernel name##_kernel;                  \
  const standin::Kernel name##_kernel = {name, sizeof(Arguments), meets};                                 \
  static void name##_body([[maybe_unused]] const Arguments a)

#define threadIdx (recurra_machine->self->index)
#define blockIdx (recurra_machine->self->block)
#define blockDim (recurra_machine->block_dim)
#define gridDim (recurra_machine->grid_dim)

inline unsigned char* shared_memory() { return recurra_machine->self->shared; }

inline void __syncthreads() { recurra_machine->sync_block(); }
inline void cluster_sync() { recurra_machine->sync_cluster(); }
template <class T>
T* in_block(T* mine, unsigned rank) {
  const auto at = reinterpret_cast<unsigned char*>(mine) - shared_memory();
  return reinterpret_cast<T*>(recurra_machine->shared_of(rank) + at);
}
inline void add_one(unsigned* count) { __atomic_fetch_add(count, 1, __ATOMIC_RELEASE); }
inline unsigned count_of(const unsigned* count) {
  recurra_machine->yield();
  return __atomic_load_n(count, __ATOMIC_ACQUIRE);
}
constexpr int kMostLooks = 1 << 16;
inline void give_up() { recurra_machine->give_up(); }
inline void __syncwarp(unsigned mask = ~0u) { recurra_machine->sync_warp(mask); }

template <class T>
T __shfl_sync(unsigned mask, T mine, unsigned from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &mine, sizeof(T));
  bits = recurra_machine->exchange(mask, bits, from % 32);
  std::memcpy(&mine, &bits, sizeof(T));
  return mine;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T mine, unsigned with) {
  return __shfl_sync(mask, mine, recurra_machine->self->lane ^ with);
}
template <class T>
T __shfl_down_sync(unsigned mask, T mine, unsigned by) {
  const unsigned lane = recurra_machine->self->lane;
  return __shfl_sync(mask, mine, lane + by < 32 ? lane + by : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T mine, unsigned by) {
  const unsigned lane = recurra_machine->self->lane;
  return __shfl_sync(mask, mine, lane >= by ? lane - by : lane);
}
inline unsigned __ballot_sync(unsigned mask, bool mine) { return recurra_machine->ballot(mask, mine); }
inline bool __any_sync(unsigned mask, bool mine) { return recurra_machine->ballot(mask, mine) != 0; }
inline bool __all_sync(unsigned mask, bool mine) { return recurra_machine->ballot(mask, !mine) == 0; }

namespace standin {
template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace standin

// sum += a b, 16 x 16 by 16 x 8, fragments as PTX has them for mma.m16n8k16: of a lane, rows lane / 4 and 8 more of a, column
// lane / 4 of b, each at k = lane % 4 * 2 and the next one and 8 more. Summed in double, for the hardware's order is its own.
template <bool is_half>
void multiply_fragments(float (&sum)[4], const uint32_t* a, uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const uint32_t(*const all)[6] = recurra_machine->collect(mine);
  const auto number = [&](unsigned row, unsigned k, unsigned word) -> double {
    const uint32_t two = all[row % 8 * 4 + k % 8 / 2][word];
    const uint16_t bits = uint16_t(k % 2 ? two >> 16 : two);
    if (is_half) return standin::bits_as<_Float16>(bits);
    return standin::bits_as<float>(uint32_t(bits) << 16);
  };
  const unsigned lane = recurra_machine->self->lane;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double exact = sum[i];
    for (unsigned k = 0; k < 16; ++k) exact += number(row, k, row / 8 + k / 8 * 2) * number(column, k, 4 + k / 8);
    sum[i] = float(exact);
  }
}

inline int __float_as_int(float v) { return standin::bits_as<int>(v); }
inline unsigned __float_as_uint(float v) { return standin::bits_as<unsigned>(v); }
inline float __int_as_float(int v) { return standin::bits_as<float>(v); }
inline float __uint_as_float(unsigned v) { return standin::bits_as<float>(v); }
inline long long __double_as_longlong(double v) { return standin::bits_as<long long>(v); }
inline double __longlong_as_double(long long v) { return standin::bits_as<double>(v); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
