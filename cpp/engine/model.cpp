#include "model.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>

#include "pack.h"

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

Buffer<char> SpareMemory::take(size_t bytes) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  for (size_t i = 0; lock && i < blocks_.size(); ++i)
    if (blocks_[i].size() >= bytes) {
      std::swap(blocks_[i], blocks_.back());
      Buffer<char> block = std::move(blocks_.back());
      blocks_.pop_back();
      return block;
    }
  return Buffer<char>(bytes);
}

void SpareMemory::give(Buffer<char> block) {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (!lock || block.size() > kMostBytes) return;
  if (blocks_.size() < kMostBlocks) return blocks_.push_back(std::move(block));
  for (Buffer<char>& other : blocks_)
    if (other.size() < block.size()) return std::swap(other, block);
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

}  // namespace

template <class T>
Model<T>::Model(const NetworkConfig& c, const std::vector<std::vector<const T*>>& params)
    : config(c), backend(&recurra::backend()), lanes(kernels<T>(*backend).lanes) {
  const int number = cell_number(config.cell);
  info = &cells()[number];
  spec = &spec_of(number);
  if (config.precision != Precision::full && sizeof(T) != sizeof(float))
    throw std::invalid_argument("precision: only float32 networks can be reduced");
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
  const Precision precision = config.precision;
  const KernelTable<T>& table = kernels<T>(*backend).by_precision[int(precision)];
  const int number = cell_number(config.cell);

  std::vector<int64_t> begins;
  int64_t total = 0;
  Dim source = Dim::output;  // of the first phase: h
  for (int p = 0; p < spec->phases.size; ++p) {
    const Phase& phase = spec->phases[p];
    PackedPhase<T> out;
    out.inputs = phase.input.count;
    out.source_in_unit_range = spec->phases[p ? p - 1 : spec->phases.size - 1].unit_range;
    out.run = table.phase[number][p];
    out.input_product = table.input_product[phase.input.count];
    out.tiles.units = int(width(phase.units, layer));
    out.tiles.input_size = phase.input.count ? input_size(layer) : 0;
    out.tiles.source_size = width(source, layer);
    out.tiles.input_at = int64_t(phase.chains + phase.vector_count) * lanes;
    out.tiles.recurrent_at = out.tiles.input_at + product_size(precision, out.tiles.input_size, phase.input.count, lanes);
    out.tiles.size = out.tiles.recurrent_at + product_size(precision, out.tiles.source_size, phase.recurrent.count, lanes);
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
      const TileUnits units = {tiles.units, int64_t(t) * lanes, lanes};
      add_bias(tile, params.find(phase.input.bias), phase.input, units);
      add_bias(tile, params.find(phase.recurrent.bias), phase.recurrent, units);
      const Product vectors = {phase.vectors, nullptr, 0, phase.vector_count, {0, 1, 2, 3}};
      pack_product(Precision::full, tile + phase.chains * lanes, params.find(phase.vectors), vectors, 1, units);
      pack_product(precision, tile + tiles.input_at, params.find(phase.input.weight), phase.input, tiles.input_size, units);
      pack_product(precision, tile + tiles.recurrent_at, params.find(phase.recurrent.weight), phase.recurrent,
                   tiles.source_size, units);
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
template class Buffer<char>;
template struct Model<float>;
template struct Model<double>;

}  // namespace detail
}  // namespace recurra
