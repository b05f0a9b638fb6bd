// Weights into tiles, in the forms that the kernels read (cpu/weights.h).
#pragma once
#include <cstdint>

#include "backend.h"
#include "heads.h"
#include "recurra/recurra.h"

namespace recurra {
namespace detail {

// A sum of so many products of int8 numbers, 127 * 127 each at the most, is within 32 bits; unsigned bytes, of which one
// instruction set makes its products, lead there and back without loss.
constexpr int64_t kMostInt8Columns = INT32_MAX / (127 * 127);

// Numbers of type T that one tile needs for a product of `gates` gate blocks.
int64_t product_size(Precision precision, int64_t columns, int gates, int lanes);

// The units of one tile: first .. first + lanes - 1, of which those below `units` exist; the others are zeros already.
struct TileUnits {
  int64_t units;
  int64_t first;
  int lanes;

  int64_t valid() const { return units - first < lanes ? units - first : lanes; }
};

// The product's gate blocks of `weight` [blocks * units, columns]. Reduced precision needs T = float; int8, finite numbers.
template <class T>
void pack_product(Precision precision, T* out, const T* weight, const Product& product, int64_t columns, const TileUnits& tile);

// The reverse, in full precision.
template <class T>
void unpack_product(T* weight, const T* packed, const Product& product, int64_t columns, const TileUnits& tile);

// The same of a block-diagonal weight [blocks * units, units of a head], as a product with what the tile meets.
template <class T>
void pack_heads(Precision precision, T* out, const T* weight, const Product& product, const Heads& heads, const Span& met,
                const TileUnits& tile);
template <class T>
void unpack_heads(T* weight, const T* packed, const Product& product, const Heads& heads, const Span& met,
                  const TileUnits& tile);

// What the tile meets.
inline Span met_by(const std::vector<HeadTiles>& all, const TileUnits& tile) {
  size_t i = 0;
  while (tile.first / tile.lanes >= all[i].end) ++i;
  return all[i].meet;
}

// Adds the product's gate blocks of `bias` [blocks * units], or nothing when it is null, to their chains.
template <class T>
void add_bias(T* out, const T* bias, const Product& product, const TileUnits& tile);

}  // namespace detail
}  // namespace recurra
