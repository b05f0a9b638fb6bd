#include "model.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "../threads/team.h"
#include "pack.h"
#include "transpose.h"
#include "worth.h"

namespace recurra {
namespace detail {

namespace {

template <class T>
bool all_finite(const T* values, int64_t count) {
  return std::all_of(values, values + count, [](T value) { return std::isfinite(value); });
}

template <class T>
class Parameters {
 public:
  Parameters(const Spec& spec, const std::vector<const T*>& params) : spec_(spec), params_(params) {
    if (int(params.size()) != spec.params.size) throw std::invalid_argument("params: wrong number of parameters for this cell");
  }
  const T* find(const char* name) const {
    for (int i = 0; name && i < spec_.params.size; ++i)
      if (std::strcmp(name, spec_.params[i].name) == 0) return params_[i];
    return nullptr;
  }

 private:
  const Spec& spec_;
  const std::vector<const T*>& params_;
};

bool is_block_diagonal(const Spec& spec, const Product& product) {
  for (int i = 0; product.weight && i < spec.params.size; ++i)
    if (std::strcmp(product.weight, spec.params[i].name) == 0) return spec.params[i].cols == Dim::head;
  return false;
}

}  // namespace

// A call from C++ has not been checked by anyone before it reaches the engine.
void check_config(const NetworkConfig& c, const CellInfo& cell) {
  const auto expect = [](bool good, const char* name, const std::string& expected, auto got) {
    if (!good) throw std::invalid_argument(std::string(name) + ": expected " + expected + ", got " + std::to_string(got));
  };
  const bool int8 = c.precision == Precision::int8;
  const bool first_kept = std::find(c.kept.begin(), c.kept.end(), 0) != c.kept.end();
  const auto expect_size = [&](const char* name, int64_t size, bool meets_int8) {
    expect(size >= 1 && size <= INT_MAX, name, "1 to 2^31 - 1", size);
    expect(!meets_int8 || size <= kMostInt8Columns, name,
           "at most " + std::to_string(kMostInt8Columns) + " for int8, whose sums are 32-bit integers", size);
  };
  expect_size("input_size", c.input_size, int8 && !first_kept);
  expect_size("hidden_size", c.hidden_size, int8);
  expect_size("output_size", c.output_size, int8);
  expect(cell.projected || c.output_size == c.hidden_size, "output_size", "hidden_size without a projection", c.output_size);
  expect(c.layers >= 1 && c.layers <= INT_MAX / 2, "layers", "1 to 2^30 - 1", c.layers);
  expect(c.directions == 1 || c.directions == 2, "directions", "1 or 2", c.directions);
  expect(!c.reverse || c.directions == 1, "directions", "1 with reverse", c.directions);
  if (c.layers > 1) expect_size("directions * output_size", c.directions * c.output_size, int8);
  expect(c.heads == 1 || cell.has_heads, "heads", "1 for cell '" + cell.name + "', which has none", c.heads);
  expect(c.heads >= 1 && c.hidden_size % c.heads == 0, "heads", "a divisor of hidden_size=" + std::to_string(c.hidden_size),
         c.heads);
  const size_t constants = cell.constants.size();
  expect(c.constants.size() == constants || c.constants.size() == constants * size_t(c.directions), "constants",
         std::to_string(constants) + " of all directions or of each", c.constants.size());
  const Spec& spec = spec_of(cell_number(c.cell));
  for (size_t i = 0; i < c.constants.size(); ++i) {
    const Constant& constant = spec.constants[int(i % constants)];
    const double most = double(activations().size()) - 1, value = c.constants[i];
    if (constant.chooses_activation)
      expect(value >= 0 && value <= most && value == std::floor(value), constant.name, "the number of an activation", value);
  }
  const Regularization& r = c.regularization;
  const auto expect_chance = [&](const std::string& name, double chance) {
    expect(chance >= 0 && chance <= 1, name.c_str(), "a number in 0 .. 1", chance);
  };
  expect_chance("dropout", r.dropout);
  expect_chance("recurrent_dropout", r.recurrent_dropout);
  for (int s = 0; s < kMaxStates; ++s) expect_chance("zoneout[" + std::to_string(s) + "]", r.zoneout[s]);
  expect(cell.recurrent_product || r.recurrent_dropout == 0, "recurrent_dropout",
         "0 for cell '" + cell.name + "', which has no recurrent product", r.recurrent_dropout);
}

const double* constants_of(const NetworkConfig& config, const Spec& spec, int direction) {
  const size_t count = size_t(spec.constants.size);
  return config.constants.data() + (config.constants.size() > count ? size_t(direction) * count : 0);
}

template <class T>
Model<T>::Model(const NetworkConfig& c, const std::vector<std::vector<const T*>>& params)
    : config(c), backend(&recurra::backend()), lanes(kernels<T>(*backend).lanes) {
  const Environment environment(*backend);  // constants and biases are rounded, and the caller's rounding mode may differ
  const int number = cell_number(config.cell);
  info = &cells()[number];
  spec = &spec_of(number);
  check_config(config, *info);
  if (config.precision != Precision::full && sizeof(T) != sizeof(float))
    throw std::invalid_argument("precision: only float32 networks can be reduced");
  if (int(params.size()) != config.layers * config.directions)
    throw std::invalid_argument("params: expected one list per layer and direction");
  for (const int layer : config.kept)
    if (layer < 0 || layer >= config.layers)
      throw std::invalid_argument("kept: expected layers from 0 to " + std::to_string(config.layers - 1) + ", got " +
                                  std::to_string(layer));
  layers.resize(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    const double* constants = constants_of(config, *spec, int(i) % config.directions);
    layers[i].constants.assign(constants, constants + spec->constants.size);
    lay_out(layers[i], int(i) / config.directions);
    pack(layers[i], int(i) / config.directions, params[i]);
  }
}

template <class T>
int64_t Model<T>::width(Dim dim, int layer) const {
  switch (dim) {
    case Dim::input: return input_size(layer);
    case Dim::hidden: return config.hidden_size;
    case Dim::output: return config.output_size;
    case Dim::head: return heads().size();
    case Dim::one: break;
  }
  return 1;
}

template <class T>
void Model<T>::lay_out(PackedLayer<T>& packed, int layer) const {
  const bool kept = std::find(config.kept.begin(), config.kept.end(), layer) != config.kept.end();
  const Precision precision = packed.precision = kept ? Precision::full : config.precision;
  const KernelTable<T>& table = kernels<T>(*backend).by_precision[int(precision)];
  const int number = cell_number(config.cell);
  if (!table.phase[number][0]) left_out("precision");

  int64_t total = 0;
  Dim source = Dim::output;  // of the first phase: h
  for (int p = 0; p < spec->phases.size; ++p) {
    const Phase& phase = spec->phases[p];
    PackedPhase<T> out;
    out.inputs = phase.input.count;
    out.by_rows = phase.by_rows;
    out.source_in_unit_range = spec->phases[p ? p - 1 : spec->phases.size - 1].unit_range;
    out.run = table.phase[number][p];
    out.finish = kernels<T>(*backend).finish[number][p];
    out.input_product = table.input_product[phase.input.count];
    out.tiles.units = int(width(phase.units, layer));
    out.tiles.input_size = phase.input.count ? input_size(layer) : 0;
    out.tiles.source_size = phase.recurrent.count ? width(source, layer) : 0;
    if (config.heads > 1 && is_block_diagonal(*spec, phase.recurrent))
      out.heads = head_tiles(heads(), lanes, kHeadGroup<T>, kHeadStep);
    out.reduced_bytes = backend->reduced_bytes[int(precision)];
    const int64_t met = out.heads.empty() ? out.tiles.source_size : most_met(out.heads);
    out.tiles.input_at = int64_t(phase.chains + phase.vector_count) * lanes;
    out.tiles.recurrent_at = out.tiles.input_at + product_size(precision, out.tiles.input_size, phase.input.count, lanes);
    out.tiles.size = out.tiles.recurrent_at + product_size(precision, met, phase.recurrent.count, lanes);
    out.tile_count = int(padded(out.tiles.units) / lanes);
    total += out.tiles.size * out.tile_count;
    packed.phases.push_back(out);
    source = phase.units;
  }

  packed.weights = Buffer<T>(size_t(total), false);
  T* at = packed.weights.data();
  for (PackedPhase<T>& phase : packed.phases) {
    phase.tiles.base = at;
    at += phase.tiles.size * phase.tile_count;
  }
}

// A tile's products, where they lie in it, and of how many columns.
template <class T>
std::array<TileProduct, kTileProducts> Model<T>::products_of(const PackedLayer<T>& packed, int p) const {
  const Phase& phase = spec->phases[p];
  const Tiles<T>& tiles = packed.phases[size_t(p)].tiles;
  const Product vectors = {phase.vectors, nullptr, 0, phase.vector_count, {0, 1, 2, 3}};
  const std::vector<HeadTiles>& heads = packed.phases[size_t(p)].heads;
  std::array<TileProduct, kTileProducts> all = {
      {{vectors, phase.chains * ptrdiff_t(lanes), Precision::full, 1, nullptr},
       {phase.input, tiles.input_at, packed.precision, tiles.input_size, nullptr},
       {phase.recurrent, tiles.recurrent_at, packed.precision, tiles.source_size, heads.empty() ? nullptr : &heads}}};
  for (int i = 0; i < phase.rest.size; ++i) all[size_t(3 + i)] = {phase.rest[i], 0, Precision::full, 0, nullptr};
  return all;
}

// Every parts-th tile: use(tile, its phase, its units).
template <class T>
template <class Use>
void Model<T>::each_tile(const PackedLayer<T>& packed, int part, int parts, const Use& use) const {
  T* tile = packed.weights.data();
  for (int p = 0; p < spec->phases.size; ++p) {
    const Tiles<T>& tiles = packed.phases[size_t(p)].tiles;
    for (int t = 0; t < packed.phases[size_t(p)].tile_count; ++t, tile += tiles.size)
      if (t % parts == part) use(tile, p, TileUnits{tiles.units, int64_t(t) * lanes, lanes});
  }
}

template <class T>
void Model<T>::pack(PackedLayer<T>& packed, int layer, std::vector<const T*> given) const {
  const Parameters<T> params(*spec, given);
  packed.columns.resize(given.size());
  for (size_t i = 0; i < given.size(); ++i) {
    const Param& param = spec->params[int(i)];
    if (!given[i] && !param.is_bias) throw std::invalid_argument(std::string(param.name) + ": expected values, got null");
    const int64_t count = param.blocks * width(param.rows, layer) * width(param.cols, layer);
    if (packed.precision == Precision::int8 && param.cols != Dim::one && !all_finite(given[i], count))
      throw std::invalid_argument(std::string(param.name) + ": expected finite values for int8");
    if (param.cols != Dim::one || !given[i]) continue;
    packed.columns[i].assign(given[i], given[i] + count);
    given[i] = packed.columns[i].data();  // what is packed is what will be given back, whatever the caller writes meanwhile
  }
  TeamLease team(int64_t(packed.weights.size()) < kWorthPacking ? 1 : num_threads());
  auto job = [&](int worker) {
    const Environment environment(*backend);
    each_tile(packed, worker, team.size(), [&](T* tile, int p, const TileUnits& units) {
      const Tiles<T>& tiles = packed.phases[size_t(p)].tiles;
      std::fill_n(tile, units.valid() < lanes ? tiles.size : tiles.input_at, T(0));  // what is added to, or left out
      for (const TileProduct& part : products_of(packed, p)) {
        add_bias(tile, params.find(part.product.bias), part.product, units);
        const T* weight = params.find(part.product.weight);
        if (weight && part.heads)
          pack_heads(part.precision, tile + part.at, weight, part.product, heads(), met_by(*part.heads, units), units);
        else if (weight)
          pack_product(part.precision, tile + part.at, weight, part.product, part.columns, units);
      }
    });
  };
  team.run(job);
}

template <class T>
void Model<T>::get_parameter(size_t layer, int number, T* out) const {
  const PackedLayer<T>& packed = layers[layer];
  const Param& param = spec->params[number];
  if (param.cols == Dim::one) {
    std::copy(packed.columns[size_t(number)].begin(), packed.columns[size_t(number)].end(), out);
    return;
  }
  each_tile(packed, 0, 1, [&](const T* tile, int p, const TileUnits& units) {
    for (const TileProduct& part : products_of(packed, p)) {
      if (!part.product.weight || std::strcmp(part.product.weight, param.name) != 0) continue;
      if (part.precision != Precision::full) throw std::logic_error("reduced weights do not tell what they were made of");
      if (part.heads)
        unpack_heads(out, tile + part.at, part.product, heads(), met_by(*part.heads, units), units);
      else
        unpack_product(out, tile + part.at, part.product, part.columns, units);
    }
  });
}

// Threads that get here at the same time each make the tiles, and the first result is kept: with a lock, a child forked
// meanwhile would wait for ever for a thread that it does not have.
template <class T>
const std::vector<TransposedLayer<T>>& Model<T>::transposed() const {
  const std::vector<TransposedLayer<T>>* kept = transposed_.load(std::memory_order_acquire);
  if (kept) return *kept;
  auto made = std::make_unique<std::vector<TransposedLayer<T>>>();
  for (const PackedLayer<T>& packed : layers) made->push_back(transpose(packed));
  return transposed_.compare_exchange_strong(kept, made.get(), std::memory_order_acq_rel) ? *made.release() : *kept;
}

template <class T>
Model<T>::~Model() {
  delete transposed_.load(std::memory_order_relaxed);
}

namespace {

template <class T>
int64_t tiles_of(const Tiles<T>& tiles, int lanes) {
  return (tiles.units + lanes - 1) / lanes;
}

// Weight k of gate g and unit u, from one order of tiles to the other, `lanes` k and `lanes` units at a time.
template <class T>
void transpose_product(T* out, const Tiles<T>& to, const Tiles<T>& from, ptrdiff_t at, int gates, int lanes) {
  for (int64_t tile = 0; tile < tiles_of(from, lanes); ++tile) {
    const int64_t valid = std::min<int64_t>(lanes, from.units - tile * lanes);
    for (int64_t k = 0; k < to.units; k += lanes)
      for (int g = 0; g < gates; ++g)
        transpose(out + k / lanes * to.size + (g * int64_t(from.units) + tile * lanes) * lanes, lanes,
                  from.base + tile * from.size + at + (k * gates + g) * lanes, gates * lanes,
                  std::min<int64_t>(lanes, to.units - k), valid);
  }
}

}  // namespace

template <class T>
void Model<T>::transpose_heads(TransposedPhase<T>& to, const PackedPhase<T>& from, int gates) const {
  T* const base = const_cast<T*>(to.recurrent.base);
  for (int64_t unit = 0; unit < from.tiles.units; ++unit) {
    const Span own = heads().of(unit), met = met_by(from.heads, {from.tiles.units, unit, lanes});
    const T* weights = from.tiles.base + unit / lanes * from.tiles.size + from.tiles.recurrent_at + unit % lanes;
    for (int64_t k = own.begin; k < own.end; ++k) {
      const Span units = met_by(to.heads, {from.tiles.units, k, lanes});
      T* const out = base + k / lanes * to.recurrent.size + k % lanes;
      for (int g = 0; g < gates; ++g)
        out[(g * units.size() + unit - units.begin) * lanes] = weights[((k - met.begin) * gates + g) * lanes];
    }
  }
}

template <class T>
TransposedLayer<T> Model<T>::transpose(const PackedLayer<T>& packed) const {
  TransposedLayer<T> out;
  int64_t total = 0;
  const auto lay_out = [&](Tiles<T>& tiles, int64_t units, int64_t columns, int gates) {
    tiles.units = int(columns);
    tiles.size = int64_t(gates) * units * lanes;
    total += tiles.size * tiles_of(tiles, lanes);
  };
  for (int p = 0; p < spec->phases.size; ++p) {
    const Tiles<T>& from = packed.phases[size_t(p)].tiles;
    out.phases.emplace_back();
    TransposedPhase<T>& to = out.phases.back();
    if (!packed.phases[size_t(p)].heads.empty()) to.heads = head_tiles(heads(), lanes, kHeadGroup<T>, Blocks<T>::width);
    lay_out(to.input, from.units, from.input_size, spec->phases[p].input.count);
    lay_out(to.recurrent, to.heads.empty() ? from.units : most_met(to.heads), from.source_size,
            spec->phases[p].recurrent.count);
  }
  out.weights = Buffer<T>(size_t(total));
  T* at = out.weights.data();
  for (int p = 0; p < spec->phases.size; ++p) {
    const Tiles<T>& from = packed.phases[size_t(p)].tiles;
    TransposedPhase<T>& to = out.phases[size_t(p)];
    to.input.base = at;
    transpose_product(at, to.input, from, from.input_at, spec->phases[p].input.count, lanes);
    at += to.input.size * tiles_of(to.input, lanes);
    to.recurrent.base = at;
    if (to.heads.empty())
      transpose_product(at, to.recurrent, from, from.recurrent_at, spec->phases[p].recurrent.count, lanes);
    else
      transpose_heads(to, packed.phases[size_t(p)], spec->phases[p].recurrent.count);
    at += to.recurrent.size * tiles_of(to.recurrent, lanes);
  }
  return out;
}

template <class T>
double Model<T>::multiplications() const {
  double sum = 0;
  for (const PackedLayer<T>& layer : layers)
    for (const PackedPhase<T>& phase : layer.phases) sum += double(phase.tiles.size) * phase.tile_count;
  return sum;
}

template struct Model<float>;
template struct Model<double>;

}  // namespace detail
}  // namespace recurra
