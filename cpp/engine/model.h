// A stack of layers, ready to run: sizes resolved, weights packed for the backend in use.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <vector>

#include "backend.h"
#include "heads.h"
#include "memory.h"
#include "recurra/recurra.h"

namespace recurra {

const Spec& spec_of(int cell);
int cell_number(const std::string& name);  // std::invalid_argument when there is none

namespace detail {

// std::invalid_argument, naming what is wrong.
void check_config(const NetworkConfig& config, const CellInfo& cell);

// Those of one direction; config.constants has them for each or for both at once.
const double* constants_of(const NetworkConfig& config, const Spec& spec, int direction);

// Divides one block of memory up, in cache lines. A first pass, without a block, finds out how much is needed.
struct Dealer {
  char* block = nullptr;
  size_t used = 0;

  template <class T>
  void take(T*& pointer, int64_t count) {
    if (block) pointer = reinterpret_cast<T*>(block + used);
    used += (size_t(count) * sizeof(T) + 63) / 64 * 64;
  }
  template <class T>
  void panel(Panel<T>& panel, ptrdiff_t stride, int64_t rows) {
    panel.stride = stride;
    take(panel.base, stride * rows);
  }
  // Blocks are a page and a cache line further apart than their size: the parts of some rows would otherwise all fall into the
  // same few sets of the first-level cache, or of the second.
  template <class T>
  void blocks(Blocks<T>& blocks, ptrdiff_t columns, int64_t rows) {
    blocks.row = blocks.width;
    blocks.stride = rows * blocks.width + (4096 + 64) / ptrdiff_t(sizeof(T));
    take(blocks.base, (columns + blocks.width - 1) / blocks.width * blocks.stride);
  }
};

// Aligned as numbers are, at least, which GCC 10 forgets of a type inside of a template.
typedef char Line __attribute__((vector_size(64), aligned(4), may_alias));

// Copies a row into the blocks it belongs to, whole blocks line by line: GCC turns a memcpy this short into a `rep movsq`,
// which took more than twice as long (bench/NOTES.md). Always inline: files that are compiled for size have copies of their
// own.
template <class T>
__attribute__((always_inline)) inline void copy_row(const Blocks<T>& to, int64_t row, const T* from, int64_t size) {
  constexpr int64_t width = Blocks<T>::width, lines = width * int64_t(sizeof(T)) / 64;
  int64_t at = 0;
  for (; at + width <= size; at += width) {
    Line* const block = reinterpret_cast<Line*>(to.at(row, at));
    const Line* const source = reinterpret_cast<const Line*>(from + at);
#pragma GCC unroll 8
    for (int64_t line = 0; line < lines; ++line) block[line] = source[line];
  }
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  for (; at + line <= size; at += line) *reinterpret_cast<Line*>(to.at(row, at)) = *reinterpret_cast<const Line*>(from + at);
  if (at < size) std::memcpy(to.at(row, at), from + at, size_t(size - at) * sizeof(T));
}

// One phase of one layer and direction. The first `inputs` chains have an input product.
template <class T>
struct PackedPhase {
  Tiles<T> tiles;
  int tile_count = 0;
  int inputs = 0;
  std::vector<HeadTiles> heads;  // of a block-diagonal weight, whose tiles hold what they meet; else empty
  int reduced_bytes = 0;         // of a number of a reduced source
  bool source_in_unit_range = false;
  bool by_rows = false;
  void (*run)(const PhaseCall<T>&) = nullptr;
  const Finish<T>* finish = nullptr;  // without saving, and with
  void (*input_product)(const InputCall<T>&) = nullptr;

  // use(call) for all tiles of the call, or for those that meet the same part of the source.
  template <class Use>
  void each_call(const PhaseCall<T>& all, const Use& use) const {
    if (heads.empty()) return use(all);
    each_head_tiles(heads, all, [&](PhaseCall<T>& call, const Span& meet) {
      call.tiles.source_size = meet.size();
      call.source.rows.base += meet.begin;
      if (call.source.reduced.base) call.source.reduced.base += meet.begin * reduced_bytes;
      use(call);
      call.source = all.source;
    });
  }
};

template <class T>
struct PackedLayer {
  Buffer<T> weights;
  Precision precision = Precision::full;
  std::vector<PackedPhase<T>> phases;
  std::vector<std::vector<T>> columns;  // parameters of one, as given: tiles have sums of biases. By number; empty: none
  std::vector<T> constants;
};

struct TileProduct {
  Product product;
  ptrdiff_t at;
  Precision precision;
  int64_t columns;
  const std::vector<HeadTiles>* heads;  // null for a dense one
};
constexpr int kTileProducts = 8;  // of a phase, at the most

// The same weights for backward: tiles over the numbers of a product's vector, [gate][unit][lane].
template <class T>
struct TransposedPhase {
  Tiles<T> input, recurrent;     // `units` of a tile are those numbers
  std::vector<HeadTiles> heads;  // as of PackedPhase, of the recurrent tiles
};

template <class T>
struct TransposedLayer {
  Buffer<T> weights;
  std::vector<TransposedPhase<T>> phases;
};

template <class T>
struct Model {
  NetworkConfig config;
  SpareMemory* const spare = &SpareMemory::of_process();
  const CellInfo* info;
  const Spec* spec;
  const Backend* backend;
  int lanes;
  std::vector<PackedLayer<T>> layers;  // [layer * directions + direction]

  Model(const NetworkConfig& config, const std::vector<std::vector<const T*>>& params);
  ~Model();

  int64_t input_size(int layer) const { return layer ? config.directions * config.output_size : config.input_size; }
  int64_t width(Dim dim, int layer) const;
  Heads heads() const { return {config.hidden_size, config.heads}; }
  int64_t padded(int64_t units) const { return (units + lanes - 1) / lanes * lanes; }
  int64_t padded_hidden() const { return padded(config.hidden_size); }
  int64_t apart_width() const {  // of PhaseCall::apart
    return spec->phases[0].by_rows ? spec->phases[0].chains * padded_hidden() : 0;
  }
  int64_t padded_output() const { return padded(config.output_size); }
  double multiplications() const;  // about: of one row's step, padding counted
  void get_parameter(size_t layer, int number, T* out) const;
  const std::vector<TransposedLayer<T>>& transposed() const;  // made at the first call

 private:
  void lay_out(PackedLayer<T>& packed, int layer) const;
  void pack(PackedLayer<T>& packed, int layer, std::vector<const T*> params) const;
  std::array<TileProduct, kTileProducts> products_of(const PackedLayer<T>& packed, int phase) const;
  template <class Use>
  void each_tile(const PackedLayer<T>& packed, int part, int parts, const Use& use) const;
  TransposedLayer<T> transpose(const PackedLayer<T>& packed) const;
  void transpose_heads(TransposedPhase<T>& to, const PackedPhase<T>& from, int gates) const;

  mutable std::atomic<const std::vector<TransposedLayer<T>>*> transposed_{nullptr};  // owned
};

}  // namespace detail
}  // namespace recurra
