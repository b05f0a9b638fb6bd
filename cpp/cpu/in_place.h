// One phase of one step of one row, from weights where their owner keeps them: row-major [gates * units, columns]. Lanes run
// over units and k ascends, as in tile.h, so the bits are those of packed weights; only that a block of U units by U columns is
// turned in registers first. Such a step reads each weight once, which packing alone would do too.
// Included by kernels.cpp after tile.h, in the same namespace.

template <int... i>
struct Indices {};
template <int n, int... i>
struct CountTo : CountTo<n - 1, n - 1, i...> {};
template <int... i>
struct CountTo<0, i...> {
  using All = Indices<i...>;
};

// Lanes of a and, from U on, of b.
template <int... from, class T>
RECURRA_FN Vec<T> shuffled(Vec<T> a, Vec<T> b) {
#if defined(__clang__)
  return __builtin_shufflevector(a.v, b.v, from...);
#else
  return __builtin_shuffle(a.v, b.v, typename Vec<T>::Bits{from...});
#endif
}

// Of each 16 bytes, the lower or the upper half of a's numbers and b's, `run` at a time: with run = 1 a0 b0 a1 b1.
template <bool upper, int run, class T, int... l>
RECURRA_FN Vec<T> interleaved(Vec<T> a, Vec<T> b, Indices<l...>) {
  constexpr int U = Vec<T>::lanes, part = 16 / sizeof(T);
  return shuffled<(l / run % 2 * U + l / part * part + (upper ? part / 2 : 0) + l % part / (2 * run) * run + l % run)...>(a, b);
}

// Reads U rows from the first of a group: v[k][i] is the k-th 16 bytes of rows i, i + part, i + 2 part, ..., side by side.
#if defined(__AVX512VNNI__)
template <int first, int step, class T, int... l>
RECURRA_FN Vec<T> parts_of(Vec<T> a, Vec<T> b, Indices<l...>) {  // 16 bytes first and first + step of each
  constexpr int U = Vec<T>::lanes, part = 16 / sizeof(T);
  return shuffled<(l / (U / 2) * U + (first + l / part % 2 * step) * part + l % part)...>(a, b);
}
template <class T, int part>
RECURRA_FN void load_rows(Vec<T> (&v)[4][part], int i, const T* row, ptrdiff_t stride) {
  using All = typename CountTo<Vec<T>::lanes>::All;
  const Vec<T> a = Vec<T>::load(row), b = Vec<T>::load(row + stride);
  const Vec<T> c = Vec<T>::load(row + 2 * stride), d = Vec<T>::load(row + 3 * stride);
  const Vec<T> ab = parts_of<0, 1>(a, b, All()), cd = parts_of<0, 1>(c, d, All());
  const Vec<T> ab2 = parts_of<2, 1>(a, b, All()), cd2 = parts_of<2, 1>(c, d, All());
  v[0][i] = parts_of<0, 2>(ab, cd, All());
  v[1][i] = parts_of<1, 2>(ab, cd, All());
  v[2][i] = parts_of<0, 2>(ab2, cd2, All());
  v[3][i] = parts_of<1, 2>(ab2, cd2, All());
}
#elif defined(__AVX2__)
template <int part>
RECURRA_FN void load_rows(Vec<float> (&v)[2][part], int i, const float* row, ptrdiff_t stride) {
  for (int k = 0; k < 2; ++k)
    v[k][i] =
        _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row + k * part)), _mm_loadu_ps(row + stride + k * part), 1);
}
template <int part>
RECURRA_FN void load_rows(Vec<double> (&v)[2][part], int i, const double* row, ptrdiff_t stride) {
  for (int k = 0; k < 2; ++k)
    v[k][i] =
        _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(row + k * part)), _mm_loadu_pd(row + stride + k * part), 1);
}
#else
template <class T, int part>
RECURRA_FN void load_rows(Vec<T> (&v)[1][part], int i, const T* row, ptrdiff_t) {
  v[0][i] = Vec<T>::load(row);
}
#endif

// 16 bytes of U rows, as load_rows gives them, turned: w[k] is column k.
template <class T, int part>
RECURRA_FN void turned(Vec<T> (&w)[part], const Vec<T> (&v)[part]) {
  using All = typename CountTo<Vec<T>::lanes>::All;
  if constexpr (part == 2) {
    w[0] = interleaved<false, 1>(v[0], v[1], All());
    w[1] = interleaved<true, 1>(v[0], v[1], All());
  } else {
    const Vec<T> a = interleaved<false, 1>(v[0], v[1], All()), b = interleaved<false, 1>(v[2], v[3], All());
    const Vec<T> c = interleaved<true, 1>(v[0], v[1], All()), d = interleaved<true, 1>(v[2], v[3], All());
    w[0] = interleaved<false, 2>(a, b, All());
    w[1] = interleaved<true, 2>(a, b, All());
    w[2] = interleaved<false, 2>(c, d, All());
    w[3] = interleaved<true, 2>(c, d, All());
  }
}

// Adds the first `count` columns of a block of U rows. All of a row is read before the next: rows of 4 KB lie in the same few
// lines of the first-level cache, which would not hold them for long. (Asking for rows ahead makes H = 512 a tenth slower.)
template <class T>
RECURRA_FN Vec<T> add_block(Vec<T> acc, const T* x, const T* rows, ptrdiff_t stride, int count) {
  constexpr int U = Vec<T>::lanes, part = 16 / sizeof(T);
  asm("" : "+r"(stride));  // else GCC keeps the offset of every row, and most of them on the stack
  Vec<T> v[U / part][part];
#pragma GCC unroll 4
  for (int i = 0; i < part; ++i) load_rows(v, i, rows + i * stride, part * stride);
#pragma GCC unroll 8
  for (int k = 0; k < U; k += part) {
    Vec<T> w[part];
    turned(w, v[k / part]);
#pragma GCC unroll 4
    for (int i = 0; i < part; ++i)
      if (k + i < count) acc = fma(Vec<T>(x[k + i]), w[i], acc);
  }
  return acc;
}

// The same at the matrix's edges, where there are fewer than U rows or columns.
template <class T>
__attribute__((noinline)) Vec<T> add_edge(Vec<T> acc, const T* x, const T* rows, ptrdiff_t columns, ptrdiff_t valid,
                                          int count) {
  constexpr int U = Vec<T>::lanes;
  T block[U * U] = {}, some[U] = {};
  for (int u = 0; u < valid; ++u)
    for (int k = 0; k < count; ++k) block[u * U + k] = rows[u * columns + k];
  for (int k = 0; k < count; ++k) some[k] = x[k];
  return add_block(acc, some, block, U, count);
}

// Blocks at k .. of each gate, `run` of one gate before the next gate's: rows are then read a few cache lines at a time.
template <int run, class Gates, class T, int C>
RECURRA_FN ptrdiff_t add_blocks(Vec<T> (&acc)[1][1][C], const T* x, const T* const* rows, ptrdiff_t columns, ptrdiff_t k) {
  constexpr Product product = Gates::product();
  constexpr int U = Vec<T>::lanes;
  for (; k + run * U <= columns; k += run * U)
#pragma GCC unroll 4
    for (int g = 0; g < product.count; ++g) {
      Vec<T>& sum = acc[0][0][product.chain[g]];
      for (int i = 0; i < run; ++i) sum = add_block(sum, x + k + i * U, rows[g] + k + i * U, columns, U);
    }
  return k;
}

template <class Gates, class T, int C>
RECURRA_FN void add_in_place(Vec<T> (&acc)[1][1][C], const T* x, const T* weight, ptrdiff_t columns, ptrdiff_t units,
                             int tile) {
  constexpr Product product = Gates::product();
  constexpr int U = Vec<T>::lanes;
  const ptrdiff_t first = ptrdiff_t(tile) * U, valid = units - first < U ? units - first : U;
  const T* rows[product.count];
  for (int g = 0; g < product.count; ++g) rows[g] = weight + (g * units + first) * columns;
  ptrdiff_t k = 0;
  if (valid == U) {
    k = add_blocks<4, Gates>(acc, x, rows, columns, k);
    k = add_blocks<1, Gates>(acc, x, rows, columns, k);
  }
  for (; k < columns; k += U)
    for (int g = 0; g < product.count; ++g) {
      Vec<T>& sum = acc[0][0][product.chain[g]];
      sum = add_edge(sum, x + k, rows[g] + k, columns, valid, int(columns - k < U ? columns - k : U));
    }
}

template <class F, class T>
void step_in_place(const InPlaceCall<T>& given) {
  constexpr Phase phase = F::phase;
  const PhaseCall<T>& call = given.phase;
  for (int tile = call.tile_begin; tile < call.tile_end; ++tile) {
    Vec<T> acc[1][1][phase.chains];
    start<0>(acc, call.tiles, tile, Panel<const T>(), 0);
    if constexpr (phase.input.count > 0)
      add_in_place<InputOf<F>>(acc, call.x.rows[0], given.input, call.tiles.input_size, call.tiles.units, tile);
    if constexpr (phase.recurrent.count > 0)
      add_in_place<RecurrentOf<F>>(acc, call.source.rows[0], given.recurrent, call.tiles.source_size, call.tiles.units, tile);
    FormBlock<F, T, FullWeights>::spill(call, 0, tile, acc, call.finish);
  }
}
