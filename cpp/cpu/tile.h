// The microkernel: R rows by N unit tiles of one phase. All chains of the block, for int8 their integer sums, stay in registers
// from the first product to the last; lanes run over units and k ascends, so no sum is ever split (law 1 of the design: same
// bits). Included by kernels.cpp after weights.h, in the same namespace.

// How many rows and tiles a block has: its chains fill the registers that weights and a broadcast leave free, and a single
// row may have 8 or more independent chains to hide the latency of a fused multiply-add (4 cycles, up to 2 a cycle). Where
// multiply-adds take lanes, each row needs a register for its numbers, and of 32 three are for weights. (bench/NOTES.md, "ARM")
template <int chains>
struct BlockShape {
  static constexpr int single_row_tiles = (8 + chains - 1) / chains;
  static constexpr int tiles = chains >= 3 ? 1 : 4 / chains;
  static constexpr int max_rows = FullLane::there ? 29 / (chains * tiles + 1) : kAccumulators / (chains * tiles);
};

// acc = bias, or what input_product made of bias and input.
template <int G, class T, int R, int N, int C>
RECURRA_FN void start(Vec<T> (&acc)[N][R][C], const Tiles<T>& tiles, int tile, const Panel<const T>& before, int row) {
  constexpr int U = Vec<T>::lanes;
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const Vec<T> bias = Vec<T>::load(tiles.base + (tile + n) * tiles.size + c * U);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[n][r][c] = bias;
    }
  if (!before.base) return;
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) acc[n][r][g] = Vec<T>::load(before[row + r] + ((tile + n) * G + g) * U);
}

// The weights that a call reads.
template <class Block, class Call>
RECURRA_FN ptrdiff_t bytes_to_read(const Call& call) {
  return Block::bytes_of_tile(call) * (call.tile_end - call.tile_begin);
}

// Whether blocks of rows prefetch the next tiles: weights from memory or an outer cache keep the first block waiting, while
// those after it find them near. (bench/NOTES.md, "Prefetching the next tiles for a batch")
template <class Block, class Call>
RECURRA_FN bool prefetches_ahead(const Call& call) {
  return call.rows > Block::Shape::max_rows && bytes_to_read<Block>(call) * call.rows >= worth_prefetching;
}

// A cell's view of the units at hand: one row's lanes of one tile.
template <class T>
struct Unit {
  const PhaseCall<T>& call;
  bool saves;
  int row;
  ptrdiff_t at;  // the first unit
  const T* vectors;

  RECURRA_FN Vec<T> h() const { return Vec<T>::load(call.h[row] + at); }
  RECURRA_FN Vec<T> state(int i) const { return Vec<T>::load(call.states[row] + i * call.padded + at); }
  RECURRA_FN void set_state(int i, Vec<T> v) const { v.store(call.new_states[row] + i * call.padded + at); }
  RECURRA_FN Vec<T> kept(int i) const { return Vec<T>::load(call.kept[row] + i * call.padded + at); }
  RECURRA_FN void keep(int i, Vec<T> v) const { v.store(call.kept[row] + i * call.padded + at); }
  RECURRA_FN void save(int i, Vec<T> v) const {
    if (saves) v.store(call.saved[row] + i * call.padded + at);
  }
  RECURRA_FN Vec<T> vector(int i) const { return Vec<T>::load(vectors + i * Vec<T>::lanes); }
  RECURRA_FN Vec<T> constant(int i) const { return Vec<T>(call.constants[i]); }
  RECURRA_FN int choice(int i) const { return int(call.constants[i]); }
};

template <class P>
struct InputOf {
  static constexpr Product product() { return P::phase.input; }
};

template <class P>
struct RecurrentOf {
  static constexpr Product product() { return P::phase.recurrent; }
};

template <int gates>
struct PlainGates {
  static constexpr Product product() { return input_gates(0, gates); }
};

// What a phase's block of rows is made of: its products, whatever the cell does with the chains.
template <int all_chains, int inputs, int recurrents, int... chain>
struct Form {
  static constexpr Phase phase = {input_gates(0, inputs), {"", nullptr, 0, recurrents, {chain...}}, all_chains};
};

template <class P>
struct FormOfPhase {
  static constexpr const Phase& p = P::phase;
  static constexpr int chain(int g) { return g < p.recurrent.count ? p.recurrent.chain[g] : 0; }
  using type = Form<p.chains, p.input.count, p.recurrent.count, chain(0), chain(1), chain(2), chain(3)>;
};
template <class P>
using FormOf = typename FormOfPhase<P>::type;
static_assert(kMaxChains == 4, "FormOf names each");

// One phase of one step, with weights stored as W. Phases of one form share the code: the cell is what `finish` points to.
template <class F, class T, class W>
struct FormBlock {
  using ManyRows = FormBlock;
  static constexpr int chains = F::phase.chains, summed = F::phase.recurrent.count;  // summed: those that a product adds to
  using Shape = BlockShape<chains>;
  using Weights = W;

  // The weights that a call reads of a tile.
  static ptrdiff_t bytes_of_tile(const PhaseCall<T>& call) {
    return (call.tiles.size - (call.before.base ? call.tiles.recurrent_at : call.tiles.input_at)) * ptrdiff_t(sizeof(T));
  }

  template <int R, int N>
  static RECURRA_FN void sum(Vec<T> (&acc)[N][R][chains], const PhaseCall<T>& call, int row, int tile) {
    constexpr Phase phase = F::phase;
    const Tiles<T>& tiles = call.tiles;
    start<phase.input.count>(acc, tiles, tile, call.before, row);
    const bool ahead = prefetches_ahead<FormBlock>(call);
    if constexpr (phase.input.count > 0)
      if (!call.before.base)
        W::template add<InputOf<F>>(acc, call.x, row, tiles, tile, tiles.input_at, tiles.input_size, ahead);
    if constexpr (phase.recurrent.count > 0)
      W::template add<RecurrentOf<F>>(acc, call.source, row, tiles, tile, tiles.recurrent_at, tiles.source_size, ahead);
  }

  template <int R, int N>
  static RECURRA_FN void spill(const PhaseCall<T>& call, int row, int tile, const Vec<T> (&acc)[N][R][chains], Finish<T> use) {
    constexpr int U = Vec<T>::lanes;
    alignas(sizeof(Vec<T>)) T spilled[N * R * chains * U];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < chains; ++c) acc[n][r][c].store(spilled + ((n * R + r) * chains + c) * U);
    use(call, row, R, tile, N, spilled);
  }

  template <int R, int N>
  static void run(const PhaseCall<T>& call, int row, int tile) {
    // Written in the batch's order, which no hardware prefetcher predicts when lengths differ (2 to 3 % there).
    if (R > 1 && call.y.base)
      for (int r = row; r < row + R; ++r)
        for (int n = 0; n < N; ++n) __builtin_prefetch(call.y[r] + ptrdiff_t(tile + n) * Vec<T>::lanes, 1);
    Vec<T> acc[N][R][chains];
    sum(acc, call, row, tile);
    spill(call, row, tile, acc, call.finish);
  }
};

template <class P, class T, class V>
RECURRA_FN void finish_unit(const PhaseCall<T>& call, bool saves, int row, int tile, const V* chain) {
  constexpr int chains = P::phase.chains, U = V::lanes;
  const ptrdiff_t at = ptrdiff_t(tile) * U;
  Unit<T> unit{call, saves, row, at, call.tiles.base + tile * call.tiles.size + chains * U};
  const V result = P::forward(chain, unit);
  result.store(call.result[row] + at);
  if (call.y.base) result.store(call.y[row] + at, call.tiles.units - at);
}

// The cell on the chains of a block; out of line, so that its code exists twice rather than for every R and N.
template <class P, bool saves, class T>
__attribute__((noinline, flatten)) void finish(const PhaseCall<T>& call, int row, int rows, int tile, int tiles,
                                               const T* spilled) {
  constexpr int chains = P::phase.chains, U = Vec<T>::lanes;
  for (int t = tile; t < tile + tiles; ++t)
    for (int r = row; r < row + rows; ++r, spilled += chains * U) {
      Vec<T> chain[chains];
#pragma GCC unroll 8
      for (int c = 0; c < chains; ++c) chain[c] = Vec<T>::load(spilled + c * U);
      finish_unit<P>(call, saves, r, t, chain);
    }
}

// A single row's tiles, the cell among them.
template <class P, class T, class W>
struct PhaseBlock : FormBlock<FormOf<P>, T, W> {
  using ManyRows = FormBlock<FormOf<P>, T, W>;

  template <int R, int N>
  static void run(const PhaseCall<T>& call, int row, int tile) {
    Vec<T> acc[N][R][ManyRows::chains];
    ManyRows::sum(acc, call, row, tile);
    // A small layer's step is one chain of dependent operations: sending the sums through memory is 5 % of it.
    if constexpr (R == 1 && N == 1)
      if (!call.saved.base) return finish_unit<P>(call, false, row, tile, acc[0][0]);
    ManyRows::spill(call, row, tile, acc, call.saved.base ? finish<P, true, T> : finish<P, false, T>);
  }
};

// Bias plus input product, kept for later steps.
template <int gates, class T, class W>
struct InputBlock {
  using ManyRows = InputBlock;
  static constexpr int chains = gates, summed = gates;
  using Shape = BlockShape<chains>;
  using Weights = W;

  static ptrdiff_t bytes_of_tile(const InputCall<T>& call) {
    return (call.tiles.recurrent_at - call.tiles.input_at) * ptrdiff_t(sizeof(T));
  }

  template <int R, int N>
  static void run(const InputCall<T>& call, int row, int tile) {
    constexpr int U = Vec<T>::lanes;
    const Tiles<T>& tiles = call.tiles;
    Vec<T> acc[N][R][gates];
    start<gates>(acc, tiles, tile, Panel<const T>(), row);
    W::template add<PlainGates<gates>>(acc, call.x, row, tiles, tile, tiles.input_at, tiles.input_size,
                                       prefetches_ahead<InputBlock>(call));
    T* out = call.out[row] + ptrdiff_t(tile) * gates * U;
    const ptrdiff_t stride = call.out.stride;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r, out += stride)
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
#pragma GCC unroll 8
        for (int g = 0; g < gates; ++g) acc[n][r][g].store(out + (n * gates + g) * U);
  }
};

template <class Block, int R, int N, class Call>
RECURRA_FN void run_rows(const Call& call, int rows, int row, int tile) {
  if (rows == R) return Block::template run<R, N>(call, row, tile);
  if constexpr (R > 1) run_rows<Block, R - 1, N>(call, rows, row, tile);
}

// All rows of N tiles, in blocks whose sizes differ by at most one: 7 rows are 4 + 3, not 6 + 1.
template <class Block, int N, class Call>
RECURRA_FN void run_tiles(const Call& call, int tile) {
  constexpr int max_rows = Block::Shape::max_rows;
  const int blocks = (call.rows + max_rows - 1) / max_rows;
  int row = 0;
  for (int b = 0; b < blocks; ++b) {
    const int rows = (call.rows - row) / (blocks - b);
    run_rows<Block, max_rows, N>(call, rows, row, tile);
    row += rows;
  }
}

// Tiles begin .. end-1 of a single row, N at a time, then the rest by N / 2 and so on, forwards or backwards.
template <class Block, int N, class Call>
RECURRA_FN void walk(const Call& call, bool backwards, int begin, int end) {
  for (; begin + N <= end; backwards ? end -= N : begin += N) Block::template run<1, N>(call, 0, backwards ? end - N : begin);
  if constexpr (N > 1) walk<Block, N / 2>(call, backwards, begin, end);
}

// The order of tiles alternates from step to step, so that a step begins with what the one before read last (1 to 7 % for 2 to
// 8 rows), except where blocks prefetch the tiles that follow, and in memory, which is read 6 % faster in order.
template <class Block, class Call>
RECURRA_FN bool goes_backwards(const Call& call) {
  constexpr ptrdiff_t memory = 48 << 20;  // bytes of one worker (bench/NOTES.md, "Memory is read in order")
  return call.backwards && !prefetches_ahead<Block>(call) && bytes_to_read<Block>(call) < memory;
}

// A single row reads all weights of its tiles once a step. The more chains side by side the better, unless few tiles would stay
// in the first-level cache until the next step and many would not. If the few have fewer chains than wanted, they must be
// smaller in proportion, and a cache of more than 32 KiB does not help them. Beyond that cache more than two tiles are too many
// streams, if fewer have enough chains. (bench/NOTES.md, "Tiles of a single row")
template <class Block, class Call>
RECURRA_FN void sweep_row(const Call& call) {
  constexpr int many = Block::Shape::single_row_tiles, few = (many + 1) / 2;
  constexpr int wanted = Block::Weights::chains_to_read, had = few * Block::summed;
  const ptrdiff_t tile = Block::bytes_of_tile(call), room = had >= wanted ? first_level_cache : (32 << 10) * had / wanted;
  const bool few_stay = tile * few <= room, many_stay = tile * many <= first_level_cache;
  const bool backwards = goes_backwards<Block>(call);
  if (!many_stay && (few_stay || (many > 2 && had >= wanted)))
    walk<Block, few>(call, backwards, call.tile_begin, call.tile_end);
  else
    walk<Block, many>(call, backwards, call.tile_begin, call.tile_end);
}

template <class Block, class Call>
__attribute__((noinline)) void sweep_rows(const Call& call) {
  constexpr int N = Block::Shape::tiles;
  const bool backwards = goes_backwards<Block>(call);
  int begin = call.tile_begin, end = call.tile_end;
  for (; begin + N <= end; backwards ? end -= N : begin += N) run_tiles<Block, N>(call, backwards ? end - N : begin);
  for (; begin < end; ++begin) run_tiles<Block, 1>(call, begin);
}

template <class Block, class Call>
__attribute__((noinline)) void sweep_all(const Call& call) {
  if (call.rows == 1) return sweep_row<Block>(call);
  sweep_rows<typename Block::ManyRows>(call);
}

template <class Block, class Call>
__attribute__((noinline)) void sweep_one(const Call& call) {
  Block::template run<1, 1>(call, 0, call.tile_begin);
}

// Small steps first: the fewer instructions there are between the sums of one step and those of the next, the earlier a
// processor can begin the next ones while it waits.
template <class Block, class Call>
void sweep(const Call& call) {
  call.rows == 1 && call.tile_end - call.tile_begin == 1 ? sweep_one<Block>(call) : sweep_all<Block>(call);
}

// A phase without a recurrent product: the input product goes through memory, where it may have come from an earlier call.
template <int gates, class T, class W>
void sweep_inputs(const PhaseCall<T>& call) {
  constexpr int U = Vec<T>::lanes, many_tiles = 8, many_rows = 2 * InputBlock<gates, T, W>::Shape::max_rows;
  constexpr int room = many_rows < many_tiles ? many_tiles : many_rows;
  const int tiles_at_once = call.rows == 1 ? many_tiles : 1;
  alignas(sizeof(Vec<T>)) T chains[room * gates * U];
  for (int tile = call.tile_begin, tiles; tile < call.tile_end; tile += tiles) {
    tiles = call.tile_end - tile < tiles_at_once ? call.tile_end - tile : tiles_at_once;
    for (int row = 0, rows; row < call.rows; row += rows) {
      const ptrdiff_t at = ptrdiff_t(tile) * gates * U;
      if (call.before.base) {
        rows = 1;
        call.finish(call, row, rows, tile, tiles, call.before[row] + at);
        continue;
      }
      rows = call.rows - row < many_rows ? call.rows - row : many_rows;
      InputCall<T> input;
      input.tiles = call.tiles;
      input.tile_begin = tile;
      input.tile_end = tile + tiles;
      input.rows = rows;
      input.x = {{call.x.rows.base, call.x.rows.offset + row}, {}, call.x.scale};
      if (call.x.reduced.base) input.x.reduced = {call.x.reduced[row], call.x.reduced.stride};
      if (call.x.scale) input.x.scale += row;
      input.out = {chains - at, gates * U};
      sweep<InputBlock<gates, T, W>>(input);
      call.finish(call, row, rows, tile, tiles, chains);
    }
  }
}
