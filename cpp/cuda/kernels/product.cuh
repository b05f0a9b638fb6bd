// Products whose every sum is one chain of fused multiply-adds in a fixed order, the CPU's own: those of the exact engine and
// of streams. A block has a tile of the result; a thread has kPerThread x kPerThread of its sums in registers and walks through
// k with the others, a slice of both factors at a time in shared memory.
#pragma once
#include "cuda/kernels/arguments.h"
#include "cuda/kernels/numbers.cuh"

namespace recurra {
namespace cuda {

constexpr int kThreads = 16, kPerThread = 4, kTile = kThreads * kPerThread, kSlice = 16;

struct Slices {
  Number a[kSlice][kTile + 1], b[kSlice][kTile + 1];  // one more: a column's numbers are in 32 banks
};

template <class T>
inline const T* matrix(const Rows& rows, int direction) {
  return static_cast<const T*>(rows.data) + direction * rows.direction;
}

// Numbers (k, i) of a factor, i from `first` on, to a slice: k < count, i < size. from_k and from_i are strides, one of them 1:
// along that one neighbouring threads read.
inline void load_slice(Number (*to)[kTile + 1], const Weight* from, int64_t from_k, int64_t from_i, int first, int size,
                       int count) {
  for (int n = int(threadIdx.x); n < kSlice * kTile; n += kThreads * kThreads) {
    const int k = from_i == 1 ? n / kTile : n % kSlice, i = from_i == 1 ? n % kTile : n / kSlice;
    if (k < count && first + i < size) to[k][i] = flushed(widened(from[k * from_k + (first + i) * from_i]));
  }
}

// Sums of a tile: acc += a b over `length` values of k.
inline void add_products(V (&acc)[kPerThread][kPerThread], const Weight* a, int64_t a_k, int64_t a_m, int m, const Weight* b,
                         int64_t b_k, int64_t b_n, int n, int64_t length) {
  Slices& slices = *reinterpret_cast<Slices*>(shared_memory());
  const int row = int(threadIdx.x) / kThreads, column = int(threadIdx.x) % kThreads;
  for (int64_t k = 0; k < length; k += kSlice) {
    const int count = length - k < kSlice ? int(length - k) : kSlice;
    __syncthreads();  // until the slices before these have been read
    load_slice(slices.a, a + k * a_k, a_k, a_m, int(blockIdx.x) * kTile, m, count);
    load_slice(slices.b, b + k * b_k, b_k, b_n, int(blockIdx.y) * kTile, n, count);
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      RECURRA_UNROLL
      for (int r = 0; r < kPerThread; ++r) {
        RECURRA_UNROLL
        for (int c = 0; c < kPerThread; ++c)
          acc[r][c] = fma(V(slices.a[i][r * kThreads + row]), V(slices.b[i][c * kThreads + column]), acc[r][c]);
      }
    }
  }
}

// use(m, n, sum) for each of the thread's sums that are in the result.
template <class Use>
inline void each_sum(int m, int n, const Use& use) {
  const int row = int(blockIdx.x) * kTile + int(threadIdx.x) / kThreads;
  const int column = int(blockIdx.y) * kTile + int(threadIdx.x) % kThreads;
  RECURRA_UNROLL
  for (int r = 0; r < kPerThread; ++r) {
    RECURRA_UNROLL
    for (int c = 0; c < kPerThread; ++c)
      if (row + r * kThreads < m && column + c * kThreads < n) use(row + r * kThreads, column + c * kThreads, r, c);
  }
}

RECURRA_BLOCK_KERNEL(ordered_product, ProductArguments) {
  const int d = int(blockIdx.z);
  Number* const out = const_cast<Number*>(matrix<Number>(a.out, d));
  const Number* const bias = a.bias ? static_cast<const Number*>(a.bias) + d * a.bias_direction : nullptr;
  const auto out_at = [&](int m, int n) { return (a.out_rows ? a.out_rows[m] : m) * a.out.row + n; };
  V acc[kPerThread][kPerThread];
  each_sum(a.m, a.n, [&](int m, int n, int r, int c) {
    const Number* start = a.adds                ? out + out_at(m, n)
                          : n < a.start_columns ? matrix<Number>(a.start, d) + m * a.start.row + n
                          : bias                ? bias + n
                                                : nullptr;
    acc[r][c] = start ? V::load(start) : V(0);
  });
  for (int s = 0; s < a.segments; ++s)
    add_products(acc, matrix<Weight>(a.a, d) + a.a_at[s], 1, a.a.row, a.m,
                 static_cast<const Weight*>(a.b) + d * a.b_direction + a.b_at[s] * a.b_k, a.b_k, a.b_n, a.n, a.length);
  each_sum(a.m, a.n, [&](int m, int n, int r, int c) { out[out_at(m, n)] = acc[r][c].v; });
}

// use(first row, number of rows) for each block of steps, in the order of the CPU's backward pass.
template <class Use>
inline void each_block(const Outer& o, const Use& use) {
  const auto at = [&](int64_t step) { return o.starts ? o.starts[step] - o.starts[0] : step * o.rows; };
  for (int64_t from = (o.steps - 1) / o.block_steps * o.block_steps; from >= 0 && o.steps; from -= o.block_steps) {
    const int64_t to = from + o.block_steps < o.steps ? from + o.block_steps : o.steps;
    use(at(from), at(to) - at(from));
  }
}

RECURRA_BLOCK_KERNEL(ordered_outer, OuterArguments) {
  const int d = int(blockIdx.z);
  Number* const out = const_cast<Number*>(matrix<Number>(a.outer.out, d));
  V acc[kPerThread][kPerThread];
  each_sum(a.m, a.n,
           [&](int m, int n, int r, int c) { acc[r][c] = a.outer.adds ? V::load(out + m * a.outer.out.row + n) : V(0); });
  each_block(a.outer, [&](int64_t first, int64_t count) {
    add_products(acc, matrix<Weight>(a.outer.a, d) + first * a.outer.a.row, a.outer.a.row, 1, a.m,
                 matrix<Weight>(a.x, d) + first * a.x.row, a.x.row, 1, a.n, count);
  });
  each_sum(a.m, a.n, [&](int m, int n, int r, int c) { out[m * a.outer.out.row + n] = acc[r][c].v; });
}

RECURRA_KERNEL(column_sums, SumArguments) {
  const int d = int(blockIdx.y);
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  Number& out = const_cast<Number*>(matrix<Number>(a.outer.out, d))[column];
  V sum = a.outer.adds ? V(out) : V(0);
  each_block(a.outer, [&](int64_t first, int64_t count) {
    const Weight* from = matrix<Weight>(a.outer.a, d) + first * a.outer.a.row + column;
    RECURRA_UNROLL_8  // so that numbers are on their way while others are added
    for (int64_t r = 0; r < count; ++r) sum = V(flushed(widened(from[r * a.outer.a.row]))) + sum;
  });
  out = sum.v;
}

// The same in another order, for which nobody waits so long: each warp of a block has every kSumParts-th row of 32 columns.
// grid (columns / 32, directions).
constexpr int kSumColumns = 32, kSumParts = 8;

RECURRA_BLOCK_KERNEL(parallel_sums, SumArguments) {
  Number* const sums = reinterpret_cast<Number*>(shared_memory());  // [part][column]
  const int d = int(blockIdx.y), lane = int(threadIdx.x) % kSumColumns, part = int(threadIdx.x) / kSumColumns;
  const int64_t column = int64_t(blockIdx.x) * kSumColumns + lane;
  const Outer& o = a.outer;
  if (column < a.columns) {
    const Weight* const from = matrix<Weight>(o.a, d) + column;
    const int64_t rows = o.starts ? o.starts[o.steps] - o.starts[0] : o.steps * o.rows;
    V sum(0);
    RECURRA_UNROLL_8
    for (int64_t r = part; r < rows; r += kSumParts) sum = sum + V(flushed(widened(from[r * o.a.row])));
    sums[part * kSumColumns + lane] = sum.v;
  }
  __syncthreads();
  if (part || column >= a.columns) return;
  Number& out = const_cast<Number*>(matrix<Number>(o.out, d))[column];
  V total = o.adds ? V(out) : V(0);
  for (int p = 0; p < kSumParts; ++p) total = total + V(sums[p * kSumColumns + lane]);
  out = total.v;
}

}  // namespace cuda
}  // namespace recurra
