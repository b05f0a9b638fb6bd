// What the engine asks of a machine: a table of functions, filled once per instruction set. No vector type, no instruction
// set's name and no standard-library template crosses this border.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../cells/graph/cell.h"
#include "cells/cells.def"

// What a build for a small device leaves out: see CMakeLists.txt.
#ifndef RECURRA_DOUBLE
#define RECURRA_DOUBLE 1
#endif
#ifndef RECURRA_BFLOAT16
#define RECURRA_BFLOAT16 1
#endif
#ifndef RECURRA_INT8
#define RECURRA_INT8 1
#endif
#ifndef RECURRA_TRAINING
#define RECURRA_TRAINING 1
#endif
#ifndef RECURRA_GRAPHS
#define RECURRA_GRAPHS 1
#endif

#define RECURRA_INLINE inline __attribute__((always_inline))

namespace recurra {

// Bytes of a core's first-level data cache, known from the first call of backend() on; 32 KiB where the system does not tell.
extern ptrdiff_t first_level_cache;

// From how many bytes of weights, times rows, blocks of rows prefetch the next tiles: by processor, known likewise.
extern ptrdiff_t worth_prefetching;

constexpr int kPrecisions = 3;  // full, bfloat16, int8: recurra::Precision

// The number of cells in cells.def.
constexpr int kCells = 0
#define RECURRA_CELL(...) +1
#include "cells/cells.def"
    ;

// Rows anywhere in memory: row r starts at base + offset[r]. What moves with time is the base, so a table is filled once for
// many steps; rows of a tree or a grid would bring a table of their own for each step.
template <class T>
struct Rows {
  T* base = nullptr;
  const ptrdiff_t* offset = nullptr;
  RECURRA_INLINE T* operator[](ptrdiff_t r) const { return base + offset[r]; }
};

// Rows side by side in one of the engine's own buffers, padded to whole tiles.
template <class T>
struct Panel {
  T* base = nullptr;
  ptrdiff_t stride = 0;
  RECURRA_INLINE T* operator[](ptrdiff_t r) const { return base + r * stride; }
};

// Rows cut into blocks of `width` columns, a block's rows one after another: a few columns of many rows then lie on few pages
// and cache lines. Rows that are not cut have stride = width.
template <class T>
struct Blocks {
  static constexpr ptrdiff_t width = 256 / ptrdiff_t(sizeof(T));
  T* base = nullptr;
  ptrdiff_t row = 0;     // from row to row
  ptrdiff_t stride = 0;  // from block to block
  RECURRA_INLINE T* at(ptrdiff_t r, ptrdiff_t column) const {
    return base + r * row + column / width * stride + column % width;
  }
};

// A product's vectors: the rows themselves and, for reduced weights, the same rows in the form these expect: rounded to
// bfloat16, or as integers, row r being scale[r] times them.
template <class T>
struct Operand {
  Rows<const T> rows;
  Panel<const char> reduced;
  const float* scale = nullptr;
};

// Packed weights of one phase. A tile is `lanes` units (the vector width): for its units it holds, one after another,
//   bias       [chains][lanes]
//   vectors    [vector_count][lanes]
//   input      [input_size][input gates][lanes]
//   recurrent  [source_size][recurrent gates][lanes]
// the last two as cpu/weights.h describes them when the weights are of reduced precision.
template <class T>
struct Tiles {
  const T* base = nullptr;
  ptrdiff_t size = 0;          // numbers a tile
  ptrdiff_t input_at = 0;      // where the input block begins
  ptrdiff_t recurrent_at = 0;  // where the recurrent block begins
  ptrdiff_t input_size = 0;
  ptrdiff_t source_size = 0;
  int units = 0;  // valid ones; the last tile is filled up with zeros
};

template <class T>
struct PhaseCall;

// The cell on chains that lie in memory, [tile][row][chain][lane]: of rows row .. row + rows - 1 and as many tiles. Of a phase
// by rows, on all tiles of those rows, whose chains are in `before` and `apart`.
template <class T>
using Finish = void (*)(const PhaseCall<T>&, int row, int rows, int tile, int tiles, const T* chains);

// One phase of one step: rows 0 .. rows-1, unit tiles tile_begin .. tile_end-1.
template <class T>
struct PhaseCall {
  Finish<T> finish = nullptr;
  Tiles<T> tiles;
  int tile_begin = 0, tile_end = 0;
  bool backwards = false;  // the order in which tiles are visited may alternate from step to step
  int rows = 0;
  Operand<T> x;           // input rows; not read when `before` is given
  Panel<const T> before;  // bias plus input product, made earlier by input_product; base is null when it was not
  Operand<T> source;      // the recurrent product's vector
  Rows<const T> h;        // h(t-1)
  Panel<T> result;        // what the phase returns
  Rows<T> y;              // where the result also goes, unpadded: the layer's output; base may be null
  Panel<const T> states;  // the states after h, [state][padded units] a row, before the step
  Panel<T> new_states;    // and after it; may be the same memory
  Panel<T> kept;          // [kept][padded units] a row
  Panel<T> saved;         // [saved][padded units] a row, for backward; base may be null
  ptrdiff_t padded = 0;   // units padded to whole tiles
  const T* constants = nullptr;
  // Of a phase by rows: its chains, those of the input product (unless they are in `before`) and then those of the recurrent
  // one, each [tile][gate][lane]; and whether the cell has to wait for tiles of other workers, so that the engine will call it.
  Panel<T> apart;
  bool shared = false;
};

// One phase of one step of one row, whose weights lie where their owner keeps them. The tiles hold biases and vectors only.
template <class T>
struct InPlaceCall {
  PhaseCall<T> phase;
  const T* input = nullptr;      // the phase's own gate blocks: [blocks * units, input_size]
  const T* recurrent = nullptr;  // [blocks * units, source_size]
};

// Bias plus input product of many rows at once: out[row][tile][gate][lane].
template <class T>
struct InputCall {
  Tiles<T> tiles;
  int tile_begin = 0, tile_end = 0;
  static constexpr bool backwards = false;
  int rows = 0;
  Operand<T> x;
  Panel<T> out;
};

// Backward of one phase of one step, its pointwise part: rows 0 .. rows-1, unit tiles tile_begin .. tile_end-1. All panels are
// padded to whole tiles.
template <class T>
struct BackwardCall {
  Tiles<T> tiles;
  int tile_begin = 0, tile_end = 0;
  int rows = 0;
  bool last = false;      // of the step's phases
  Rows<const T> dy;       // gradient of the output, unpadded; base may be null
  Panel<T> d_result;      // what else reaches the phase's result
  Panel<T> d_h;           // gradient of h(t-1) as far as it is known; the last phase sets it, others add to it
  Panel<const T> h;       // h(t-1)
  Panel<const T> states;  // as in PhaseCall
  Panel<const T> saved;
  ptrdiff_t saved_width = 0;  // numbers of a row to prefetch
  Panel<T> d_states;          // of the states after the step; then of those before it
  Panel<T> d_kept;
  Blocks<T> da;           // [chains + vectors][d_width] a row: gradients of chains, and each row's share of the vectors'
  ptrdiff_t d_width = 0;  // units of the phase, padded
  ptrdiff_t padded = 0;   // hidden units, padded
  const T* constants = nullptr;
};

// out[r][k] = the sum over gates g, then units u, of a[r][chain[g]][u] w[g][u][k], k < columns; or that is added to out.
// w is packed in tiles of `lanes` columns: [g][u][lane].
template <class T>
struct TransposedCall {
  Tiles<T> tiles;  // base, size, and units: the number of columns
  int tile_begin = 0, tile_end = 0;
  static constexpr bool backwards = false;
  int rows = 0;
  int gates = 0;
  int chain[kMaxChains] = {};
  ptrdiff_t summed = 0;  // units u
  ptrdiff_t width = 0;   // from chain to chain in a row of a
  Blocks<const T> a;
  Rows<T> out;
  bool add = false;
};

// out[k][c] = the sum over rows r, ascending, of a[r][first + k] x[r][c], begin <= k < end, for whole vectors c of columns. It
// begins with zero, or with `add` with what is there.
template <class T>
struct OuterCall {
  int rows = 0;
  Blocks<const T> a;
  ptrdiff_t first = 0;
  ptrdiff_t begin = 0, end = 0;
  Blocks<const T> x;
  ptrdiff_t columns = 0;  // a multiple of lanes
  Panel<T> out;
  bool add = false;
};

// y = x W^T + b, an affine map. Its sums are of four parts, one quarter of the inputs each, since a single chain would be the
// longest of a small step; the first begins at the bias, and y = (part 0 + part 1) + (part 2 + part 3). A tile holds the bias
// [width], then the weights [input][width], where width is `lanes`, or the number of units if those are fewer: what a vector
// then reads beyond them ends up in lanes that are not stored.
template <class T>
struct AffineCall {
  Tiles<T> tiles;  // base, size, units
  int tile_begin = 0, tile_end = 0;
  static constexpr bool backwards = false;
  int rows = 0;
  ptrdiff_t inputs = 0, width = 0;
  Panel<const T> x;
  Panel<T> y;  // unpadded
};

// Attention of one row over `words` words, with arrays that are filled up with zeros to whole parts: score[j] = weight .
// tanh(keys[j] + query), alpha = softmax(score), context = the sum over words, ascending, of alpha[j] values[j]. Backward, from
// the gradient of the context, writes that of the query and adds to those of keys, values and weight.
template <class T>
struct AttentionCall {
  int words = 0;
  ptrdiff_t units = 0;        // of a key, filled up
  ptrdiff_t size = 0;         // numbers of a value, filled up
  const T* keys = nullptr;    // [words][units]
  const T* values = nullptr;  // [words][size]
  const T* query = nullptr;   // [units]
  const T* weight = nullptr;  // [units]
  T* alpha = nullptr;         // [words], filled up; read by backward
  T* context = nullptr;       // [size]; for backward its gradient
  // For backward.
  T* d_score = nullptr;  // [words], filled up: workspace
  T* d_keys = nullptr;
  T* d_values = nullptr;
  T* d_query = nullptr;
  T* d_weight = nullptr;
};

// An activation function of cells/activation.h of some numbers; y may be x.
template <class T>
struct ActivationCall {
  int function = 0;
  T alpha = 0, beta = 0;
  ptrdiff_t count = 0;
  const T* x = nullptr;
  T* y = nullptr;
};

// exp(x) / sum(exp(x)) over each of some rows side by side, or its logarithm; y may be x.
template <class T>
struct SoftmaxCall {
  ptrdiff_t rows = 0, size = 0;
  bool log = false;
  const T* x = nullptr;
  T* y = nullptr;
};

// out[r][k] = start[r][k] + the sum over inputs i, ascending, of x[r][i] w[i][k]. Packed as for TransposedCall.
template <class T>
struct GatheredCall {
  Tiles<T> tiles;  // base, size, and units: the number of columns k
  int tile_begin = 0, tile_end = 0;
  static constexpr bool backwards = false;
  int rows = 0;
  ptrdiff_t inputs = 0;
  Rows<const T> x;
  Rows<const T> start;  // may be `out` itself
  Rows<T> out;
};

// A pointwise function of a cell of graphs, forward or backward, on units begin .. end-1 of some rows. No row is padded.
template <class T>
struct GraphCall {
  int rows = 0;
  ptrdiff_t begin = 0, end = 0;
  ptrdiff_t units = 0;
  int slots = 0, memories = 0, option = 0;
  T scale = 1;
  const T* vectors = nullptr;       // [vector][units], null for none
  Panel<T> chains;                  // [chain][units] a row; a function's values for backward take the place of its chains
  Rows<const T> before[kMaxSlots];  // [state][units] a row
  Panel<T> states;                  // likewise
  // Children of row r: numbers first[r] - first[0] .. first[r + 1] - first[0] - 1 of these.
  const int64_t* first = nullptr;
  Rows<const T> child_states;
  Panel<T> child_chains;
  // Backward.
  Panel<T> d_states;
  Panel<T> da;  // [chain][units] a row
  Panel<T> d_vectors;
  Panel<T> direct;  // [number][units] a row
  Panel<T> child_da, child_direct;
};

// Rows in the form that Operand has for reduced weights.
struct ReduceCall {
  int rows = 0;
  ptrdiff_t size = 0;
  ptrdiff_t padded = 0;     // numbers to write per row, zeros after `size`
  bool unit_range = false;  // all numbers lie in -1 .. 1: integers then have one scale for all rows
  Rows<const float> x;
  Panel<char> out;
  float* scale = nullptr;  // for integers
};

template <class T>
struct KernelTable {
  void (*phase[kCells][kMaxPhases])(const PhaseCall<T>&) = {};      // which needs `finish` of the same phase in the call
  void (*input_product[kMaxChains + 1])(const InputCall<T>&) = {};  // by number of gates
};

template <class T>
struct Kernels {
  int lanes = 0;  // units per tile
  KernelTable<T> by_precision[kPrecisions];
  Finish<T> finish[kCells][kMaxPhases][2] = {};  // without saving, and with
  void (*in_place[kCells][kMaxPhases])(const InPlaceCall<T>&) = {};
  // For training, in full precision.
  void (*backward[kCells][kMaxPhases])(const BackwardCall<T>&) = {};
  void (*transposed)(const TransposedCall<T>&) = nullptr;
  void (*outer)(const OuterCall<T>&) = nullptr;
  void (*affine)(const AffineCall<T>&) = nullptr;
  void (*attention)(const AttentionCall<T>&) = nullptr;
  void (*attention_backward)(const AttentionCall<T>&) = nullptr;
  void (*gathered)(const GatheredCall<T>&) = nullptr;
  void (*activation)(const ActivationCall<T>&) = nullptr;
  void (*softmax)(const SoftmaxCall<T>&) = nullptr;
  void (*graph[kGraphFunctions])(const GraphCall<T>&) = {};
  void (*graph_backward[kGraphFunctions])(const GraphCall<T>&) = {};
};

struct Backend {
  const char* name = nullptr;
  Kernels<float> f32;
  Kernels<double> f64;                                                                   // full precision only
  void (*reduce[kPrecisions])(const ReduceCall&) = {};                                   // null for full
  int reduced_bytes[kPrecisions] = {};                                                   // of a number that it makes
  void (*fingerprint)(const char*, ptrdiff_t bytes, unsigned long long* sum) = nullptr;  // adds to sum[8]
  // Every thread computes inside an Environment. enter and leave (given what enter returned) fix the floating-point
  // environment, so that results depend neither on the caller's rounding mode nor, in time, on subnormal numbers, which count
  // as zero.
  unsigned long (*enter)() = nullptr;
  void (*leave)(unsigned long) = nullptr;
};

// Between construction and destruction this thread computes in the backend's floating-point environment.
class Environment {
 public:
  explicit Environment(const Backend& backend) : backend_(backend), saved_(backend.enter()) {}
  ~Environment() { backend_.leave(saved_); }
  Environment(const Environment&) = delete;

 private:
  const Backend& backend_;
  const unsigned long saved_;
};

// Throws std::invalid_argument: this build lacks it.
[[noreturn]] void left_out(const char* what);

template <class T>
const Kernels<T>& kernels(const Backend& backend);
template <>
inline const Kernels<float>& kernels(const Backend& backend) {
  return backend.f32;
}
template <>
inline const Kernels<double>& kernels(const Backend& backend) {
#if !RECURRA_DOUBLE
  left_out("double");
#endif
  return backend.f64;
}

// The backend of this process, chosen at the first call. Throws std::runtime_error when RECURRA_ISA names one that this
// machine lacks.
const Backend& backend();

}  // namespace recurra
