// Everything around the products and the cells: arrays of the caller's to packed rows and back, orders of rows, masks,
// parameters.
#pragma once
#include "cuda/kernels/arguments.h"
#include "cuda/kernels/numbers.cuh"

namespace recurra {
namespace cuda {

inline int64_t thread_column() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

inline int64_t first_of(const Steps& s, int64_t step) { return s.starts ? s.starts[step] : step * s.rows; }
inline int64_t rows_of(const Steps& s, int64_t step) { return s.starts ? s.starts[step + 1] - s.starts[step] : s.rows; }
inline int64_t length_of(const Steps& s, int64_t r) { return s.lengths ? s.lengths[r] : s.steps; }
inline int64_t caller_row(const Steps& s, int64_t r) { return s.order ? s.order[r] : r; }
// The rows before step s: those of the initial state, then those after each step.
inline int64_t before(const Steps& s, int64_t step) { return step ? s.rows + first_of(s, step - 1) : 0; }

inline recurra::detail::Noise noise_of(const Seeded& n) {
  return recurra::detail::Noise(n.rates, n.seed != nullptr, n.seed ? *n.seed : 0);
}

template <class T>
inline T* row_of(const Rows& rows, int64_t row, int direction) {
  return static_cast<T*>(rows.data) + direction * rows.direction + row * rows.row;
}

// Numbers of the caller's array. A 16-bit layer's arrays hold 16-bit numbers, which float takes in exactly.
inline Number read(const Strided& array, int64_t at) {
  switch (array.format) {
    case format_f32: return Number(static_cast<const float*>(array.data)[at]);
    case format_f64: return Number(static_cast<const double*>(array.data)[at]);
    case format_f16: return Number(widened(static_cast<const half*>(array.data)[at]));
    default: return Number(widened(static_cast<const bf16*>(array.data)[at]));
  }
}
inline void write(const Strided& array, int64_t at, Number x) {
  switch (array.format) {
    case format_f32: static_cast<float*>(array.data)[at] = float(x); return;
    case format_f64: static_cast<double*>(array.data)[at] = double(x); return;
    case format_f16: static_cast<half*>(array.data)[at] = Narrowed<half>::of(float(x)); return;
    default: static_cast<bf16*>(array.data)[at] = Narrowed<bf16>::of(float(x));
  }
}
inline int64_t place(const Strided& array, int64_t outer, int64_t row, int64_t column) {
  return outer * array.outer + row * array.row + column * array.column;
}

// Of row r at time t of a sequence.
inline int64_t place(const Strided& array, const Steps& s, int64_t t, int64_t r, int64_t column) {
  return array.packed ? place(array, 0, first_of(s, t) + r, column) : place(array, t, caller_row(s, r), column);
}

// use(t, r) for the rows of the steps that the block has: grid y is rows, z is steps.
template <class Use>
inline void each_row(int64_t steps, int64_t rows, int64_t first_step, int64_t step_stride, const Use& use) {
  for (int64_t t = first_step; t < steps; t += step_stride)
    for (int64_t r = blockIdx.y; r < rows; r += gridDim.y) use(t, r);
}

RECURRA_KERNEL(read_lengths, LengthArguments) {
  const int64_t r = thread_column();
  if (r >= a.rows) return;
  const int length = a.from[r];
  a.to[r] = length < 0 ? 0 : length < a.steps ? length : a.steps;
}

RECURRA_KERNEL(fill_reversed, ReversalArguments) {
  const Steps& s = a.steps;
  for (int64_t t = blockIdx.y; t < s.steps; t += gridDim.y) {
    const int64_t r = thread_column();
    if (r >= rows_of(s, t)) continue;
    const int64_t length = length_of(s, r), here = first_of(s, t) + r;
    a.reversed[here] = int(t < length ? first_of(s, length - 1 - t) + r : here);
  }
}

template <class Store>
inline void read_rows(const ReadArguments& a, const Store& store) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  each_row(a.steps.steps, a.steps.rows, blockIdx.z, gridDim.z, [&](int64_t t, int64_t r) {
    if (r >= rows_of(a.steps, t)) return;
    const bool there = t < length_of(a.steps, r);
    const Number x = there ? read(a.array, place(a.array, a.steps, t, r, column)) : Number(0);
    store((first_of(a.steps, t) + r) * a.columns + column, x);
  });
}

RECURRA_KERNEL(read_input, ReadArguments) {
  read_rows(a, [&](int64_t at, Number x) { static_cast<Weight*>(a.packed)[at] = narrowed(x); });
}
RECURRA_KERNEL(read_gradient, ReadArguments) {
  read_rows(a, [&](int64_t at, Number x) { static_cast<Number*>(a.packed)[at] = x; });
}

// The row, in a direction's loop, of row r at time t.
inline int64_t loop_row(const Steps& s, int64_t t, int64_t r, int direction) {
  const int64_t here = first_of(s, t) + r;
  return direction || s.reverse ? s.reversed[here] : here;
}

inline bool runs(const Steps& s, int64_t t, int64_t r) { return t < s.steps && t < length_of(s, r); }

// A number of a layer's output, row r at time t, or its gradient, after dropout between layers.
template <class Arguments>
inline V dropped(const Arguments& a, int64_t t, int64_t r, int direction, int64_t column, V x) {
  const recurra::detail::Noise noise = noise_of(a.noise);
  if (!noise.drops_between()) return x;
  const int64_t row = caller_row(a.steps, r);
  const size_t lane = size_t(a.noise.first_lane + direction);
  return noise.dropped(noise.between(lane, a.noise.sequence(row), a.noise.before(row) + t), column, x);
}

RECURRA_KERNEL(write_output, OutputArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z) % a.directions;
  each_row(a.to, a.steps.rows, a.from + blockIdx.z / a.directions, gridDim.z / a.directions, [&](int64_t t, int64_t r) {
    const bool there = runs(a.steps, t, r);
    if (a.array.packed && !there) return;
    const Number x = there ? row_of<Number>(a.rows, loop_row(a.steps, t, r, d), d)[column] : Number(0);
    write(a.array, place(a.array, a.steps, t, r, d * a.columns + column), x);
  });
}

RECURRA_KERNEL(pass_on, OutputArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z) % a.directions;
  each_row(a.to, a.steps.rows, a.from + blockIdx.z / a.directions, gridDim.z / a.directions, [&](int64_t t, int64_t r) {
    if (r >= rows_of(a.steps, t)) return;
    V x(0);
    if (runs(a.steps, t, r))
      x = dropped(a, t, r, d, column, V::load(row_of<Number>(a.rows, loop_row(a.steps, t, r, d), d) + column));
    static_cast<Weight*>(a.packed)[((first_of(a.steps, t) + r) * a.directions + d) * a.columns + column] = narrowed(x.v);
  });
}

RECURRA_KERNEL(divide_gradient, DivideArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z) % a.directions;
  each_row(a.to, a.steps.rows, a.from + blockIdx.z / a.directions, gridDim.z / a.directions, [&](int64_t t, int64_t r) {
    if (r >= rows_of(a.steps, t) || !runs(a.steps, t, r)) return;
    const Number* from = static_cast<const Number*>(a.packed);
    const int64_t row = first_of(a.steps, t) - first_of(a.steps, a.from) + r;
    const V x = V::load(from + (row * a.directions + d) * a.columns + column);
    row_of<Number>(a.rows, loop_row(a.steps, t, r, d), d)[column] = dropped(a, t, r, d, column, x).v;
  });
}

template <class Use>
inline void each_packed(const ReorderArguments& a, const Use& use) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  for (int64_t i = blockIdx.y; i < a.count; i += gridDim.y)
    use(i * a.columns + column, int64_t(a.reversed[i]) * a.columns + column);
}

RECURRA_KERNEL(reverse_rows, ReorderArguments) {
  each_packed(
      a, [&](int64_t here, int64_t there) { static_cast<Weight*>(a.to)[here] = static_cast<const Weight*>(a.from)[there]; });
}
RECURRA_KERNEL(add_reversed, ReorderArguments) {
  each_packed(a, [&](int64_t here, int64_t there) {
    Number& to = static_cast<Number*>(a.to)[there];
    to = (V(to) + V(static_cast<const Number*>(a.from)[here])).v;
  });
}

template <class Use>
inline void each_state(const StateArguments& a, const Use& use) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z);
  for (int64_t r = blockIdx.y; r < a.steps.rows; r += gridDim.y) {
    const int64_t row = a.at_end ? before(a.steps, length_of(a.steps, r)) + r : r;
    use(place(a.array, a.first_lane + d, caller_row(a.steps, r), column), row_of<Number>(a.rows, row, d)[column]);
  }
}

RECURRA_KERNEL(read_state, StateArguments) {
  each_state(a, [&](int64_t at, Number& x) { x = a.array.data ? read(a.array, at) : Number(0); });
}
RECURRA_KERNEL(write_state, StateArguments) {
  each_state(a, [&](int64_t at, Number& x) { write(a.array, at, x); });
}

RECURRA_KERNEL(draw_masks, MaskArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z);
  const recurra::detail::Noise noise = noise_of(a.noise);
  for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    const int64_t sequence = a.noise.sequence(a.order ? a.order[r] : r);
    const recurra::detail::Draw hit = noise.recurrent(size_t(a.noise.first_lane + d), sequence);
    row_of<Number>(a.mask, r, d)[column] = noise.mask<V>(hit, column).v;
  }
}

RECURRA_KERNEL(clear_rows, ClearArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  for (int i = int(blockIdx.y); i < a.count; i += int(gridDim.y)) row_of<Number>(a.rows, a.row[i], int(blockIdx.z))[column] = 0;
}

RECURRA_KERNEL(clip_rows, ClipArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const Number limit = Number(a.limit);
  for (int64_t r = blockIdx.y; r < a.count; r += gridDim.y) {
    if (a.lengths && a.step >= a.lengths[r]) continue;
    Number& x = row_of<Number>(a.rows, r, int(blockIdx.z))[column];
    x = clipped(x, limit);
  }
}

RECURRA_KERNEL(make_source, SourceArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z);
  for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    V x = V::load(row_of<Number>(a.h, r, d) + column);
    if (a.mask.data) x = V::load(row_of<Number>(a.mask, r, d) + column) * x;
    row_of<Weight>(a.to, r, d)[column] = narrowed(x.v);
  }
}

RECURRA_KERNEL(add_masked, MaskedArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z);
  for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
    Number& to = row_of<Number>(a.d_h, r, d)[column];
    to = (V(to) + V::load(row_of<Number>(a.mask, r, d) + column) * V::load(row_of<Number>(a.d_masked, r, d) + column)).v;
  }
}

RECURRA_KERNEL(gather_previous, PreviousArguments) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  const int d = int(blockIdx.z) % a.directions;
  each_row(a.to_step, a.steps.rows, a.from_step + blockIdx.z / a.directions, gridDim.z / a.directions,
           [&](int64_t s, int64_t r) {
             if (r >= rows_of(a.steps, s)) return;
             row_of<Weight>(a.to, first_of(a.steps, s) - first_of(a.steps, a.from_step) + r, d)[column] =
                 row_of<Weight>(a.from, before(a.steps, s) + r, d)[column];
           });
}

template <class Use>
inline void each_parameter(const ParameterArguments& a, const Use& use) {
  const int64_t column = thread_column();
  if (column >= a.columns) return;
  for (int i = int(blockIdx.y); i < a.count * a.units; i += int(gridDim.y)) {
    const int g = i / a.units, u = i % a.units;
    const int64_t row = int64_t(a.slot[g]) * a.units + u;
    use((int64_t(a.first + g) * a.units + u) * a.columns + column,
        a.head ? row * a.units + u / a.head * a.head + column : row * a.columns + column);
  }
}

RECURRA_KERNEL(pack_weights, ParameterArguments) {
  each_parameter(a, [&](int64_t from, int64_t to) {
    static_cast<Weight*>(a.packed)[to] = narrowed(static_cast<const Number*>(a.parameter)[from]);
  });
}
RECURRA_KERNEL(pack_sums, ParameterArguments) {
  each_parameter(a, [&](int64_t from, int64_t to) {
    Number& sum = static_cast<Number*>(a.packed)[to];
    sum = (V::load(&sum) + V::load(static_cast<const Number*>(a.parameter) + from)).v;
  });
}
RECURRA_KERNEL(give_gradient, ParameterArguments) {
  each_parameter(a, [&](int64_t to, int64_t from) {
    Number& gradient = static_cast<Number*>(a.parameter)[to];
    const V before = a.adds ? V::load(&gradient) : V(0);
    gradient = (before + V::load(static_cast<const Number*>(a.packed) + from)).v;
  });
}

RECURRA_KERNEL(upload, UploadArguments) {
  for (int i = int(threadIdx.x); i < a.count; i += int(blockDim.x)) a.to[i] = a.words[i];
}

}  // namespace cuda
}  // namespace recurra
