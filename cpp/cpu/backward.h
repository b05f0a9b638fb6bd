// Backward: the pointwise part of a cell's phases, and the two products that BPTT needs. Included by kernels.cpp after tile.h,
// in the same namespace.

// A cell's view of the units at hand: one row's lanes of one tile.
template <class T>
struct BackwardUnit {
  const BackwardCall<T>& call;
  int row, chains;
  ptrdiff_t at;  // the first unit
  const T* vectors;
  Vec<T> direct;  // what reaches h(t-1) past the chains

  RECURRA_FN Vec<T> h() const { return Vec<T>::load(call.h[row] + at); }
  RECURRA_FN Vec<T> state(int i) const { return Vec<T>::load(call.states[row] + i * call.padded + at); }
  RECURRA_FN Vec<T> saved(int i) const { return Vec<T>::load(call.saved[row] + i * call.padded + at); }
  RECURRA_FN Vec<T> vector(int i) const { return Vec<T>::load(vectors + i * Vec<T>::lanes); }
  RECURRA_FN Vec<T> constant(int i) const { return Vec<T>(call.constants[i]); }
  RECURRA_FN Vec<T> d_state(int i) const { return Vec<T>::load(call.d_states[row] + i * call.padded + at); }
  RECURRA_FN void set_d_state(int i, Vec<T> v) const { v.store(call.d_states[row] + i * call.padded + at); }
  RECURRA_FN Vec<T> d_kept(int i) const { return Vec<T>::load(call.d_kept[row] + i * call.padded + at); }
  RECURRA_FN void set_d_kept(int i, Vec<T> v) const { v.store(call.d_kept[row] + i * call.padded + at); }
  RECURRA_FN void set_d_vector(int i, Vec<T> v) const { v.store(call.da[row] + (chains + i) * call.d_width + at); }
  RECURRA_FN void add_d_h(Vec<T> v) { direct = direct + v; }
};

template <class P, class T>
void backward(const BackwardCall<T>& call) {
  constexpr int chains = P::phase.chains, U = Vec<T>::lanes;
  for (int row = 0; row < call.rows; ++row)
    for (int tile = call.tile_begin; tile < call.tile_end; ++tile) {
      const ptrdiff_t at = ptrdiff_t(tile) * U;
      // The tape is larger than any cache that is near; the next row of it is asked for while this one is worked on.
      const bool new_line = at * ptrdiff_t(sizeof(T)) % 64 == 0;
      for (ptrdiff_t i = at; new_line && i < call.saved_width && row + 1 < call.rows; i += call.padded)
        __builtin_prefetch(call.saved[row + 1] + i);
      BackwardUnit<T> unit{call, row, chains, at, call.tiles.base + tile * call.tiles.size + chains * U, Vec<T>(0)};
      Vec<T> d_result = Vec<T>::load(call.d_result[row] + at);
      if (call.dy.base) d_result = d_result + Vec<T>::load(call.dy[row] + at, call.tiles.units - at);
      Vec<T> da[chains];
      P::backward(d_result, da, unit);
#pragma GCC unroll 8
      for (int c = 0; c < chains; ++c) da[c].store(call.da[row] + c * call.d_width + at);
      T* d_h = call.d_h[row] + at;
      (call.last ? unit.direct : Vec<T>::load(d_h) + unit.direct).store(d_h);
    }
}

// TransposedCall, in blocks like those of a phase with one chain.
template <class T>
struct TransposedBlock {
  using Shape = BlockShape<1, FullWeights::accumulators>;

  template <int R, int N>
  static void run(const TransposedCall<T>& call, int row, int tile) {
    constexpr int U = Vec<T>::lanes;
    const ptrdiff_t first = ptrdiff_t(tile) * U, left = call.tiles.units - first;
    T *out[R], edge[R][N * U];  // the last columns, if they do not fill their vectors
    for (int r = 0; r < R; ++r) out[r] = left < N * U ? edge[r] : call.out[row + r] + first;
    if (left < N * U) {
      __builtin_memset(edge, 0, sizeof edge);
      for (int r = 0; call.add && r < R; ++r) __builtin_memcpy(edge[r], call.out[row + r] + first, size_t(left) * sizeof(T));
    }
    Vec<T> acc[N][R][1];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[n][r][0] = call.add ? Vec<T>::load(out[r] + n * U) : Vec<T>(0);
    for (int g = 0; g < call.gates; ++g) {
      Operand<T> a;
      a.rows = {call.a.base + call.chain[g] * call.width, call.a.offset};
      FullWeights::add<PlainGates<1>>(acc, a, row, call.tiles, tile, g * call.summed * U, call.summed);
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[n][r][0].store(out[r] + n * U);
    for (int r = 0; left < N * U && r < R; ++r) __builtin_memcpy(call.out[row + r] + first, edge[r], size_t(left) * sizeof(T));
  }
};

// acc[m][n] += x[m] a[n] for some rows.
template <int M, int N, class T>
RECURRA_FN void add_rows(Vec<T> (&acc)[M][N], const T*& x, ptrdiff_t x_stride, const Vec<T> (*&a)[N], int rows) {
  for (; rows > 0; --rows, x += x_stride, ++a) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Vec<T> value(x[m]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[m][n] = fma(value, (*a)[n], acc[m][n]);
    }
  }
}

// M numbers k by N vectors of columns, over some rows, whose columns have been copied side by side to `a`.
template <int M, int N, class T>
void outer_block(const OuterCall<T>& call, const Vec<T> (*a)[N], int row_begin, int row_end, ptrdiff_t k, ptrdiff_t column) {
  constexpr int U = Vec<T>::lanes, kAhead = 32;
  T* const out = call.out[k] + column;
  const ptrdiff_t stride = call.out.stride, left = call.size - k - M;
  Vec<T> acc[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n] = Vec<T>::load(out + m * stride + n * U);
  const T* x = call.x[row_begin] + k;
  const int last = row_end - row_begin < kAhead ? row_end - row_begin : kAhead;
  add_rows(acc, x, call.x.stride, a, row_end - row_begin - last);
  // The next block's sums lie in the second-level cache or further, and what is asked for too early has left the first-level
  // cache again when it is wanted.
  for (ptrdiff_t m = M; m < 2 * M && m < left + M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) __builtin_prefetch(out + m * stride + n * U, 1);
  add_rows(acc, x, call.x.stride, a, last);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n].store(out + m * stride + n * U);
}

template <int M, int N, class T>
RECURRA_FN void outer_rest(const OuterCall<T>& call, const Vec<T> (*a)[N], int row_begin, int row_end, ptrdiff_t k,
                           ptrdiff_t column) {
  if (call.size - k == M) return outer_block<M, N>(call, a, row_begin, row_end, k, column);
  if constexpr (M > 1) outer_rest<M - 1, N>(call, a, row_begin, row_end, k, column);
}

// N vectors of columns of some rows lie side by side, in the cache, while all k go by.
template <int N, class T>
void outer_columns(const OuterCall<T>& call, int row_begin, int row_end, ptrdiff_t column) {
  constexpr int M = 6, U = Vec<T>::lanes;
  static_assert(sizeof(Vec<T>[kOuterRows][N]) <= kOuterScratch, "the columns do not fit");
  auto a = reinterpret_cast<Vec<T>(*)[N]>(call.scratch);
  for (int r = row_begin; r < row_end; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) a[r - row_begin][n] = Vec<T>::load(call.a[r] + column + n * U);
  ptrdiff_t k = 0;
  for (; k + M <= call.size; k += M) outer_block<M, N>(call, a, row_begin, row_end, k, column);
  if (k < call.size) outer_rest<M - 1, N>(call, a, row_begin, row_end, k, column);
}

template <class T>
void outer(const OuterCall<T>& call) {
  constexpr int N = kAccumulators / 6, U = Vec<T>::lanes;
  for (int row = 0; row < call.rows; row += kOuterRows) {
    const int end = row + kOuterRows < call.rows ? row + kOuterRows : call.rows;
    ptrdiff_t column = call.column_begin;
    for (; column + N * U <= call.column_end; column += N * U) outer_columns<N>(call, row, end, column);
    for (; column < call.column_end; column += U) outer_columns<1>(call, row, end, column);
  }
}
