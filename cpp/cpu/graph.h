// Cells of graphs: their product, and their pointwise functions. Included by kernels.cpp after backward.h, in the same
// namespace.

// GatheredCall, in blocks like those of a phase with one chain.
template <class T>
struct GatheredBlock {
  using ManyRows = GatheredBlock;
  static constexpr int chains = 1, summed = 1;
  // Two tiles at once where these are 32 units, whose gradients went one by one and took twice as long.
  struct Shape {
    static constexpr int single_row_tiles = 4, tiles = Vec<T>::lanes < 16 ? 4 : 2, max_rows = BlockShape<1>::max_rows;
  };
  using Weights = FullWeights;
  struct Plain {
    Rows<const T> rows;
  };

  static ptrdiff_t bytes_of_tile(const GatheredCall<T>& call) { return call.tiles.size * ptrdiff_t(sizeof(T)); }

  template <int R, int N>
  static void run(const GatheredCall<T>& call, int row, int tile) {
    constexpr int U = Vec<T>::lanes;
    const ptrdiff_t first = ptrdiff_t(tile) * U, left = call.tiles.units - first;
    Vec<T> acc[N][R][1];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[n][r][0] = Vec<T>::load(call.start[row + r] + first + n * U, left - n * U);
    FullWeights::add<PlainGates<1>>(acc, Plain{call.x}, row, call.tiles, tile, 0, call.inputs,
                                    prefetches_ahead<GatheredBlock>(call));
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[n][r][0].store(call.out[row + r] + first + n * U, left - n * U);
  }
};

// A cell's view of one row's lanes.
template <class T>
struct GraphNode {
  using Vector = Vec<T>;
  const GraphCall<T>& call;
  int row;
  ptrdiff_t at;

  RECURRA_FN Vec<T> load(const T* values, int i) const { return Vec<T>::load(values + i * call.units + at, call.end - at); }
  RECURRA_FN void store(T* values, int i, Vec<T> v) const { v.store(values + i * call.units + at, call.end - at); }
  RECURRA_FN int64_t child(int k) const { return call.first[row] - call.first[0] + k; }

  RECURRA_FN int slots() const { return call.slots; }
  RECURRA_FN int memories() const { return call.memories; }
  RECURRA_FN int option() const { return call.option; }
  RECURRA_FN Vec<T> scale() const { return Vec<T>(call.scale); }
  RECURRA_FN bool peepholes() const { return call.vectors; }
  RECURRA_FN Vec<T> vector(int i) const { return load(call.vectors, i); }
  RECURRA_FN Vec<T> chain(int c) const { return load(call.chains[row], c); }
  RECURRA_FN void save(int c, Vec<T> v) const { store(call.chains[row], c, v); }
  RECURRA_FN Vec<T> state(int slot, int i) const { return load(call.before[slot][row], i); }
  RECURRA_FN Vec<T> own(int i) const { return load(call.states[row], i); }
  RECURRA_FN void set_state(int i, Vec<T> v) const { store(call.states[row], i, v); }
  RECURRA_FN int children() const { return int(call.first[row + 1] - call.first[row]); }
  RECURRA_FN Vec<T> child_chain(int k) const { return load(call.child_chains[child(k)], 0); }
  RECURRA_FN void save_child(int k, Vec<T> v) const { store(call.child_chains[child(k)], 0, v); }
  RECURRA_FN Vec<T> child_state(int k, int i) const { return load(call.child_states[child(k)], i); }

  RECURRA_FN Vec<T> saved(int c) const { return chain(c); }
  RECURRA_FN Vec<T> d_state(int i) const { return load(call.d_states[row], i); }
  RECURRA_FN void set_d_state(int i, Vec<T> v) const { store(call.d_states[row], i, v); }
  RECURRA_FN void set_da(int c, Vec<T> v) const { store(call.da[row], c, v); }
  RECURRA_FN void set_d_vector(int i, Vec<T> v) const { store(call.d_vectors[row], i, v); }
  RECURRA_FN void set_direct(int k, Vec<T> v) const { store(call.direct[row], k, v); }
  RECURRA_FN void set_child_da(int k, Vec<T> v) const { store(call.child_da[child(k)], 0, v); }
  RECURRA_FN void set_child_direct(int k, Vec<T> v) const { store(call.child_direct[child(k)], 0, v); }
};

// Small rather than fast: products take most of the time, and there are 40 of these for every instruction set.
template <class P, bool forward, class T>
__attribute__((flatten, RECURRA_FOR_SIZE)) void graph_function(const GraphCall<T>& call) {
  for (int row = 0; row < call.rows; ++row)
    for (ptrdiff_t at = call.begin; at < call.end; at += Vec<T>::lanes) {
      GraphNode<T> node{call, row, at};
      if constexpr (forward)
        P::forward(node);
      else
        P::backward(node);
    }
}

template <bool training, GraphFunction function, class P, class T>
constexpr void set_graph(Kernels<T>& k) {
  k.graph[int(function)] = graph_function<P, true, T>;
  if constexpr (training) k.graph_backward[int(function)] = graph_function<P, false, T>;
}
