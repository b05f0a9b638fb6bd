// How weights may be stored, and how a product is added to its chains from each: acc[n][r][chain of gate g] += x[r] . w[n][g].
// Included by kernels.cpp after math.h, in the same namespace. All are made of 4-byte words (8 for double); engine/pack.cpp
// writes what these read.

template <int R, class T, class From>
RECURRA_FN void point_to_rows(const T* (&pointers)[R], const From& rows, int row) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) pointers[r] = rows[row + r];
}

typedef int Word __attribute__((may_alias));  // some numbers of a reduced row

// Rows in the form that reduced weights expect, which is made of whole words.
template <int R, class Number>
RECURRA_FN void point_to_reduced(const Number* (&pointers)[R], const Panel<const char>& rows, int row) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) pointers[r] = reinterpret_cast<const Number*>(rows[row + r]);
}

template <int N, class T>
RECURRA_FN void point_to_weights(const T* (&pointers)[N], const Tiles<T>& tiles, int tile, ptrdiff_t at) {
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n) pointers[n] = tiles.base + (tile + n) * tiles.size + at;
}

// The words at k, [k][gate][lane], for R rows.
template <int R, class T, int N, int G>
RECURRA_FN void load_weights(Vec<T> (&w)[N][G], const T* const (&weights)[N], ptrdiff_t k) {
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      w[n][g] = Vec<T>::load(weights[n] + (k * G + g) * Vec<T>::lanes);
      if (R > 1) pin(w[n][g]);
    }
}

// While a block of rows reads its N tiles, it prefetches a part of the next N, one vector for every word of its own.
template <class T>
struct Ahead {
  const T* from;
  ptrdiff_t step;

  template <int R, int N, int G>
  static RECURRA_FN Ahead part(bool wanted, int row, const Tiles<T>& tiles, int tile, ptrdiff_t at, ptrdiff_t words) {
    const int part = (row + R - 1) / R % (N * G);  // of this block: those before it have R or R - 1 rows
    if (!wanted) return {tiles.base, 0};           // prefetching what is near costs less than a branch for each word
    return {tiles.base + (tile + N + part / G) * tiles.size + at + part % G * words * Vec<T>::lanes, Vec<T>::lanes};
  }
  RECURRA_FN void prefetch(ptrdiff_t word) const { __builtin_prefetch(from + word * step); }
};

template <int gates>
struct PlainGates;  // tile.h

constexpr int kAccumulators = RECURRA_ACCUMULATORS;  // registers; the rest hold weights and a broadcast

// acc[n][r][chain[g]] = fma(value[r], w[n][g], ...) for all n, r, g, where a value is made of a row's word at k. With this in
// the loop over k itself, GCC sends acc through the stack before and after (4 to 14 % of a batch in bfloat16).
template <class Gates, class Value, class T, class Number, int R, int N, int C, int G>
RECURRA_FN void multiply_add(Vec<T> (&acc)[N][R][C], const Vec<T> (&w)[N][G], const Number* const (&rows)[R], ptrdiff_t k) {
  constexpr Product product = Gates::product();
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const Value value(rows[r][k]);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) acc[n][r][product.chain[g]] = fma(value, w[n][g], acc[n][r][product.chain[g]]);
  }
}

// acc[n][r][chain[g]] += x[r] . w[n][g] of as many words of a row as a vector has lanes, whose weights are at `weights`.
template <class Gates, class Lane, int i = 0, class V, class T, int R, int N, int C>
RECURRA_FN void add_lanes(V (&acc)[N][R][C], const Vec<T> (&x)[R], const T* (&weights)[N]) {
  constexpr Product product = Gates::product();
  constexpr int G = product.count, U = Vec<T>::lanes;
  if constexpr (i < U) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const Vec<T> w = Lane::template weight<i>(weights[n] + g * U, G * U);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[n][r][product.chain[g]] = Lane::template add<i>(acc[n][r][product.chain[g]], x[r], w);
      }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
      if (R > 1) read_after(weights[n], acc[n][R - 1][product.chain[G - 1]]);
    add_lanes<Gates, Lane, i + 1>(acc, x, weights);
  }
}

// Where multiply-adds take a lane of a vector, rows are read a vector at a time: the same sums of whole vectors of a row's
// words, in the same order. How many words that were; the rest is the caller's.
template <class Gates, class Lane, class V, class T, class Number, int R, int N, int C>
RECURRA_FN ptrdiff_t add_vectors(V (&acc)[N][R][C], const Number* const (&rows)[R], const T* const (&weights)[N],
                                 ptrdiff_t words, const Ahead<T>& next) {
  ptrdiff_t k = 0;
  if constexpr (Lane::there)
    for (; k + Vec<T>::lanes <= words; k += Vec<T>::lanes) {
      Vec<T> x[R];
      const T* at[N];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) __builtin_memcpy(&x[r].v, rows[r] + k, sizeof x[r].v);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) at[n] = weights[n] + k / Lane::per_word * (Gates::product().count * Vec<T>::lanes);
      if (R > 1) next.prefetch(k / Lane::per_word);
      add_lanes<Gates, Lane>(acc, x, at);
    }
  return k;
}

// Numbers of the layer's own type: [k][gate][lane].
struct FullWeights {
  static constexpr int chains_to_read = 4;  // with so many side by side a product takes no longer than reading its weights

  template <class Gates, class T, class X, int R, int N, int C>
  static RECURRA_FN void add(Vec<T> (&acc)[N][R][C], const X& x, int row, const Tiles<T>& tiles, int tile, ptrdiff_t at,
                             ptrdiff_t size, bool ahead) {
    constexpr int G = Gates::product().count;
    const T *rows[R], *weights[N];
    point_to_rows(rows, x.rows, row);
    point_to_weights(weights, tiles, tile, at);
    const auto next = Ahead<T>::template part<R, N, G>(ahead, row, tiles, tile, at, size);
    for (ptrdiff_t k = add_vectors<Gates, FullLane>(acc, rows, weights, size, next); k < size; ++k) {
      Vec<T> w[N][G];
      if (R > 1) next.prefetch(k);
      load_weights<R>(w, weights, k);
      multiply_add<Gates, Vec<T>>(acc, w, rows, k);
    }
  }
};

// bfloat16, the upper half of a float32, so that widening it is exact: [k / 2][gate][lane], k in the lower half of a word and
// k + 1 in the upper. The vector comes rounded to bfloat16 too, so products are exact; a word's upper product is added first,
// then its lower, as vdpbf16ps does (it equals these two fused multiply-adds in every bit, tests/cpp/bfloat16.cpp).
struct Bfloat16Weights {
  static constexpr int chains_to_read = 8;  // a word is two multiply-adds, one after the other
  using Number = float;                     // as rows are given: widened again

  template <class Gates, int R, int N, int C>
  static RECURRA_FN void add(Vec<float> (&acc)[N][R][C], const Operand<float>& x, int row, const Tiles<float>& tiles, int tile,
                             ptrdiff_t at, ptrdiff_t size, bool ahead) {
    const float *rows[R], *weights[N];
    point_to_reduced(rows, x.reduced, row);
    point_to_weights(weights, tiles, tile, at);
    const auto next = Ahead<float>::part<R, N, Gates::product().count>(ahead, row, tiles, tile, at, (size + 1) / 2);
    for (ptrdiff_t k = add_vectors<Gates, WidenedLane>(acc, rows, weights, size, next); k < size; k += 2) {
      if (R > 1) next.prefetch(k / 2);
      add_half<Gates, true>(acc, rows, weights, k + 1);
      add_half<Gates, false>(acc, rows, weights, k);
    }
  }

 private:
  template <class Gates, bool upper, int R, int N, int C>
  static RECURRA_FN void add_half(Vec<float> (&acc)[N][R][C], const float* const (&rows)[R], const float* const (&weights)[N],
                                  ptrdiff_t k) {
    constexpr int G = Gates::product().count;
    Vec<float> w[N][G];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const auto word = Vec<float>::load(weights[n] + (k / 2 * G + g) * Vec<float>::lanes).bits();
        w[n][g] = Vec<float>::from_bits(upper ? word & int(0xffff0000) : word << 16);
      }
    multiply_add<Gates, Vec<float>>(acc, w, rows, k);
  }
};

#if defined(__AVX512VNNI__) || defined(__aarch64__)
// The same weights and the same bits, a word at a time.
struct Bfloat16Pairs {
  static constexpr int chains_to_read = 8;  // vdpbf16ps takes half as long again as a multiply-add, two bfmlal twice as long
  using Number = uint16_t;

  template <class Gates, int R, int N, int C>
  static RECURRA_FN void add(Vec<float> (&acc)[N][R][C], const Operand<float>& x, int row, const Tiles<float>& tiles, int tile,
                             ptrdiff_t at, ptrdiff_t size, bool ahead) {
    constexpr int G = Gates::product().count;
    const Word* rows[R];
    const float* weights[N];
    point_to_reduced(rows, x.reduced, row);
    point_to_weights(weights, tiles, tile, at);
    const auto next = Ahead<float>::part<R, N, G>(ahead, row, tiles, tile, at, (size + 1) / 2);
    for (ptrdiff_t k = add_vectors<Gates, HalvesLane>(acc, rows, weights, (size + 1) / 2, next); k < (size + 1) / 2; ++k) {
      Vec<float> w[N][G];
      if (R > 1) next.prefetch(k);
      load_weights<R>(w, weights, k);
      multiply_add<Gates, TwoHalves>(acc, w, rows, k);
    }
  }
};
#endif

// int8, each unit's row with a scale of its own: [k / 4][gate][lane] words of four weights, [gate][lane] scales, and
// [gate][lane] integers, -128 times the sum of the row's weights. The vector comes quantised too, so the sum is one of
// integers, exact in any order; it joins the chain in one multiply-add. The chains wait on the stack while integers are summed:
// as many rows at once pay more than chains kept in registers (6 to 19 %, bench/NOTES.md).
template <class Four, class Lane>
struct Int8Products {
  static constexpr int chains_to_read = 4;

  template <class Gates, int R, int N, int C>
  static RECURRA_FN void add(Vec<float> (&acc)[N][R][C], const Operand<float>& x, int row, const Tiles<float>& tiles, int tile,
                             ptrdiff_t at, ptrdiff_t size, bool ahead) {
    constexpr Product product = Gates::product();
    constexpr int G = product.count, U = Vec<float>::lanes;
    const Word* rows[R];
    const float* weights[N];
    point_to_reduced(rows, x.reduced, row);
    point_to_weights(weights, tiles, tile, at);
    const ptrdiff_t words = (size + 3) / 4;
    Vec<float>::Bits sum[N][R][G];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          sum[n][r][g] = Four::shifted ? Vec<float>::load(weights[n] + ((words + 1) * G + g) * U).bits() : Vec<float>::Bits{};
    const auto next = Ahead<float>::part<R, N, G>(ahead, row, tiles, tile, at, words);
    for (ptrdiff_t k = add_vectors<PlainGates<G>, Lane>(sum, rows, weights, words, next); k < words; ++k) {
      if (R > 1) next.prefetch(k);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Four four(rows[r][k]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
          for (int g = 0; g < G; ++g)
            sum[n][r][g] = four.dot(sum[n][r][g], Vec<float>::load(weights[n] + (k * G + g) * U).bits());
      }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const Vec<float> scale = Vec<float>::load(weights[n] + (words * G + g) * U);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          acc[n][r][product.chain[g]] =
              fma(to_float(sum[n][r][g]), scale * Vec<float>(x.scale[row + r]), acc[n][r][product.chain[g]]);
      }
  }
};

using Int8Weights = Int8Products<FourBytes, NoLane>;

// use(i, x[i] .. x[i + lanes - 1], room) for the vectors of a row, zeros from x[size] on; `room` is what is left until `end`.
// Parts of a vector come last and apart: with what they need inside it, the loop takes twice as many instructions on ARM.
template <class Use>
RECURRA_FN void each_vector(const float* x, ptrdiff_t size, ptrdiff_t end, const Use& use) {
  constexpr int U = Vec<float>::lanes;
  ptrdiff_t i = 0;
  for (; i + U <= size; i += U) use(i, Vec<float>::load(x + i), U);
  for (; i < end; i += U) use(i, Vec<float>::load(x + i, size - i), end - i);
}

// The largest size of a row's numbers; infinite when one is infinite or NaN.
RECURRA_FN float largest(const float* x, ptrdiff_t size) {
  using V = Vec<float>;
  V most(0), unordered(0);  // x - x is 0, but NaN for NaN and infinity, and then so is every sum with it
  each_vector(x, size, size, [&](ptrdiff_t, V v, ptrdiff_t) {
    most = max(abs(v), most);
    unordered = unordered + (v - v);
  });
  float all = 0, strange = 0;
  for (int lane = 0; lane < V::lanes; ++lane) {
    all = all < most.v[lane] ? most.v[lane] : all;
    strange += unordered.v[lane];
  }
  return strange == 0 ? all : __builtin_inff();
}

// As many of a vector's reduced numbers as there is room for.
template <class Number, int lanes>
RECURRA_FN void store_numbers(Number* out, const Number (&numbers)[lanes], ptrdiff_t room) {
  if (room >= lanes)
    __builtin_memcpy(out, numbers, sizeof numbers);
  else
    __builtin_memcpy(out, numbers, size_t(room) * sizeof(Number));
}

// Rows to bfloat16, ties to even, as floats or as the upper halves of floats; NaN stays NaN.
template <class Number>
void round_rows(const ReduceCall& call) {
  using V = Vec<float>;
  for (int r = 0; r < call.rows; ++r) {
    Number* out = reinterpret_cast<Number*>(call.out[r]);
    each_vector(call.x[r], call.size, call.padded, [&](ptrdiff_t i, V x, ptrdiff_t room) {
      const auto number = x.v == x.v;
      const auto bits = x.bits() & number;
      const auto nearest = bits + 0x7fff + ((bits >> 16) & 1);
      const auto rounded = (number ? nearest : x.bits() | 0x400000) & int(0xffff0000);
      Number numbers[V::lanes];
      for (int lane = 0; lane < V::lanes; ++lane)
        if constexpr (sizeof(Number) == sizeof(float))
          numbers[lane] = V::from_bits(rounded).v[lane];
        else
          numbers[lane] = Number(unsigned(rounded[lane]) >> 16);
      store_numbers(out + i, numbers, room);
    });
  }
}

// Rows to int8, for Int8Weights: x = scale * q with q in -127 .. 127. The scale is each row's largest number / 127, or 1 / 127
// when `unit_range` says that numbers lie in -1 .. 1. A row with NaN or infinity gets the scale NaN, and so do its sums.
void quantise(const ReduceCall& call) {
  using V = Vec<float>;
  const V magic(Constants<float>::round_magic), limit(127);
  for (int r = 0; r < call.rows; ++r) {
    const float* x = call.x[r];
    int8_t* out = reinterpret_cast<int8_t*>(call.out[r]);
    const float most = largest(x, call.size);
    const bool finite = most < __builtin_inff();
    const float range = call.unit_range ? 1.0f : most;
    const V inverse(finite && range > 0 ? 127.0f / range : 0.0f);
    call.scale[r] = finite ? range / 127.0f : __builtin_nanf("");
    each_vector(x, call.size, call.padded, [&](ptrdiff_t i, V v, ptrdiff_t room) {
      int8_t bytes[V::lanes];
      lowest_bytes(bytes, (clip(v * inverse, limit) + magic).bits() - magic.bits());
      store_numbers(out + i, bytes, room);
    });
  }
}
