// The kernels of cells and number types, compiled for one GPU.
#pragma once
#include <string>

#include "../engine/backend.h"
#include "compile.h"
#include "recurra/cuda.h"

namespace recurra {
namespace cuda {

// Bytes of a number, in which states and sums are, and of a weight.
inline size_t number_bytes(Number number) { return number == Number::f64 ? 8 : 4; }
inline size_t weight_bytes(Number number) { return number == Number::f64 ? 8 : number == Number::f32 ? 4 : 2; }

// Of a number type.
struct RowKernels {
  CUfunction ordered_product, ordered_outer, column_sums, parallel_sums;
  CUfunction read_lengths, fill_reversed, read_input, read_gradient, write_output, pass_on, divide_gradient, reverse_rows,
      add_reversed;
  CUfunction read_state, write_state, draw_masks, make_source, add_masked, gather_previous, clear_rows, clip_rows;
  CUfunction pack_weights, pack_sums, give_gradient, upload;
};

struct KernelSet : RowKernels {
  CUfunction forward[kMaxPhases] = {}, backward[kMaxPhases] = {};
  CUfunction step[kMaxPhases] = {};  // of a phase by rows: its products, then its rows
};

struct HeadKernels : RowKernels {
  CUfunction affine, finish_affine, take_rows, put_rows, add_rows, make_contiguous;
};

// Compile what the cache has not. Kept for the process.
KernelSet kernels_of(const Device& device, int cell, Number number);
const HeadKernels& head_kernels_of(const Device& device, Number number);  // after the first time without a look-up

// A translation unit, and what to compile it with.
struct Unit {
  std::string name;  // the cell's, or "product", "rows" or "heads"
  std::string source;
  std::vector<std::string> options;
};
// Those of `file`, with more definitions; null: of steps.
Unit cell_unit(int cell, Number number, const char* file = nullptr, const std::string& more = {});
Unit product_unit(Number number);
Unit rows_unit(Number number);
Unit heads_unit(Number number);
std::vector<Unit> units(Number number);  // all of them

}  // namespace cuda
}  // namespace recurra
