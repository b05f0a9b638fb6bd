#include "model.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

namespace recurra {
namespace detail {

constexpr std::align_val_t kCacheLine{64};

template <class T>
Buffer<T>::Buffer(size_t count) : size_(count) {
  if (count > SIZE_MAX / sizeof(T)) throw std::bad_alloc();
  data_.reset(static_cast<T*>(::operator new[](std::max<size_t>(count, 1) * sizeof(T), kCacheLine)));
  std::memset(data_.get(), 0, count * sizeof(T));
}

template <class T>
void Buffer<T>::Free::operator()(T* p) const {
  ::operator delete[](p, kCacheLine);
}

namespace {

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

// Rows of gate block g of `units` units, transposed into tiles: out[k][g][lane] for the tile's lanes.
template <class T>
void pack_product(T* out, const T* weight, const Product& product, int64_t columns, int64_t units, int64_t first_unit,
                  int lanes) {
  const int64_t valid = std::min<int64_t>(lanes, units - first_unit);
  for (int g = 0; g < product.count; ++g)
    for (int64_t lane = 0; lane < valid; ++lane) {
      const T* row = weight + ((product.first + g) * units + first_unit + lane) * columns;
      for (int64_t k = 0; k < columns; ++k) out[(k * product.count + g) * lanes + lane] = row[k];
    }
}

template <class T>
void add_bias(T* out, const T* bias, const Product& product, int64_t units, int64_t first_unit, int lanes) {
  if (!bias) return;
  const int64_t valid = std::min<int64_t>(lanes, units - first_unit);
  for (int g = 0; g < product.count; ++g)
    for (int64_t lane = 0; lane < valid; ++lane)
      out[product.chain[g] * lanes + lane] += bias[(product.first + g) * units + first_unit + lane];
}

}  // namespace

template <class T>
Model<T>::Model(const NetworkConfig& c, const std::vector<std::vector<const T*>>& params)
    : config(c), backend(&recurra::backend()), lanes(kernels<T>(*backend).lanes) {
  const int number = cell_number(config.cell);
  info = &cells()[number];
  spec = &spec_of(number);
  if (int(config.constants.size()) != spec->constants.size)
    throw std::invalid_argument("constants: wrong number for this cell");
  constants.assign(config.constants.begin(), config.constants.end());
  if (int(params.size()) != config.layers * config.directions)
    throw std::invalid_argument("params: expected one list per layer and direction");
  layers.resize(params.size());
  const Environment environment(*backend);  // packing adds biases, and the caller may round otherwise
  for (size_t i = 0; i < params.size(); ++i) pack(layers[i], int(i) / config.directions, params[i]);
}

template <class T>
int64_t Model<T>::width(Dim dim, int layer) const {
  switch (dim) {
    case Dim::input: return input_size(layer);
    case Dim::hidden: return config.hidden_size;
    case Dim::output: return config.output_size;
    case Dim::one: break;
  }
  return 1;
}

template <class T>
void Model<T>::pack(PackedLayer<T>& packed, int layer, const std::vector<const T*>& given) {
  const Parameters<T> params(*spec, given);
  const Kernels<T>& table = kernels<T>(*backend);
  const int number = cell_number(config.cell);

  std::vector<int64_t> begins;
  int64_t total = 0;
  Dim source = Dim::output;  // of the first phase: h
  for (int p = 0; p < spec->phases.size; ++p) {
    const Phase& phase = spec->phases[p];
    PackedPhase<T> out;
    out.inputs = phase.input.count;
    out.run = table.phase[number][p];
    out.input_product = table.input_product[phase.input.count];
    out.tiles.units = int(width(phase.units, layer));
    out.tiles.input_size = phase.input.count ? input_size(layer) : 0;
    out.tiles.source_size = width(source, layer);
    out.tiles.input_at = int64_t(phase.chains + phase.vector_count) * lanes;
    out.tiles.recurrent_at = out.tiles.input_at + out.tiles.input_size * phase.input.count * lanes;
    out.tiles.size = out.tiles.recurrent_at + out.tiles.source_size * phase.recurrent.count * lanes;
    out.tile_count = int(padded(out.tiles.units) / lanes);
    begins.push_back(total);
    total += out.tiles.size * out.tile_count;
    packed.phases.push_back(out);
    source = phase.units;
  }

  packed.weights = Buffer<T>(size_t(total));
  for (int p = 0; p < spec->phases.size; ++p) {
    const Phase& phase = spec->phases[p];
    Tiles<T>& tiles = packed.phases[p].tiles;
    tiles.base = packed.weights.data() + begins[p];
    for (int t = 0; t < packed.phases[p].tile_count; ++t) {
      T* tile = packed.weights.data() + begins[p] + t * tiles.size;
      const int64_t unit = int64_t(t) * lanes;
      add_bias(tile, params.find(phase.input.bias), phase.input, tiles.units, unit, lanes);
      add_bias(tile, params.find(phase.recurrent.bias), phase.recurrent, tiles.units, unit, lanes);
      const Product vectors = {phase.vectors, nullptr, 0, phase.vector_count, {0, 1, 2, 3}};
      pack_product(tile + phase.chains * lanes, params.find(phase.vectors), vectors, 1, tiles.units, unit, lanes);
      pack_product(tile + tiles.input_at, params.find(phase.input.weight), phase.input, tiles.input_size, tiles.units, unit,
                   lanes);
      pack_product(tile + tiles.recurrent_at, params.find(phase.recurrent.weight), phase.recurrent, tiles.source_size,
                   tiles.units, unit, lanes);
    }
  }
}

template <class T>
double Model<T>::multiplications() const {
  double sum = 0;
  for (const PackedLayer<T>& layer : layers)
    for (const PackedPhase<T>& phase : layer.phases) sum += double(phase.tiles.size) * phase.tile_count;
  return sum;
}

template class Buffer<float>;
template class Buffer<double>;
template class Buffer<ptrdiff_t>;
template struct Model<float>;
template struct Model<double>;

}  // namespace detail
}  // namespace recurra
