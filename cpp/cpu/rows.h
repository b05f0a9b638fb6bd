// Phases by rows: their products go through memory, and their functions have whole rows. Included by kernels.cpp after
// backward.h, in the same namespace.

template <int gates, class T, class W>
void sweep_by_rows(const PhaseCall<T>& call) {
  InputCall<T> product;
  product.tiles = call.tiles;
  product.tile_begin = call.tile_begin;
  product.tile_end = call.tile_end;
  product.rows = call.rows;
  product.x = call.x;
  product.out = call.apart;
  for (int side = 0; side < 2; ++side) {
    if (side || !call.before.base) sweep<InputBlock<gates, T, W>>(product);
    product.tiles.input_at = call.tiles.recurrent_at;
    product.tiles.recurrent_at = call.tiles.size;
    product.tiles.input_size = call.tiles.source_size;
    product.x = call.source;
    product.out.base = call.apart.base + gates * call.padded;
  }
  if (!call.shared) call.finish(call, 0, call.rows, 0, 0, nullptr);
}

// A product of one row, from weights where their owner keeps them.
template <class T>
__attribute__((RECURRA_ONE_COPY)) void product_in_place(const PhaseCall<T>& call, int gates, const T* x, const T* weight,
                                                        ptrdiff_t columns, T* out) {
  constexpr int U = Vec<T>::lanes;
  const ptrdiff_t units = call.tiles.units;
  for (int tile = call.tile_begin; tile < call.tile_end; ++tile)
    for (int g = 0; g < gates; ++g) {
      Vec<T> acc[1][1][1] = {{{Vec<T>(0)}}};
      add_in_place<PlainGates<1>>(acc, x, weight + g * units * columns, columns, units, tile);
      acc[0][0][0].store(out + ptrdiff_t(tile * gates + g) * U);
    }
}

template <class P, class T>
void by_rows_in_place(const InPlaceCall<T>& given) {
  constexpr int inputs = P::phase.input.count;
  const PhaseCall<T>& call = given.phase;
  T* const out = call.apart[0];
  product_in_place(call, inputs, call.x.rows[0], given.input, call.tiles.input_size, out);
  product_in_place(call, P::phase.recurrent.count, call.source.rows[0], given.recurrent, call.tiles.source_size,
                   out + inputs * call.padded);
  if (!call.shared) call.finish(call, 0, 1, 0, 0, nullptr);
}

// v without what fills up a tile.
template <class T>
__attribute__((noinline)) Vec<T> only(Vec<T> v, ptrdiff_t units) {
  T lanes[Vec<T>::lanes];
  v.store(lanes);
  return Vec<T>::load(lanes, units);
}

template <class T>
__attribute__((noinline)) T mean_of(const Parts<T>& parts, ptrdiff_t count) {
  return parts.total() / T(count);
}

template <class T, int gates>
struct ForwardRowUnit : Unit<T> {
  const T* const* sides;

  RECURRA_FN Vec<T> side(int s, int g) const { return Vec<T>::load(sides[s] + this->at * gates + g * Vec<T>::lanes); }
  RECURRA_FN void set_result(Vec<T> v) const {
    v.store(this->call.result[this->row] + this->at);
    if (this->call.y.base) v.store(this->call.y[this->row] + this->at, this->call.tiles.units - this->at);
  }
};

template <class T, int gates>
struct BackwardRowUnit : BackwardUnit<T> {
  RECURRA_FN Vec<T> side(int s, int g) const { return this->saved(s * gates + g); }
  RECURRA_FN Vec<T> d_result() const {
    const Vec<T> d = Vec<T>::load(this->call.d_result[this->row] + this->at);
    if (!this->call.dy.base) return d;
    return d + Vec<T>::load(this->call.dy[this->row] + this->at, this->call.tiles.units - this->at);
  }
  RECURRA_FN void set_da(int c, Vec<T> v) const { v.store(this->call.da.at(this->row, c * this->call.d_width + this->at)); }
  RECURRA_FN void set_d_h(Vec<T> v) const { v.store(this->call.d_h[this->row] + this->at); }
};

// make(at, vectors): the units from `at` on.
template <class T, class Make>
struct RowOf {
  using Value = Vec<T>;
  const Tiles<T>& tiles;
  const ptrdiff_t header;  // numbers of a tile before its vectors
  const Make make;

  template <int count>
  struct Sums {
    Parts<T> parts[count];
    template <class Unit>
    RECURRA_FN void add(const Unit& unit, int s, Vec<T> v) {
      constexpr int U = Vec<T>::lanes;
      if (const ptrdiff_t left = unit.call.tiles.units - unit.at; left < U) v = only(v, left);
      Vec<T>& part = parts[s].part[unit.at / U % Parts<T>::vectors];
      part = part + v;
    }
  };

  template <int count>
  RECURRA_FN Sums<count> sums() const {
    return {};
  }
  template <int count>
  RECURRA_FN void means(const Sums<count>& sums, int n, Vec<T> (&mean)[count]) const {
    for (int s = 0; s < count; ++s) mean[s] = Vec<T>(mean_of(sums.parts[s], n * ptrdiff_t(tiles.units)));
  }

  template <class Use>
  RECURRA_FN void each(const Use& use) const {
    const T* vectors = tiles.base + header;
    for (ptrdiff_t at = 0; at < tiles.units; at += Vec<T>::lanes, vectors += tiles.size) {
      auto unit = make(at, vectors);
      use(unit);
    }
  }
};

template <class T, class Make>
RECURRA_FN RowOf<T, Make> row_of(const Tiles<T>& tiles, int chains, const Make& make) {
  return {tiles, ptrdiff_t(chains) * Vec<T>::lanes, make};
}

template <class P, class T>
void forward_rows(const PhaseCall<T>& call, int first, int rows, int, int, const T*) {
  constexpr int gates = P::phase.input.count;
  for (int r = first; r < first + rows; ++r) {
    const T* const sides[] = {call.before.base ? call.before[r] : call.apart[r], call.apart[r] + gates * call.padded};
    auto row = row_of(call.tiles, P::phase.chains, [&](ptrdiff_t at, const T* vectors) {
      return ForwardRowUnit<T, gates>{{call, call.saved.base != nullptr, r, at, vectors}, sides};
    });
    P::forward(row);
  }
}

template <class P, class T>
void backward_rows(const BackwardCall<T>& call) {
  constexpr int gates = P::phase.input.count, chains = P::phase.chains;
  for (int r = 0; r < call.rows; ++r) {
    auto row = row_of(call.tiles, chains, [&](ptrdiff_t at, const T* vectors) {
      return BackwardRowUnit<T, gates>{{call, r, chains, at, vectors, Vec<T>(0)}};
    });
    P::backward(row);
  }
}
