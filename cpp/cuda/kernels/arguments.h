// What kernels are given: for the kernels and for the host, which launches them. A "number" is RECURRA_NUMBER, a "weight"
// RECURRA_WEIGHT of the translation unit (numbers.cuh). D directions, B rows, N = all rows of all steps; step s has rows at
// at(s) .. at(s + 1) - 1, in the order in which the loop runs through them: backwards in time for the second direction, and for
// the only one of a network that runs backwards.
// Structs have no holes: what stands there by chance would look like an address to whoever watches what kernels are given.
#pragma once
#include <cstdint>

#include "cells/cell.h"
#include "engine/noise.h"

namespace recurra {
namespace cuda {

// One matrix a direction: row r of direction d begins at data + d * direction + r * row, in elements.
struct Rows {
  void* data;
  int64_t row, direction;
};

// An array of the caller's, with strides in elements: a sequence (outer: steps) or a state (outer: lanes).
enum Format { format_f32, format_f64, format_f16, format_bf16 };
struct Strided {
  void* data;
  int64_t outer, row, column;
  int format;
  int packed = 0;  // or 1: a sequence is row at(t) + r after row, which are sorted
};

struct Seeded {
  recurra::detail::Noise::Rates rates;
  const uint64_t* seed;  // in device memory, or null: nothing is drawn
  int64_t first_lane;    // layer * directions
  const int* segments;   // of the caller's row i, at 3 i: its sequence, and the steps of that before and after it; null: row i
                         // is sequence i
  int64_t backwards;     // the direction of the launch that runs backwards in time, or -1

  int64_t sequence(int64_t row) const { return segments ? segments[3 * row] : row; }
  // Steps of the row's sequence that come before it, in time or as a direction runs.
  int64_t before(int64_t row) const { return segments ? segments[3 * row + 1] : 0; }
  int64_t before(int64_t row, int direction) const {
    return segments ? segments[3 * row + (direction == backwards ? 2 : 1)] : 0;
  }
};

// One phase of one step, its pointwise part: grid (units, rows, directions).
struct PhaseArguments {
  int rows, units;
  int64_t step;
  const int* lengths;                  // of each row, or null where the launch has only rows that run
  const int* order;                    // row r is the caller's row order[r]; null: r
  Rows input;                          // numbers: the input product [slot][unit]; with the bias where `bias` is null
  Rows recurrent;                      // numbers: the recurrent product [block][unit]; where `bias` is null, the whole chain
  const void* bias;                    // numbers [slot][unit], or null
  const void* vectors;                 // numbers [vector][unit]
  int64_t sums_direction;              // from direction to direction of both
  Rows h_before, h_after;              // numbers; h_after is written by the last phase
  Rows states_before, states_after;    // numbers [state][unit], may be the same memory
  Rows source;                         // weights: what the next recurrent product reads of h_after; data may be null
  Rows mask;                           // numbers: of recurrent dropout; data may be null
  Rows result;                         // weights: what a phase before the last returns
  Rows kept, saved;                    // numbers [i][unit]; saved.data may be null
  double constants[2][kMaxConstants];  // [direction]
  Seeded noise;
};

// One phase of one step of a stream, products and all: grid (units, rows), of which a block has so many where the phase has so
// many chains, and rows are few or not.
constexpr int kStepThreads = 256, kStepColumns = 32, kFewRows = 4, kStepSharedBytes = 48 << 10;
constexpr int step_units(int chains, bool few) {
  const int most = kStepColumns / chains;
  return few && most > 4 ? 4 : most;
}
constexpr int step_rows(bool few) { return few ? kFewRows : 32; }

// x and y are of the caller's, or x is h of the layer below. Of `phase` all but products and the source.
struct StepArguments {
  PhaseArguments phase;
  Strided x, y;           // weights; y.data may be null
  int64_t x_is_weight;    // or numbers, to be rounded
  const void* input;      // weights [slot][unit][inputs]
  const void* recurrent;  // weights [block][unit][sources]
  int64_t inputs, sources;
  Rows source;  // weights: what the phase before returned
};

// The same, backward.
struct BackwardArguments {
  int rows, units;
  int64_t step;
  const int* lengths;
  const int* order;
  Rows dy;        // numbers: gradient of the output; data may be null. Last phase only
  Rows d_cells;   // numbers: of the second state after the step, to be added; data may be null
  Rows d_h;       // numbers: of h after the step, then, as far as it is known, of h before it
  Rows d_result;  // numbers: of what an earlier phase returned
  Rows d_states;  // numbers [state][unit]: likewise
  Rows d_kept;    // numbers
  Rows h_before, states_before, saved;
  const void* vectors;
  int64_t sums_direction;
  Rows da;                             // weights [slot][unit], then the vectors' shares [vector][unit]
  double constants[2][kMaxConstants];  // [direction]
  Seeded noise;
};

// out[m][n] = start + the sum over segments s in order, then k ascending, of a[m][a_at[s] + k] b[b_at[s] + k][n], one chain of
// multiply-adds: grid (m, n, directions). The start is out itself (`adds`), or start[m][n] for n < start_columns and bias[n]
// or 0 beyond.
struct ProductArguments {
  int m, n;
  int segments, length;
  int a_at[4], b_at[4];
  Rows a;                         // weights
  const void* b;                  // weights
  int64_t b_k, b_n, b_direction;  // from k to k, from n to n; one of them is 1
  Rows start;                     // numbers
  int64_t start_columns;
  const void* bias;  // numbers; may be null
  int64_t bias_direction;
  int64_t adds;
  const int* out_rows;  // m is row out_rows[m] of out; null: m
  Rows out;             // numbers
};

// out[m][n] = the sum over rows r of a[r][m] x[r][n], one chain of multiply-adds, in the order of the CPU's backward pass:
// blocks of `block_steps` steps from the last to the first, the rows of each ascending.
// grid (m, n, directions).
struct Outer {
  int64_t steps, block_steps;
  const int64_t* starts;  // at(s), s = 0 .. steps; null: s * rows
  int64_t rows;
  int64_t adds;  // begins with what is there
  Rows a, out;   // weights, numbers
};
struct OuterArguments {
  int m, n;
  Outer outer;
  Rows x;  // weights
};

// Which rows a step has.
struct Steps {
  int64_t steps, rows;
  const int64_t* starts;  // at(s), s = 0 .. steps, where rows are sorted by length; null: at(s) = s * rows
  const int* lengths;     // of row r; null: all run all steps
  const int* order;       // row r is the caller's row order[r]; null: r
  const int* reversed;    // row i of the loop backwards in time is row reversed[i] of time, and the other way round
  int64_t reverse;        // or 1: the first direction runs backwards too
};

// Where kernels of all steps have things in shared memory, in numbers: what products read, [row][source], a multiple of 4 each;
// weights that registers have no room for, [source][column]; chains, [row][slot * units + unit], or backward the gradient of
// what the first of two phases returned; h, states and kept values, or their gradients, [i][row of the tile][unit]. Units are
// the block's, sources all, and so are units of what a phase by rows sums up, [turn][sum][row][unit].
struct WalkPlaces {
  int sources[kMaxPhases];  // numbers that a recurrent product sums up
  int source_at[kMaxPhases], weights_at[kMaxPhases];
  int sums_at, sums_row, held_at, held_row, values_at, values_row;
};

// What blocks of a grid exchange in memory: weights [direction][tile][place][row][source], two places for each tile of a
// launch, of which `arrived`, [direction][tile], begins with 0. At the end of a place is what a phase by rows sums up, numbers.
struct Exchange {
  void* exchange;
  unsigned* arrived;
  int place;      // weights of one
  int first_row;  // of the launch
};

// Steps from .. to - 1 of a layer, all but the products of its input: grid (tiles of rows, directions, blocks of a tile). Of
// `phase`, `input` has rows of these steps, `recurrent` weights [block * units + unit][source] and `bias` that of chains
// without an input; the other rows are those of step 0, or, unless they move, of every step. h_after begins with what is before
// step 0.
struct WalkArguments : WalkPlaces, Exchange {
  Steps steps;
  int64_t from, to;
  PhaseArguments phase[kMaxPhases];
  int moves_states, moves_source, moves_result;
  int unused = 0;
};

// Steps to - 1 .. from of a layer, backward, all but the products of its input and of weights' gradients: grid (tiles of rows,
// directions, blocks of a tile). Of `phase`, `da` has rows of these steps, and so does `saved` if it begins there; dy and
// d_cells have those of all steps, h_before and states_before begin with what is before step 0. d_h and d_states are those of
// the step after.
struct WalkBackArguments : WalkPlaces, Exchange {
  Steps steps;
  int64_t from, to;
  BackwardArguments phase[kMaxPhases];
  Rows recurrent[kMaxPhases];  // weights [block * units + unit][source]
  Rows mask;                   // numbers: of recurrent dropout; data may be null
  double clip;                 // or infinity
  int64_t saved_from;          // `saved` begins with the rows of that step
};

// Lengths that the caller has in device memory, where nobody could look at them: those that are none are made 0 or `steps`, so
// that they lead to no row outside. grid (rows).
struct LengthArguments {
  int64_t rows;
  int steps;
  const int* from;
  int* to;
};

// reversed[] itself. grid (rows, steps).
struct ReversalArguments {
  Steps steps;
  int* reversed;
};

// A sequence of the caller's, in time: packed[at(t) + r] = array[t][order[r]]. grid (columns, rows, steps).
struct ReadArguments {
  Steps steps;
  int64_t columns;
  Strided array;
  void* packed;  // weights where it is x (`read_input`), numbers where it is a gradient (`read_gradient`)
};

// Numbers of one or two directions in the loop's order, at times from .. to - 1, to an array of the caller's,
// [t][order[r]][direction][column], 0 for steps of no row (`write_output`), or to the weights of the next layer's input rows,
// in time (`pass_on`), with dropout between layers. grid (columns, rows, steps, directions).
struct OutputArguments {
  Steps steps;
  int64_t from, to;
  int64_t columns;
  int64_t directions;
  Rows rows;
  Strided array;
  void* packed;
  Seeded noise;
};

// The gradient of a layer's output at times from .. to - 1, numbers [row of these][direction][column], to each direction in its
// loop's order, through dropout if there was some. grid (columns, rows, steps, directions).
struct DivideArguments {
  Steps steps;
  int64_t from, to;
  int64_t columns;
  int64_t directions;
  const void* packed;
  Rows rows;
  Seeded noise;
};

// Rows of weights, to the order of the second direction: to[i] = from[reversed[i]]; or numbers, added: to[reversed[i]] +=
// from[i]. grid (columns, count).
struct ReorderArguments {
  int64_t count, columns;
  const int* reversed;
  const void* from;
  void* to;
};

// A state or its gradient. array[lane][order[r]] to rows r, or zero where there is no array (`read_state`); rows r, or the rows
// after each row's last step, to array[lane][order[r]] (`write_state`). Lanes first_lane .. are directions. grid (columns,
// rows, directions).
struct StateArguments {
  Steps steps;
  int64_t columns;
  int first_lane;
  int at_end;  // row r is the row's own last one: the rows before step s begin at 0 for s = 0, else at rows + at(s - 1)
  Strided array;
  Rows rows;
};

// mask[r], numbers. grid (columns, rows, directions).
struct MaskArguments {
  int64_t rows, columns;
  const int* order;
  Rows mask;
  Seeded noise;
};

// rows[r] is brought into -limit .. limit, unless the row has ended. grid (columns, rows, directions).
struct ClipArguments {
  int64_t count, columns;
  int64_t step;
  const int* lengths;
  double limit;
  Rows rows;  // numbers
};

// Rows that are set to zero in all layers: states [layer][row][column]. grid (columns, count, layers).
struct ClearArguments {
  int64_t columns;
  int64_t count;
  Rows rows;  // numbers; `direction` is from layer to layer
  int row[256];
};

// What a recurrent product reads of h in one step: to[r] = mask[r] h[r], rounded to weights; mask.data may be null. grid
// (columns, rows, directions).
struct SourceArguments {
  int64_t rows, columns;
  Rows h, mask, to;
};

// d_h[r] += mask[r] d_masked[r]: backward of that. grid (columns, rows, directions).
struct MaskedArguments {
  int64_t rows, columns;
  Rows d_h, mask, d_masked;
};

// The rows before each of some steps, one after another: to[at(s) - at(from) + r] = rows[before(s) + r]. Weights. grid
// (columns, rows, steps, directions).
struct PreviousArguments {
  Steps steps;
  int64_t from_step, to_step, columns;
  int64_t directions;
  Rows from, to;
};

// Columns summed over rows, as the product with a column of ones would do it. grid (columns, directions).
struct SumArguments {
  int64_t columns;
  Outer outer;
};

// Parameters to packed rows and back. Block g of the parameter, first <= g < first + count, is slot slot[g - first] of the
// packed rows. grid (columns, count * units).
//   pack_weights    packed[slot][u] = parameter[g][u], rounded to weights
//   pack_sums       packed[slot][u] += parameter[g][u], numbers of one column
//   give_gradient   parameter[g][u] = packed[slot][u], or is added to; numbers
struct ParameterArguments {
  int64_t columns;
  int units, first, count, adds;
  int slot[kMaxVectors];
  int head;         // units of a head, which begin a row at their own place in h; 0: none
  void* parameter;  // [block][unit][column], numbers
  void* packed;     // [slot][unit][column]; with heads there are as many columns as units
};

// Arrays of heads are contiguous. x [rows][inputs], weight [outputs][inputs], y [rows][outputs]: weights; bias: numbers.
struct AffineArguments {
  int rows, inputs;
  int64_t outputs;
  const void *x, *weight, *bias;
  void* y;
};

struct FinishArguments {
  int64_t rows, columns;
  const void *from, *bias;  // numbers; bias may be null
  void* to;                 // weights
};

struct TableArguments {
  int64_t count, rows, columns;
  const void* indices;  // int64 if `wide`, else int32
  int64_t wide;
  void* table;  // numbers [rows][columns]
  void* out;    // weights [count][columns]
};

constexpr int kMaxAxes = 8;

struct ContiguousArguments {
  int64_t columns, rows;
  int size, axes;  // bytes of a number; axes of the rows
  int64_t shape[kMaxAxes], strides[kMaxAxes], column_stride;
  const void* from;
  void* to;
};

// Words of host memory that go with the launch, so that the copy needs no memory of its own and may be captured.
struct UploadArguments {
  int64_t count;
  uint32_t* to;
  uint32_t words[960];
};

}  // namespace cuda
}  // namespace recurra
