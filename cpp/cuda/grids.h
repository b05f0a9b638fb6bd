// Launches over rows and columns, and over tiles of a product.
#pragma once
#include <algorithm>
#include <stdexcept>
#include <string>

#include "cells/cell.h"
#include "device.h"

namespace recurra {
namespace cuda {

// A grid of columns, rows, and what is left, which is a multiple of `of_rest`: kernels walk on where a grid ends.
template <class Arguments>
void launch_rows(CUfunction kernel, int64_t columns, int64_t rows, int64_t rest, CUstream stream, const Arguments& arguments,
                 int64_t of_rest = 1) {
  if (columns <= 0 || rows <= 0 || rest <= 0) return;
  constexpr int64_t threads = 128, most = 65535;
  const unsigned block = unsigned(std::min((columns + 31) / 32 * 32, threads));
  const Grid grid = {unsigned((columns + block - 1) / block), unsigned(std::min(rows, most)),
                     unsigned(std::min(rest, most / of_rest * of_rest))};
  launch(kernel, grid, {block, 1, 1}, stream, arguments);
}

// Rows that kParts threads have each: by_rows.cuh.
template <class Arguments>
void launch_by_rows(CUfunction kernel, int64_t rows, int directions, CUstream stream, const Arguments& arguments) {
  if (rows <= 0) return;
  launch(kernel, {1, unsigned(std::min<int64_t>(rows, 65535)), unsigned(directions)}, {kParts, 1, 1}, stream, arguments);
}

// Tiles of a product are squares, and a grid has so many of them one above the other at most.
constexpr unsigned kTile = 64;
inline void check_columns(int64_t n) {
  constexpr int64_t most = 65535 * kTile;
  if (n > most)
    throw std::invalid_argument("engine: expected \"cublas\" for a product of more than " + std::to_string(most) +
                                " columns, got " + std::to_string(n));
}

// Tiles of an [m, n] result: product.cuh.
template <class Arguments>
void launch_tiles(CUfunction kernel, int64_t m, int64_t n, int directions, size_t number_size, CUstream stream,
                  const Arguments& arguments) {
  if (m <= 0 || n <= 0) return;
  check_columns(n);
  constexpr unsigned tile = kTile, slice = 16;
  launch(kernel, {unsigned((m + tile - 1) / tile), unsigned((n + tile - 1) / tile), unsigned(directions)}, {256, 1, 1}, stream,
         arguments, unsigned(2 * slice * (tile + 1) * number_size));
}

// Sums of columns in parallel: product.cuh.
template <class Arguments>
void launch_sums(CUfunction kernel, int64_t columns, int directions, size_t number_size, CUstream stream,
                 const Arguments& arguments) {
  constexpr unsigned width = 32, parts = 8;
  launch(kernel, {unsigned((columns + width - 1) / width), unsigned(directions), 1}, {width * parts, 1, 1}, stream, arguments,
         unsigned(width * parts * number_size));
}

}  // namespace cuda
}  // namespace recurra
