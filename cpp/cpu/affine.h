// The affine map of a head, AffineCall. Included by kernels.cpp after tile.h, in the same namespace.

template <class T>
struct AffineBlock {
  using ManyRows = AffineBlock;
  static constexpr int chains = 1, summed = 1, parts = 4;
  using Weights = FullWeights;
  struct Shape {
    static constexpr int single_row_tiles = 4, tiles = 4, max_rows = BlockShape<1>::max_rows;
  };

  static ptrdiff_t bytes_of_tile(const AffineCall<T>& call) { return call.tiles.size * ptrdiff_t(sizeof(T)); }

  template <int R, int N>
  static void run(const AffineCall<T>& call, int row, int tile) {
    constexpr int U = Vec<T>::lanes;
    const T* weights[N];
    for (int n = 0; n < N; ++n) weights[n] = call.tiles.base + (tile + n) * call.tiles.size;
    Vec<T> sum[parts][N][R];
    if constexpr (R == 1)
      side_by_side(sum, call, call.x[row], weights);
    else
      one_by_one(sum, call, row, weights);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const ptrdiff_t at = ptrdiff_t(tile + n) * U;
        const Vec<T> y = (sum[0][n][r] + sum[1][n][r]) + (sum[2][n][r] + sum[3][n][r]);
        y.store(call.y[row + r] + at, call.tiles.units - at);
      }
  }

 private:
  // A part's inputs are part * quarter .. , as many as there are up to a quarter.
  static RECURRA_FN ptrdiff_t quarter(ptrdiff_t inputs) { return (inputs + parts - 1) / parts; }

  template <int N>
  static RECURRA_FN Vec<T> begin(const T* const (&weights)[N], int part, int n) {
    return part ? Vec<T>(0) : Vec<T>::load(weights[n]);
  }

  // All parts of a row at once: none waits for another's multiply-adds.
  template <int N>
  static RECURRA_FN void side_by_side(Vec<T> (&sum)[parts][N][1], const AffineCall<T>& call, const T* x,
                                      const T* const (&weights)[N]) {
    const ptrdiff_t inputs = call.inputs, size = quarter(inputs),
                    all = inputs > (parts - 1) * size ? inputs - (parts - 1) * size : 0;
#pragma GCC unroll 4
    for (int p = 0; p < parts; ++p)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[p][n][0] = begin(weights, p, n);
    ptrdiff_t i = 0;
    for (; i < all; ++i)
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) add(sum[p], x, weights, call.width, p * size + i);
    for (; i < size; ++i)
      for (int p = 0; p < parts; ++p)
        if (p * size + i < inputs) add(sum[p], x, weights, call.width, p * size + i);
  }

  template <int N>
  static RECURRA_FN void add(Vec<T> (&sum)[N][1], const T* x, const T* const (&weights)[N], ptrdiff_t width, ptrdiff_t k) {
    const Vec<T> value(x[k]);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sum[n][0] = fma(value, Vec<T>::load(weights[n] + (1 + k) * width), sum[n][0]);
  }

  // One part after another: a block of rows has enough multiply-adds in each.
  template <int R, int N>
  static RECURRA_FN void one_by_one(Vec<T> (&sum)[parts][N][R], const AffineCall<T>& call, int row,
                                    const T* const (&weights)[N]) {
    const ptrdiff_t size = quarter(call.inputs);
    const T* rows[R];
    point_to_rows(rows, call.x, row);
    for (int p = 0; p < parts; ++p) {
      Vec<T> acc[N][R][1];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) acc[n][r][0] = begin(weights, p, n);
      const ptrdiff_t end = (p + 1) * size < call.inputs ? (p + 1) * size : call.inputs;
      for (ptrdiff_t k = p * size; k < end; ++k) {
        Vec<T> w[N][1];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          w[n][0] = Vec<T>::load(weights[n] + (1 + k) * call.width);
          pin(w[n][0]);
        }
        multiply_add<PlainGates<1>, Vec<T>>(acc, w, rows, k);
      }
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[p][n][r] = acc[n][r][0];
    }
  }
};
