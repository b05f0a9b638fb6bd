// What kernels of all steps of a layer have in common. A block, or a cluster of them, has up to kRows rows and every unit, and
// waits for nobody. The recurrent weights stay on the chip: a thread has some columns of them, the first kHeldOf weights of
// each in registers, the others in shared memory, and makes its columns' sums in the CPU's order, for all rows. Of one cell and
// one size, rounded up: RECURRA_ROWS, RECURRA_THREADS, and for each phase RECURRA_COLUMNS of a thread, RECURRA_HELD and
// RECURRA_WARPS that share a tile of 16-bit weights.
// RECURRA_CLUSTER blocks, along z, share a tile: each has a part of the units with all their chains, and what a product reads
// is written to every block's shared memory.
#pragma once
#include "cuda/kernels/cell.cuh"

namespace recurra {
namespace cuda {

constexpr int kRows = RECURRA_ROWS;
constexpr int kColumnsOf[] = {RECURRA_COLUMNS}, kHeldOf[] = {RECURRA_HELD}, kWarpsOf[] = {RECURRA_WARPS};

// What one load brings.
struct alignas(16) Four {
  Number v[4];
};

inline Number* shared_numbers(int at) { return reinterpret_cast<Number*>(shared_memory()) + at; }

inline int padded(int n) { return (n + 3) / 4 * 4; }

// Weights of fewer bits than sums are for the tensor cores, which go through sources in slabs.
constexpr bool kNarrow = sizeof(Weight) < sizeof(Number);
constexpr int kSlab = 32;
// From row to row of what a product reads. An odd number of slabs: 8 lanes find 8 x 16 bytes in different banks. Held
// weights, of which there may be a slab too many, meet zeros.
inline int source_row(int n, int held = 0) {
  const int all = n < held ? held : n;
  return kNarrow ? ((all + kSlab - 1) / kSlab | 1) * kSlab : padded(n);
}

inline Here here(int unit, int row) { return {unit, row, int(blockIdx.y)}; }

// A thread's columns of a matrix.
template <int per_thread, int held>
struct Columns {
  static constexpr int kColumns = per_thread, kHeld = held, kOwnRows = kRows;

  const int columns, sources;  // of the block; numbers of a column, with zeros
  Number* const rest;          // weights that registers have no room for, [source][column]
  V weights[kColumns + 1][kHeld + 1];

  static __forceinline__ int column(int c) { return int(threadIdx.x) + c * int(blockDim.x); }
  static __forceinline__ int row(int r) { return r; }
  static __forceinline__ int rank() { return 0; }
  bool finishes(int c) const { return column(c) < columns; }
  bool has_none() const { return !kColumns || column(0) >= columns; }

  // weight(c, source) of column(c), of so many sources. The zeros change no sum: +0 times -0 is -0, and whatever that is added
  // to stays as it is.
  template <class Load>
  __forceinline__ void load(int count, const Load& weight) {
    RECURRA_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const int n = column(c);
      const auto one = [&](int k) { return n < columns && k < count ? flushed(widened(weight(c, k))) : -Number(0); };
      RECURRA_UNROLL
      for (int k = 0; k < kHeld; ++k) weights[c][k] = V(one(k));
      for (int k = kHeld; k < sources && n < columns; ++k) rest[(k - kHeld) * columns + n] = one(k);
    }
  }

  template <class Weights>
  __forceinline__ void multiply(V (&sum)[kColumns + 1][kRows], const Number* source, const Weights& weight) const {
    RECURRA_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Four four = *reinterpret_cast<const Four*>(source + r * sources);
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i) {
        RECURRA_UNROLL
        for (int c = 0; c < kColumns; ++c) sum[c][r] = fma(V(four.v[i]), weight(c, i), sum[c][r]);
      }
    }
  }

  // sum[c][r] += source[r] times column c.
  __forceinline__ void add(V (&sum)[kColumns + 1][kRows], const Number* source) const {
    RECURRA_UNROLL
    for (int k = 0; k < kHeld; k += 4)
      if (k < sources) multiply(sum, source + k, [&](int c, int i) { return weights[c][k + i]; });
    for (int k = kHeld; k < sources; k += 4) {
      V more[kColumns + 1][4];
      RECURRA_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const Number* const from = rest + (k - kHeld) * columns + (column(c) < columns ? column(c) : 0);
        RECURRA_UNROLL
        for (int i = 0; i < 4; ++i) more[c][i] = V(from[i * columns]);
      }
      multiply(sum, source + k, [&](int c, int i) { return more[c][i]; });
    }
  }
};

// Rows that a step or a launch before has left, to shared memory: to[row * to_row + i], with zeros up to i = to_row. Products
// read subnormal numbers as zero.
template <class T, bool for_product = false, class To>
inline void take(const Rows& rows, int64_t first, int count, int column, int size, To* to, int to_row) {
  for (int row = 0; row < kRows; ++row)
    for (int i = int(threadIdx.x); i < to_row; i += int(blockDim.x)) {
      const bool there = row < count && i < size;
      const Number v = there ? widened(row_of<T>(rows, first + row, int(blockIdx.y))[column + i]) : Number(0);
      to[row * to_row + i] = Narrowed<To>::of(for_product ? flushed(v) : v);
    }
}

}  // namespace cuda
}  // namespace recurra
