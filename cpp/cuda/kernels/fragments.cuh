// A matrix of 16-bit numbers for the tensor cores, in place of Columns (columns.cuh): a warp has tiles of 16 columns as operand
// A of mma.m16n8k16, and the rows of a block are the 8 columns of operand B. Sums are float, their order is the hardware's.
// Sources go in slabs of 32, two products each. Which of a slab's numbers a product calls its k is free, so a lane's eight of
// each column and row are those that lie side by side: one load.
#pragma once
#include "cuda/kernels/columns.cuh"

namespace recurra {
namespace cuda {

template <class T>
constexpr bool kIsHalf = false;
template <>
constexpr bool kIsHalf<half> = true;

template <int per_thread, int held>
struct Fragments {
  // Of a thread: two columns of each tile, weights of a column in registers, rows.
  static constexpr int kColumns = per_thread, kTiles = per_thread / 2, kHeld = held / kSlab, kOwnRows = 2;
  // A product waits for the one before that adds to the same sums: one tile alone has two sums, to be added at last.
  static constexpr int kChains = kTiles == 1 ? 2 : 1;

  const int columns, sources;  // of the block
  Number* const rest;          // weights that registers have no room for, as Words [slab][tile][product][lane]
  uint32_t weights[kTiles + 1][kHeld + 1][8];

  static __forceinline__ int lane() { return int(threadIdx.x) % 32; }
  static __forceinline__ int tile(int t) { return int(threadIdx.x / 32) + t * int(blockDim.x / 32); }
  static __forceinline__ int column(int c) { return 16 * tile(c / 2) + lane() / 4 + 8 * (c % 2); }
  static __forceinline__ int row(int r) { return lane() % 4 * 2 + r; }
  bool has_none() const { return !kColumns || 16 * tile(0) >= columns; }  // nor has the warp
  int tiles() const { return (columns + 15) / 16; }
  int slabs() const { return (sources + kSlab - 1) / kSlab; }
  __forceinline__ Words& in_memory(int slab, int t, int product) const {
    return reinterpret_cast<Words*>(rest)[(((slab - kHeld) * tiles() + tile(t)) * 2 + product) * 32 + lane()];
  }

  // weight(c, source) of column(c), of so many sources, and zeros.
  template <class Load>
  __forceinline__ void load(int count, const Load& weight) {
    // One slab after another, which the compiler must not mix: it has no registers for the loads of all.
    RECURRA_ROLLED
    for (int s = 0; s < slabs(); ++s) {
      RECURRA_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        RECURRA_UNROLL
        for (int i = 0; i < 8; ++i) {
          const int c = 2 * t + i % 2, k = kSlab * s + lane() % 4 * 8 + i / 2 * 2;
          const auto one = [&](int at) { return column(c) < columns && at < count ? uint32_t(weight(c, at).bits) : 0u; };
          const uint32_t two = one(k) | one(k + 1) << 16;
          RECURRA_UNROLL
          for (int h = 0; h < kHeld; ++h) weights[t][h][i] = h == s ? two : weights[t][h][i];
          if (s >= kHeld && tile(t) < tiles()) in_memory(s, t, i / 4).v[i % 4] = two;
        }
      }
    }
  }

  // sum[c][r] += row(r) of `source` times column(c).
  __forceinline__ void add(V (&sum)[kColumns + 1][kOwnRows], const Weight* source) const {
    __syncwarp();  // the tensor cores ask that threads of a warp come to them together
    float made[kTiles + 1][kChains][4] = {};
    const Weight* const from = source + lane() / 4 * source_row(sources, held) + lane() % 4 * 8;
    const auto numbers = [&](int slab) { return *reinterpret_cast<const Words*>(from + kSlab * slab); };
    const auto multiply = [&](int t, int product, const uint32_t* weight, const Words& x) {
      multiply_fragments<kIsHalf<Weight>>(made[t][product % kChains], weight, x.v[2 * product], x.v[2 * product + 1]);
    };
    RECURRA_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i) made[t][0][i] = sum[2 * t + i / 2][i % 2].v;
    }
    RECURRA_UNROLL
    for (int s = 0; s < kHeld; ++s) {
      const Words x = numbers(s);
      RECURRA_UNROLL
      for (int product = 0; product < 2; ++product) {
        RECURRA_UNROLL
        for (int t = 0; t < kTiles; ++t) multiply(t, product, &weights[t][s][4 * product], x);
      }
    }
    for (int s = kHeld; s < slabs(); ++s) {
      const Words x = numbers(s);
      RECURRA_UNROLL
      for (int product = 0; product < 2; ++product) {
        RECURRA_UNROLL
        for (int t = 0; t < kTiles; ++t) {
          if (tile(t) >= tiles()) continue;
          const Words w = in_memory(s, t, product);
          multiply(t, product, w.v, x);
        }
      }
    }
    RECURRA_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i)
        sum[2 * t + i / 2][i % 2] = V(kChains == 1 ? made[t][0][i] : made[t][0][i] + made[t][kChains - 1][i]);
    }
  }
};

// Of numbers with as many bits as their sums, or fewer.
template <bool narrow>
struct MatrixOf {
  template <int per_thread, int held>
  using type = Columns<per_thread, held>;
};
template <>
struct MatrixOf<true> {
  template <int per_thread, int held>
  using type = Fragments<per_thread, held>;
};

}  // namespace cuda
}  // namespace recurra
