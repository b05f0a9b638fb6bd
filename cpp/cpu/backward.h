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
  RECURRA_FN int choice(int i) const { return int(call.constants[i]); }
  RECURRA_FN Vec<T> d_state(int i) const { return Vec<T>::load(call.d_states[row] + i * call.padded + at); }
  RECURRA_FN void set_d_state(int i, Vec<T> v) const { v.store(call.d_states[row] + i * call.padded + at); }
  RECURRA_FN Vec<T> d_kept(int i) const { return Vec<T>::load(call.d_kept[row] + i * call.padded + at); }
  RECURRA_FN void set_d_kept(int i, Vec<T> v) const { v.store(call.d_kept[row] + i * call.padded + at); }
  RECURRA_FN void set_d_vector(int i, Vec<T> v) const { v.store(call.da.at(row, (chains + i) * call.d_width + at)); }
  RECURRA_FN void add_d_h(Vec<T> v) { direct = direct + v; }
};

// Flat, like all that calls a cell's functions: what they call from other headers would else leave the object as weak symbols.
template <class P, class T>
__attribute__((flatten)) void backward(const BackwardCall<T>& call) {
  constexpr int chains = P::phase.chains, U = Vec<T>::lanes;
  for (int row = 0; row < call.rows; ++row)
    for (int tile = call.tile_begin; tile < call.tile_end; ++tile) {
      const ptrdiff_t at = ptrdiff_t(tile) * U;
      // The tape is larger than the near caches; its next row is prefetched while this one is worked on.
      const bool new_line = at * ptrdiff_t(sizeof(T)) % 64 == 0;
      for (ptrdiff_t i = at; new_line && i < call.saved_width && row + 1 < call.rows; i += call.padded)
        __builtin_prefetch(call.saved[row + 1] + i);
      BackwardUnit<T> unit{call, row, chains, at, call.tiles.base + tile * call.tiles.size + chains * U, Vec<T>(0)};
      Vec<T> d_result = Vec<T>::load(call.d_result[row] + at);
      if (call.dy.base) d_result = d_result + Vec<T>::load(call.dy[row] + at, call.tiles.units - at);
      Vec<T> da[chains];
      P::backward(d_result, da, unit);
#pragma GCC unroll 8
      for (int c = 0; c < chains; ++c) da[c].store(call.da.at(row, c * call.d_width + at));
      T* d_h = call.d_h[row] + at;
      (call.last ? unit.direct : Vec<T>::load(d_h) + unit.direct).store(d_h);
    }
}

// TransposedCall, in blocks like those of a phase with one chain.
template <class T>
struct TransposedBlock {
  using ManyRows = TransposedBlock;
  static constexpr int chains = 1, summed = 1;
  using Shape = BlockShape<chains>;
  using Weights = FullWeights;
  struct Plain {
    Panel<const T> rows;
  };

  static ptrdiff_t bytes_of_tile(const TransposedCall<T>& call) { return call.tiles.size * ptrdiff_t(sizeof(T)); }

  template <int R, int N>
  static void run(const TransposedCall<T>& call, int row, int tile) {
    constexpr int U = Vec<T>::lanes;
    const ptrdiff_t first = ptrdiff_t(tile) * U, left = call.tiles.units - first;  // the last columns may not fill their vector
    const bool ahead = prefetches_ahead<TransposedBlock>(call);
    Vec<T> acc[N][R][1];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
        acc[n][r][0] = call.add ? Vec<T>::load(call.out[row + r] + first + n * U, left - n * U) : Vec<T>(0);
    for (int g = 0; g < call.gates; ++g)
      for (ptrdiff_t k = 0, size; k < call.summed; k += size) {
        constexpr ptrdiff_t block = Blocks<T>::width;
        const ptrdiff_t column = call.chain[g] * call.width + k, left_of_block = block - column % block;
        size = call.summed - k < left_of_block ? call.summed - k : left_of_block;
        const Plain a = {{call.a.at(0, column), call.a.row}};
        // The next block is too far away for the hardware prefetcher.
        for (int r = 0; size == block && r < R; ++r)
          for (ptrdiff_t i = 0; i < block; i += 64 / ptrdiff_t(sizeof(T)))
            __builtin_prefetch(call.a.at(row + r, column + size) + i);
        FullWeights::add<PlainGates<1>>(acc, a, row, call.tiles, tile, (g * call.summed + k) * U, size, ahead);
      }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[n][r][0].store(call.out[row + r] + first + n * U, left - n * U);
  }
};

// acc[m][n] += a[m] x[n] for some rows.
template <int M, int N, class T>
RECURRA_FN void add_rows(Vec<T> (&acc)[M][N], const T*& a, ptrdiff_t a_row, const T*& x, ptrdiff_t x_row, int rows) {
  for (; rows > 0; --rows, a += a_row, x += x_row) {
    Vec<T> vectors[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) vectors[n] = Vec<T>::load(x + n * Vec<T>::lanes);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Vec<T> value(a[m]);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[m][n] = fma(value, vectors[n], acc[m][n]);
    }
  }
}

// M numbers k by N vectors of columns. `next`: the sums of the block after this.
template <int M, int N, class T>
void outer_block(const OuterCall<T>& call, ptrdiff_t k, ptrdiff_t column, const T* next) {
  constexpr int U = Vec<T>::lanes, kAhead = 32;
  T* const out = call.out[k] + column;
  const ptrdiff_t stride = call.out.stride;
  Vec<T> acc[M][N];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n] = call.add ? Vec<T>::load(out + m * stride + n * U) : Vec<T>(0);
  const T *a = call.a.at(0, call.first + k), *x = call.x.at(0, column);
  const int last = call.rows < kAhead ? call.rows : kAhead;
  add_rows(acc, a, call.a.row, x, call.x.row, call.rows - last);
  // They are in the second-level cache or further, and what is prefetched too early has left the first-level cache again when
  // it is needed.
  for (ptrdiff_t m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) __builtin_prefetch(next + m * stride + n * U, 1);
  add_rows(acc, a, call.a.row, x, call.x.row, last);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) acc[m][n].store(out + m * stride + n * U);
}

template <int M, int N, class T>
RECURRA_FN void outer_rest(const OuterCall<T>& call, ptrdiff_t count, ptrdiff_t k, ptrdiff_t column, const T* next) {
  if (count == M) return outer_block<M, N>(call, k, column, next);
  if constexpr (M > 1) outer_rest<M - 1, N>(call, count, k, column, next);
}

// A block of a meets N vectors of columns of x: both stay in the second-level cache.
template <int N, class T>
void outer_columns(const OuterCall<T>& call, ptrdiff_t begin, ptrdiff_t end, ptrdiff_t column) {
  constexpr int M = N == 1 ? kAccumulators / 2 : 6;  // chains enough to hide a multiply-add's latency
  const T* next_columns = call.out[begin] + column + N * Vec<T>::lanes;
  const auto next = [&](ptrdiff_t k) { return k < end ? call.out[k] + column : next_columns; };
  for (; begin + M <= end; begin += M) outer_block<M, N>(call, begin, column, next(begin + M));
  if (begin < end) outer_rest<M - 1, N>(call, end - begin, begin, column, next_columns);
}

template <class T>
void outer_rows(const OuterCall<T>& call) {
  constexpr int N = kAccumulators / 6, U = Vec<T>::lanes;
  constexpr ptrdiff_t width = Blocks<T>::width;
  static_assert(width % (N * U) == 0, "columns side by side lie in one block");
  for (ptrdiff_t k = call.begin, end; k < call.end; k = end) {
    end = k + width - (call.first + k) % width;
    if (end > call.end) end = call.end;
    ptrdiff_t column = 0;
    for (; column + N * U <= call.columns; column += N * U) outer_columns<N>(call, k, end, column);
    for (; column < call.columns; column += U) outer_columns<1>(call, k, end, column);
  }
}

template <class T>
void outer(const OuterCall<T>& all) {
  constexpr int kRows = 256;  // of them, blocks fit the second-level cache
  OuterCall<T> call = all;
  for (int left = all.rows; left > 0 || !call.add; left -= kRows) {  // of no rows: zero
    call.rows = left < kRows ? left : kRows;
    outer_rows(call);
    call.add = true;
    call.a.base += kRows * call.a.row;
    call.x.base += kRows * call.x.row;
  }
}
