// Affine maps and tables of rows.
#pragma once
#include "cuda/kernels/product.cuh"

namespace recurra {
namespace cuda {

// y = x W^T + b, each sum of four chains, one quarter of the inputs each, of which the first begins at the bias:
// (0 + 1) + (2 + 3), as on the CPU. grid (rows, outputs).
RECURRA_BLOCK_KERNEL(affine, AffineArguments) {
  const Weight *x = static_cast<const Weight*>(a.x), *weight = static_cast<const Weight*>(a.weight);
  const int quarter = (a.inputs + 3) / 4;
  V total[kPerThread][kPerThread], pair[kPerThread][kPerThread];
  const auto add_part = [&](V(&sum)[kPerThread][kPerThread], int part) {
    const int begin = part * quarter < a.inputs ? part * quarter : a.inputs;
    const int end = begin + quarter < a.inputs ? begin + quarter : a.inputs;
    add_products(sum, x + begin, 1, a.inputs, a.rows, weight + begin, 1, a.inputs, a.outputs, end - begin);
  };
  const auto add_pair = [&](V(&sum)[kPerThread][kPerThread], int first) {
    V second[kPerThread][kPerThread];
    each_sum(a.rows, a.outputs, [&](int, int n, int r, int c) {
      sum[r][c] = first ? V(0) : V::load(static_cast<const Number*>(a.bias) + n);
      second[r][c] = V(0);
    });
    add_part(sum, first);
    add_part(second, first + 1);
    each_sum(a.rows, a.outputs, [&](int, int, int r, int c) { sum[r][c] = sum[r][c] + second[r][c]; });
  };
  add_pair(total, 0);
  add_pair(pair, 2);
  each_sum(a.rows, a.outputs, [&](int m, int n, int r, int c) {
    static_cast<Weight*>(a.y)[int64_t(m) * a.outputs + n] = narrowed((total[r][c] + pair[r][c]).v);
  });
}

RECURRA_KERNEL(finish_affine, FinishArguments) {
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    V sum = V::load(static_cast<const Number*>(a.from) + r * a.columns + column);
    if (a.bias) sum = sum + V::load(static_cast<const Number*>(a.bias) + column);
    static_cast<Weight*>(a.to)[r * a.columns + column] = narrowed(sum.v);
  }
}

inline int64_t index_of(const TableArguments& a, int64_t i) {
  return a.wide ? static_cast<const int64_t*>(a.indices)[i] : static_cast<const int32_t*>(a.indices)[i];
}

// out[i] = table[indices[i]], NaN where there is no such row: nobody could be told. grid (columns, count).
RECURRA_KERNEL(take_rows, TableArguments) {
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  for (int64_t i = blockIdx.y; i < a.count; i += gridDim.y) {
    const int64_t index = index_of(a, i);
    const bool there = index >= 0 && index < a.rows;
    const Number x = there ? static_cast<const Number*>(a.table)[index * a.columns + column] : Number(0) / Number(0);
    static_cast<Weight*>(a.out)[i * a.columns + column] = narrowed(x);
  }
}

// table[indices[i]] = out[i], for different indices; what is for no such row is left out. grid (columns, count).
RECURRA_KERNEL(put_rows, TableArguments) {
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  for (int64_t i = blockIdx.y; i < a.count; i += gridDim.y) {
    const int64_t index = index_of(a, i);
    if (index < 0 || index >= a.rows) continue;
    static_cast<Number*>(a.table)[index * a.columns + column] =
        widened(static_cast<const Weight*>(a.out)[i * a.columns + column]);
  }
}

// table[indices[i]] += out[i], i ascending: for each row of the table, and a row is one block's. grid (columns, a power of 2).
RECURRA_KERNEL(add_rows, TableArguments) {
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  for (int64_t i = 0; i < a.count; ++i) {
    const int64_t index = index_of(a, i);
    if (index < 0 || index >= a.rows || (index & (gridDim.y - 1)) != blockIdx.y) continue;
    Number& to = static_cast<Number*>(a.table)[index * a.columns + column];
    to = (V::load(&to) + V(flushed(widened(static_cast<const Weight*>(a.out)[i * a.columns + column])))).v;
  }
}

// Numbers of any strides to ones that follow each other. grid (columns, rows).
RECURRA_KERNEL(make_contiguous, ContiguousArguments) {
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= a.columns) return;
  for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    int64_t from = column * a.column_stride, rest = r;
    for (int axis = a.axes - 1; axis >= 0; --axis) {
      from += rest % a.shape[axis] * a.strides[axis];
      rest /= a.shape[axis];
    }
    const int64_t to = r * a.columns + column;
    if (a.size == 2)
      static_cast<uint16_t*>(a.to)[to] = static_cast<const uint16_t*>(a.from)[from];
    else if (a.size == 4)
      static_cast<uint32_t*>(a.to)[to] = static_cast<const uint32_t*>(a.from)[from];
    else
      static_cast<uint64_t*>(a.to)[to] = static_cast<const uint64_t*>(a.from)[from];
  }
}

}  // namespace cuda
}  // namespace recurra
