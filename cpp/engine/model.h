// A stack of layers made ready: sizes resolved, weights packed for the backend in use.
#pragma once
#include <memory>
#include <vector>

#include "backend.h"
#include "recurra/recurra.h"

namespace recurra {

const Spec& spec_of(int cell);
int cell_number(const std::string& name);  // std::invalid_argument when there is none

namespace detail {

// Cache-line-aligned memory, zeroed.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t count);
  T* data() const { return data_.get(); }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const;
  };
  std::unique_ptr<T[], Free> data_;
  size_t size_ = 0;
};

// One phase of one layer and direction. The first `inputs` chains have an input product.
template <class T>
struct PackedPhase {
  Tiles<T> tiles;
  int tile_count = 0;
  int inputs = 0;
  bool source_in_unit_range = false;
  void (*run)(const PhaseCall<T>&) = nullptr;
  void (*input_product)(const InputCall<T>&) = nullptr;
};

template <class T>
struct PackedLayer {
  Buffer<T> weights;
  std::vector<PackedPhase<T>> phases;
};

template <class T>
struct Model {
  NetworkConfig config;
  const CellInfo* info;
  const Spec* spec;
  const Backend* backend;
  int lanes;
  std::vector<T> constants;
  std::vector<PackedLayer<T>> layers;  // [layer * directions + direction]

  Model(const NetworkConfig& config, const std::vector<std::vector<const T*>>& params);

  int64_t input_size(int layer) const { return layer ? config.directions * config.output_size : config.input_size; }
  int64_t width(Dim dim, int layer) const;
  int64_t padded(int64_t units) const { return (units + lanes - 1) / lanes * lanes; }
  int64_t padded_hidden() const { return padded(config.hidden_size); }
  int64_t padded_output() const { return padded(config.output_size); }
  double multiplications() const;  // about: of one row's step, padding counted

 private:
  void pack(PackedLayer<T>& packed, int layer, const std::vector<const T*>& params);
};

}  // namespace detail
}  // namespace recurra
