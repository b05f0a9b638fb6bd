// How blocks that share a tile exchange what products read: RECURRA_CLUSTER of them, along z, each with a part of the units and
// all of their chains. They are a cluster, and who has something writes it to every block's shared memory; or, with
// RECURRA_GRID, they are blocks of a grid that runs together, and it goes through memory.
#pragma once
#include "cuda/kernels/fragments.cuh"

namespace recurra {
namespace cuda {

constexpr int kSharers = RECURRA_CLUSTER;
constexpr bool kGrid = RECURRA_GRID, kCluster = kSharers > 1 && !kGrid;

// Of so many units, those of the block.
struct Share {
  int first, count;
};
inline Share share_of(int units) {
  if (kSharers == 1) return {0, units};
  const int rank = int(blockIdx.z), first = units * rank / kSharers;
  return {first, units * (rank + 1) / kSharers - first};
}

// Of the block's tile, and of the rows of a step.
inline int first_row(const Exchange& a) { return a.first_row + int(blockIdx.x) * kRows; }
inline int rows_of_block(const Exchange& a, int begin, int end) {
  const int rows = end - begin - first_row(a);
  return rows < kRows ? rows : kRows;
}

inline Weight* shared_weights(int at) { return reinterpret_cast<Weight*>(shared_numbers(at)); }

// Where what a product of phase p reads in a step is written. With two phases nobody writes there before all have met since it
// was read; with one, blocks take turns with two places.
template <class Arguments>
inline int turn_of(const Arguments& a, int p, int64_t step) {
  return kSharers > 1 && !kLast ? int(step - a.from) % 2 : p;
}
template <class Arguments>
inline Weight* source_of(const Arguments& a, int p, int64_t step) {
  return shared_weights(a.source_at[kGrid ? p : turn_of(a, p, step)]);
}
inline int tile_of_launch() { return int(blockIdx.y * gridDim.x + blockIdx.x); }
inline Weight* place_of(const Exchange& a, int turn) {
  return static_cast<Weight*>(a.exchange) + (int64_t(tile_of_launch()) * 2 + turn) * a.place;
}
template <class Arguments>
inline Weight* exchanged(const Arguments& a, int p, int64_t step) {
  return place_of(a, turn_of(a, p, step));
}

// To every block.
template <class T>
inline void give(T* to, T v) {
  RECURRA_UNROLL
  for (int rank = 0; rank < (kCluster ? kSharers : 1); ++rank) *(kCluster ? in_block(to, unsigned(rank)) : to) = v;
}
template <class Arguments>
inline void give(const Arguments& a, int p, int64_t step, int at, V v) {
  give((kGrid ? exchanged(a, p, step) : source_of(a, p, step)) + at, narrowed(v.v));
}

// Nobody writes what is behind a row's numbers; called before anything is given.
template <class Arguments>
inline void clear_exchanged(const Arguments& a) {
  if (!kGrid || blockIdx.z) return;
  Weight* const places = exchanged(a, 0, a.from);  // the first of two
  for (int64_t i = threadIdx.x; i < 2 * a.place; i += blockDim.x) places[i] = narrowed(0);
}

// All threads that have a tile, who have met so many times.
inline void meet(const Exchange& a, unsigned times) {
  if (kCluster) return cluster_sync();
  __syncthreads();  // until the block may be counted
  if (!kGrid) return;
  if (threadIdx.x == 0) {
    unsigned* const arrived = a.arrived + tile_of_launch();
    add_one(arrived);
    for (int looks = 0; int(count_of(arrived) - (times + 1) * kSharers) < 0; ++looks)
      if (looks == kMostLooks) return give_up();
  }
  __syncthreads();  // until all blocks have been
}

// What all have given, to the block's shared memory: so many numbers.
template <class T>
inline void receive(const T* given, T* to, int count) {
  constexpr int each = int(sizeof(Words) / sizeof(T));
  for (int i = int(threadIdx.x); i < count / each; i += int(blockDim.x))
    reinterpret_cast<Words*>(to)[i] = reinterpret_cast<const Words*>(given)[i];
  __syncthreads();  // until it is there
}
// For a product of phase p.
template <class Arguments>
inline void receive(const Arguments& a, int p, int64_t step, int count) {
  if (kGrid) receive(exchanged(a, p, step), source_of(a, p, step), count);
}

}  // namespace cuda
}  // namespace recurra
