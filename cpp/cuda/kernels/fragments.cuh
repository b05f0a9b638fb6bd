// A matrix of 16-bit numbers for the tensor cores, in place of Columns (columns.cuh): a warp has tiles of 16 columns as operand
// A of mma.m16n8k16, and the rows of a block are the 8 columns of operand B. Sums are float, their order is the hardware's.
// Where there are few tiles, several warps share one: each has every so many-th slab, and the first adds up what all have.
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

template <int per_thread, int held, int warps>
struct Fragments {
  // Of a thread: two columns of each tile, weights of a column in registers, rows.
  static constexpr int kColumns = per_thread, kTiles = per_thread / 2, kHeld = held / kSlab / warps, kOwnRows = 2;
  static_assert(warps == 1 || kTiles == 1, "warps that share a tile have no other");
  // A product waits for the one before that adds to the same sums: one tile alone has two sums, to be added at last.
  static constexpr int kChains = kTiles == 1 ? 2 : 1;

  const int columns, sources;  // of the block
  Number* const rest;          // weights that registers have no room for, as Words [slab][tile][product][lane]; sums of others
  uint32_t weights[kTiles + 1][kHeld + 1][8];

  static __forceinline__ int lane() { return int(threadIdx.x) % 32; }
  static __forceinline__ int rank() { return int(threadIdx.x / 32) % warps; }  // among the warps of a tile
  static __forceinline__ int tile(int t) { return int(threadIdx.x / 32 + t * blockDim.x / 32) / warps; }
  static __forceinline__ int column(int c) { return 16 * tile(c / 2) + lane() / 4 + 8 * (c % 2); }
  static __forceinline__ int row(int r) { return lane() % 4 * 2 + r; }
  bool finishes(int c) const { return column(c) < columns && rank() == 0; }
  bool warp_has_none() const { return !kColumns || 16 * tile(0) >= columns; }
  bool has_none() const { return warps == 1 && warp_has_none(); }
  int tiles() const { return (columns + 15) / 16; }
  int slabs() const { return (sources + kSlab - 1) / kSlab; }
  __forceinline__ Words& in_memory(int slab, int t, int product) const {
    return reinterpret_cast<Words*>(rest)[(((slab - kHeld * warps) * tiles() + tile(t)) * 2 + product) * 32 + lane()];
  }
  // Of the tile's warp of that rank, [i][lane].
  __forceinline__ Number* others_sums(int rank) const {
    const int in_memory = slabs() - kHeld * warps;
    return rest + (in_memory > 0 ? in_memory * tiles() * 2 * 32 * 4 : 0) + ((rank - 1) * tiles() + tile(0)) * 4 * 32 + lane();
  }

  // weight(c, source) of column(c), of so many sources, and zeros.
  template <class Load>
  __forceinline__ void load(int count, const Load& weight) {
    // One slab after another, which the compiler must not mix: it has no registers for the loads of all.
    RECURRA_ROLLED
    for (int s = rank(); s < slabs(); s += warps) {
      RECURRA_UNROLL
      for (int t = 0; t < kTiles; ++t) {
        RECURRA_UNROLL
        for (int i = 0; i < 8; ++i) {
          const int c = 2 * t + i % 2, k = kSlab * s + lane() % 4 * 8 + i / 2 * 2;
          const auto one = [&](int at) { return column(c) < columns && at < count ? uint32_t(weight(c, at).bits) : 0u; };
          const uint32_t two = one(k) | one(k + 1) << 16;
          RECURRA_UNROLL
          for (int h = 0; h < kHeld; ++h) weights[t][h][i] = h * warps + rank() == s ? two : weights[t][h][i];
          if (s >= kHeld * warps && tile(t) < tiles()) in_memory(s, t, i / 4).v[i % 4] = two;
        }
      }
    }
  }

  // sum[c][r] += row(r) of `source` times column(c), of those that the thread finishes.
  __forceinline__ void add(V (&sum)[kColumns + 1][kOwnRows], const Weight* source) const {
    if (!warp_has_none()) add_slabs(sum, source);
    if (warps == 1) return;
    if (rank() && !warp_has_none()) {
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i) others_sums(rank())[i * 32] = sum[i / 2][i % 2].v;
    }
    __syncthreads();  // until the sums of all warps are there
    if (rank() || warp_has_none()) return;
    for (int other = 1; other < warps; ++other) {
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i) sum[i / 2][i % 2] = sum[i / 2][i % 2] + V(others_sums(other)[i * 32]);
    }
  }

 private:
  __forceinline__ void add_slabs(V (&sum)[kColumns + 1][kOwnRows], const Weight* source) const {
    __syncwarp();  // the tensor cores ask that threads of a warp come to them together
    float made[kTiles + 1][kChains][4] = {};
    const Weight* const from = source + lane() / 4 * source_row(sources, held) + lane() % 4 * 8;
    const auto numbers = [&](int slab) {
      if (kRows < 8 && lane() / 4 >= kRows) return Words{};
      return *reinterpret_cast<const Words*>(from + kSlab * slab);
    };
    const auto multiply = [&](int t, int product, const uint32_t* weight, const Words& x) {
      multiply_fragments<kIsHalf<Weight>>(made[t][product % kChains], weight, x.v[2 * product], x.v[2 * product + 1]);
    };
    RECURRA_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      RECURRA_UNROLL
      for (int i = 0; i < 4; ++i) made[t][0][i] = rank() ? 0 : sum[2 * t + i / 2][i % 2].v;
    }
    RECURRA_UNROLL
    for (int s = 0; s < kHeld; ++s) {
      const Words x = numbers(s * warps + rank());
      RECURRA_UNROLL
      for (int product = 0; product < 2; ++product) {
        RECURRA_UNROLL
        for (int t = 0; t < kTiles; ++t) multiply(t, product, &weights[t][s][4 * product], x);
      }
    }
    for (int s = kHeld * warps + rank(); s < slabs(); s += warps) {
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
  template <int per_thread, int held, int warps>
  using type = Columns<per_thread, held>;
};
template <>
struct MatrixOf<true> {
  template <int per_thread, int held, int warps>
  using type = Fragments<per_thread, held, warps>;
};

}  // namespace cuda
}  // namespace recurra
