"""Every kernel, compiled by NVRTC itself, which needs no GPU, for four generations of them."""

from __future__ import annotations

import re

import pytest

import recurra
from recurra import _core
from recurra.cuda import _libraries
from recurra.cuda.kernels import DTYPES, units


@pytest.fixture(scope="module", autouse=True)
def nvrtc() -> None:
    _libraries.locate()
    problems = {found["name"]: found["problem"] for found in _core.cuda.found()}
    if problems["nvrtc"]:
        pytest.skip("no NVRTC: pip install nvidia-cuda-nvrtc")


ARCHITECTURES = ["sm_80", "sm_90a", "sm_100a", "sm_120"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture: str, dtype: str) -> None:
    # No text depends on the architecture, and to compile all for each takes a quarter of an hour: a unit is compiled
    # for one, its next relatives and other dtypes for the others.
    first = (ARCHITECTURES.index(architecture) + DTYPES.index(dtype)) % len(ARCHITECTURES)
    for unit in units(dtypes=[dtype])[first :: len(ARCHITECTURES)]:
        cubin, log = _core.cuda.compile(unit.source, [*unit.options, "-Xptxas", "-v"], architecture)
        kernels = re.findall(r"Compiling entry function '(\w+)'", log)
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert cubin and kernels and len(frames) == len(kernels), log
        assert set(frames) == {("0", "0", "0")}, f"{unit.name}: {dict(zip(kernels, frames, strict=True))}"
        assert "warning" not in log, log


SIZES = (32, 64, 96, 128)


@pytest.mark.parametrize("backward", (False, True))
@pytest.mark.parametrize("rows", (1, 4))
@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("hidden", SIZES)
def test_no_kernel_of_all_steps_spills(hidden: int, dtype: str, rows: int, backward: bool) -> None:
    # As above: a cell for one size, dtype and number of rows, its next relatives for others.
    turn = SIZES.index(hidden) + len(SIZES) * (2 * DTYPES.index(dtype) + rows // 4)
    cells = sorted(recurra.cells(), key=lambda cell: ("layer_norm" in cell, cell))
    for i, cell in enumerate(cells[turn :: 4 * len(SIZES)]):
        source, options, *_ = _core.cuda.resident_unit(cell, dtype, hidden, hidden, rows, backward)
        architecture = ARCHITECTURES[(turn + i) % len(ARCHITECTURES)]
        cubin, log = _core.cuda.compile(source, options, architecture)
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert cubin and frames == [("0", "0", "0")], (
            f"{cell}, H = {hidden}, {dtype}, {rows} rows, {backward=}, {architecture}: {log}"
        )
        assert "warning" not in log, log


CLUSTERS = (
    ("lstm", "float32", 257, 1, 4, False, "sm_90a"),
    ("lstm", "float32", 384, 4, 8, False, "sm_100a"),
    ("lstm_peephole_projected", "float32", 200, 4, 4, False, "sm_120"),
    ("gru_reset_before", "float64", 200, 4, 8, False, "sm_90a"),
    ("slstm_exp", "float64", 128, 4, 8, False, "sm_100a"),  # the most states
    ("gru", "float32", 300, 1, 8, True, "sm_120"),
    ("lstm", "float32", 250, 4, 8, True, "sm_90a"),
    ("gru_reset_before", "float64", 200, 1, 4, True, "sm_100a"),
    ("lstm_layer_norm", "float32", 256, 1, 8, False, "sm_90a"),
    ("gru_layer_norm", "float64", 128, 4, 4, True, "sm_100a"),
    # By the tensor cores, in a block and in a cluster.
    ("lstm", "bfloat16", 128, 8, 1, False, "sm_80"),
    ("gru_reset_before", "float16", 128, 8, 1, False, "sm_120"),
    ("gru", "bfloat16", 640, 8, 8, False, "sm_100a"),
    ("lstm", "float16", 512, 8, 8, False, "sm_90a"),
    ("gru_reset_before", "bfloat16", 128, 8, 1, True, "sm_80"),
    ("lstm", "float16", 160, 8, 1, True, "sm_120"),
    ("lstm_peephole_projected", "float16", 192, 8, 4, True, "sm_90a"),
    ("gru", "bfloat16", 512, 8, 8, True, "sm_100a"),
    ("gru_layer_norm", "bfloat16", 512, 8, 8, False, "sm_120"),
)
GRIDS = (
    ("lstm", "bfloat16", 2048, 8, 128, False, "sm_90a"),
    ("gru", "float16", 1536, 8, 96, False, "sm_80"),
    ("gru_reset_before", "bfloat16", 1024, 8, 32, False, "sm_100a"),
    ("lstm", "float32", 1024, 4, 128, False, "sm_120"),
    ("gru_reset_before", "float32", 768, 1, 56, False, "sm_80"),
    ("lstm", "float64", 512, 4, 64, False, "sm_90a"),
    ("slstm_exp", "float64", 128, 1, 8, False, "sm_120"),
    ("lstm", "float16", 1024, 8, 64, True, "sm_80"),
    ("gru", "bfloat16", 1536, 8, 96, True, "sm_90a"),
    ("gru_reset_before", "float16", 768, 8, 32, True, "sm_120"),
    ("lstm", "float32", 1024, 1, 80, True, "sm_80"),
    ("gru", "float32", 1024, 4, 128, True, "sm_100a"),
    ("lstm", "float64", 512, 1, 40, True, "sm_80"),
    ("lstm_layer_norm", "float32", 512, 1, 32, False, "sm_80"),
    ("gru_layer_norm", "float16", 512, 8, 16, True, "sm_80"),
)


@pytest.mark.parametrize(
    ("grid", "cell", "dtype", "hidden", "rows", "blocks", "backward", "architecture"),
    [(grid, *case) for grid, cases in ((False, CLUSTERS), (True, GRIDS)) for case in cases],
)
def test_no_kernel_of_several_blocks_or_of_16_bits_spills(
    grid: bool, cell: str, dtype: str, hidden: int, rows: int, blocks: int, backward: bool, architecture: str
) -> None:
    source, options, _, shared, *_ = _core.cuda.resident_unit(cell, dtype, hidden, hidden, rows, backward, blocks, grid)
    assert shared <= 227 << 10  # that a block of an H100 may have
    cubin, log = _core.cuda.compile(source, options, architecture)
    assert cubin and "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log
    assert "warning" not in log


CELLS = """
#include <cmath>
#include <cstddef>
#include <cstdint>
#define RECURRA_FN inline
namespace recurra {
template <class T>
struct Vec {
  T v;
  Vec() = default;
  explicit Vec(T a) : v(a) {}
  int bits() const { return __float_as_int(v); }
  static Vec from_bits(int b) { return Vec(__int_as_float(b)); }
  unsigned words() const { return __float_as_uint(v); }
  static Vec from_words(unsigned w) { return Vec(__uint_as_float(w)); }
  friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  friend Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  friend Vec operator-(Vec a) { return Vec(-a.v); }
  friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  friend Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  friend bool operator<(Vec a, Vec b) { return a.v < b.v; }
  friend Vec fma(Vec a, Vec b, Vec c) { return Vec(::fmaf(a.v, b.v, c.v)); }
  friend Vec max(Vec a, Vec b) { return a.v > b.v ? a : b; }
  friend Vec min(Vec a, Vec b) { return a.v < b.v ? a : b; }
  friend Vec select(bool m, Vec a, Vec b) { return m ? a : b; }
};
}
namespace recurra {
[[maybe_unused]] constexpr bool kFusesProducts = true;
template <class T>
constexpr bool kLittleCode = false;
#include "cpu/math.h"
}
#include "cells/cells.def"
#include "cells/lstm.h"
using recurra::Vec;
struct Unit {
  const float* from;
  float* to;
  Vec<float> state(int i) const { return Vec<float>(from[4 + i]); }
  Vec<float> vector(int i) const { return Vec<float>(from[6 + i]); }
  Vec<float> constant(int i) const { return Vec<float>(from[9 + i]); }
  void set_state(int i, Vec<float> v) { to[i] = v.v; }
  void keep(int i, Vec<float> v) { to[4 + i] = v.v; }
  void save(int i, Vec<float> v) { to[8 + i] = v.v; }
};
struct Arguments {
  const float* from;
  float* to;
  int64_t count;
};
static_assert(sizeof(size_t) == 8 && sizeof(uint64_t) == 8 && sizeof(uintptr_t) == 8 && sizeof(std::size_t) == 8);
static_assert(sizeof(int32_t) == 4 && sizeof(uint16_t) == 2 && sizeof(uint8_t) == 1);
extern "C" __global__ void cell(const Arguments a) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= a.count) return;
  Unit unit{a.from + 16 * i, a.to + 16 * i};
  Vec<float> chains[4];
  for (int c = 0; c < 4; ++c) chains[c] = Vec<float>(unit.from[c]);
  unit.to[15] = recurra::LstmGates<recurra::Coupling::none, true>::forward(chains, unit).v;
}
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_the_cells_as_they_are(architecture: str) -> None:
    options = ["-fmad=false", "-ftz=true", "-prec-div=true", "-prec-sqrt=true"]
    cubin, log = _core.cuda.compile(CELLS, options, architecture)
    assert cubin.startswith(b"\x7fELF")
    assert b"cell" in cubin
    assert "warning" not in log
    assert "0 bytes spill stores, 0 bytes spill loads" in log
