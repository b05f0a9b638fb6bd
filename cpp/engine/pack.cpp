#include "pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "transpose.h"

namespace recurra {
namespace detail {
namespace {

// Numbers packed into one word of a tile.
int per_word(Precision precision) { return precision == Precision::int8 ? 4 : precision == Precision::bfloat16 ? 2 : 1; }

float as_number(uint32_t word) {
  float number;
  std::memcpy(&number, &word, sizeof number);
  return number;
}

// The nearest bfloat16, ties to even, as its 16 bits.
uint32_t bfloat16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (std::isnan(x)) return bits >> 16 | 0x40;  // a NaN must not round to infinity
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// Word i of a packed row: its numbers 2 i and 2 i + 1.
float bfloat16_word(const float* row, int64_t columns, int64_t i) {
  const uint32_t lower = bfloat16_bits(row[2 * i]);
  const uint32_t upper = 2 * i + 1 < columns ? bfloat16_bits(row[2 * i + 1]) : 0;
  return as_number(upper << 16 | lower);
}

float int8_scale(const float* row, int64_t columns) {
  float most = 0;
  for (int64_t k = 0; k < columns; ++k) most = std::max(most, std::fabs(row[k]));
  return most / 127.0f;
}

// Four numbers to a word, the first in its lowest byte; then the scale; then -128 times the sum.
void pack_int8_row(float* out, const float* row, int64_t columns, int stride, int64_t words) {
  const float scale = int8_scale(row, columns);
  int32_t sum = 0;
  for (int64_t i = 0; i < words; ++i) {
    uint32_t word = 0;
    for (int64_t k = 4 * i; k < std::min(columns, 4 * i + 4); ++k) {
      const int q = scale > 0 ? int(std::clamp(std::nearbyint(row[k] / scale), -127.0f, 127.0f)) : 0;
      word |= uint32_t(uint8_t(q)) << 8 * (k - 4 * i);
      sum += q;
    }
    out[i * stride] = as_number(word);
  }
  out[words * stride] = scale;
  out[(words + 1) * stride] = as_number(uint32_t(-128) * uint32_t(sum));  // modulo 2^32, as the sums that begin with it
}

void pack_row(Precision precision, float* out, const float* row, int64_t columns, int stride, int64_t words) {
  if (precision == Precision::bfloat16) {
    for (int64_t i = 0; i < words; ++i) out[i * stride] = bfloat16_word(row, columns, i);
  } else {
    pack_int8_row(out, row, columns, stride, words);
  }
}

void pack_row(Precision, double*, const double*, int64_t, int, int64_t) {
  throw std::invalid_argument("precision: only float32 networks can be reduced");
}

}  // namespace

int64_t product_size(Precision precision, int64_t columns, int gates, int lanes) {
  const int numbers = per_word(precision);
  const int64_t words = (columns + numbers - 1) / numbers;
  return (words + (precision == Precision::int8 ? 2 : 0)) * gates * lanes;  // int8: a scale and a sum per unit
}

template <class T>
void pack_product(Precision precision, T* out, const T* weight, const Product& product, int64_t columns,
                  const TileUnits& tile) {
  const int stride = product.count * tile.lanes;
  const int64_t words = (columns + per_word(precision) - 1) / per_word(precision), valid = tile.valid();
  for (int g = 0; g < product.count; ++g) {
    const T* rows = weight + ((product.first + g) * tile.units + tile.first) * columns;
    T* to = out + g * tile.lanes;
    if (precision == Precision::full)
      transpose(to, stride, rows, columns, valid, columns);
    else
      for (int64_t lane = 0; lane < valid; ++lane)
        pack_row(precision, to + lane, rows + lane * columns, columns, stride, words);
  }
}

template <class T>
void unpack_product(T* weight, const T* packed, const Product& product, int64_t columns, const TileUnits& tile) {
  for (int g = 0; g < product.count; ++g)
    transpose(weight + ((product.first + g) * tile.units + tile.first) * columns, columns, packed + g * tile.lanes,
              product.count * tile.lanes, columns, tile.valid());
}

namespace {

// A tile's rows of a block-diagonal weight, one gate block after another, over the units `met`: use(in the weight, there).
template <class Use>
void each_head_row(const Product& product, const Heads& heads, const Span& met, const TileUnits& tile, const Use& use) {
  for (int64_t row = 0; row < product.count * tile.valid(); ++row) {
    const int64_t unit = tile.first + row % tile.valid(), block = product.first + row / tile.valid();
    use((block * tile.units + unit) * heads.size(), row * met.size() + heads.of(unit).begin - met.begin);
  }
}

Product from_first(Product product) {
  product.first = 0;
  return product;
}

}  // namespace

template <class T>
void pack_heads(Precision precision, T* out, const T* weight, const Product& product, const Heads& heads, const Span& met,
                const TileUnits& tile) {
  std::vector<T> rows(size_t(product.count * tile.valid() * met.size()));
  each_head_row(product, heads, met, tile,
                [&](int64_t from, int64_t to) { std::copy_n(weight + from, heads.size(), rows.data() + to); });
  pack_product(precision, out, rows.data(), from_first(product), met.size(), {tile.valid(), 0, tile.lanes});
}

template <class T>
void unpack_heads(T* weight, const T* packed, const Product& product, const Heads& heads, const Span& met,
                  const TileUnits& tile) {
  std::vector<T> rows(size_t(product.count * tile.valid() * met.size()));
  unpack_product(rows.data(), packed, from_first(product), met.size(), {tile.valid(), 0, tile.lanes});
  each_head_row(product, heads, met, tile,
                [&](int64_t to, int64_t from) { std::copy_n(rows.data() + from, heads.size(), weight + to); });
}

template <class T>
void add_bias(T* out, const T* bias, const Product& product, const TileUnits& tile) {
  if (!bias) return;
  for (int g = 0; g < product.count; ++g)
    for (int64_t lane = 0; lane < tile.valid(); ++lane)
      out[product.chain[g] * tile.lanes + lane] += bias[(product.first + g) * tile.units + tile.first + lane];
}

template void pack_product(Precision, float*, const float*, const Product&, int64_t, const TileUnits&);
template void pack_product(Precision, double*, const double*, const Product&, int64_t, const TileUnits&);
template void unpack_product(float*, const float*, const Product&, int64_t, const TileUnits&);
template void unpack_product(double*, const double*, const Product&, int64_t, const TileUnits&);
template void pack_heads(Precision, float*, const float*, const Product&, const Heads&, const Span&, const TileUnits&);
template void pack_heads(Precision, double*, const double*, const Product&, const Heads&, const Span&, const TileUnits&);
template void unpack_heads(float*, const float*, const Product&, const Heads&, const Span&, const TileUnits&);
template void unpack_heads(double*, const double*, const Product&, const Heads&, const Span&, const TileUnits&);
template void add_bias(float*, const float*, const Product&, const TileUnits&);
template void add_bias(double*, const double*, const Product&, const TileUnits&);

}  // namespace detail
}  // namespace recurra
