"""Steps of streams on a GPU, or over its stand-in, at sizes that a block goes through in several slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_close, assert_same_bits
from cuda_arrays import download, require_gpu, upload
from reference import CELLS

import recurra

require_gpu()

CELLS_OF_EACH_KIND = ("lstm", "lstm_peephole_projected", "gru_reset_before", "gru_layer_norm", "sru", "rnn_tanh")
# Odd sizes, whose weights are not aligned, and such as are read 16 bytes at a time.
SIZES = ((300, 261), (264, 272))
TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2}


def layer_of(cell: str, inputs: int, hidden: int, dtype: str, layers: int = 2) -> recurra.Recurrent:
    options: dict[str, Any] = {"proj_size": hidden - 2} if CELLS[cell].projected else {}
    return recurra.Recurrent(cell, inputs, hidden, layers, seed=0, dtype=dtype, **options)


def frames(*shape: int, dtype: str = "float32") -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
@pytest.mark.parametrize("cell", CELLS_OF_EACH_KIND)
def test_a_step_has_the_bits_of_the_cpu(cell: str, inputs: int, hidden: int, dtype: str) -> None:
    layer = layer_of(cell, inputs, hidden, dtype)
    there = layer.to("cuda")
    for rows in (1, 5):
        x = frames(2, rows, inputs, dtype=dtype)
        stream, twin = there.stream(rows), layer.stream(rows)
        for frame in x:
            assert_same_bits(download(stream.step(upload(frame, dtype))), twin.step(frame))
        assert_same_bits(download(stream.state), twin.state)


@pytest.mark.parametrize("number", ("float16", "bfloat16"))
@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
@pytest.mark.parametrize("cell", ("lstm", "rnn_tanh"))  # where nothing but the product reads h
def test_a_step_of_16_bits_is_one_of_rounded_numbers(cell: str, inputs: int, hidden: int, number: str) -> None:
    def rounded(array: Any) -> Any:
        return download(upload(array, number)).astype("float32")

    layer = layer_of(cell, inputs, hidden, "float32", layers=1)
    layer.load_state_dict({name: rounded(array) for name, array in layer.state_dict().items()})
    there = layer.to("cuda", dtype=number)
    for rows in (1, 5):
        stream, twin = there.stream(rows), layer.stream(rows)
        for frame in rounded(frames(3, rows, inputs)):
            assert_same_bits(download(stream.step(upload(frame, number))).astype("float32"), rounded(twin.step(frame)))
            twin.state = (rounded(twin.state[0]), twin.state[1]) if cell == "lstm" else rounded(twin.state)


@pytest.mark.parametrize("number", ("float16", "bfloat16"))
@pytest.mark.parametrize("cell", CELLS_OF_EACH_KIND)
def test_a_step_of_16_bits_is_near_the_cpu(cell: str, number: str) -> None:
    inputs, hidden = SIZES[0]
    layer = layer_of(cell, inputs, hidden, "float32")
    x = frames(2, 3, inputs)
    stream, twin = layer.to("cuda", dtype=number).stream(3), layer.stream(3)
    for frame in x:
        assert_close(download(stream.step(upload(frame, number))), twin.step(frame), TOLERANCE[number])


@pytest.mark.parametrize("rows", (4, 32, 37))
def test_rows_of_several_blocks_and_any_strides(rows: int) -> None:
    layer = recurra.LSTM(9, 70, seed=0)
    stream, twin = layer.to("cuda").stream(rows), layer.stream(rows)
    wide = frames(rows, 18)
    x, out = upload(wide)[::-1, ::2], upload(np.zeros((70, rows), "float32")).transpose(1, 0)
    for _ in range(2):
        assert stream.step(x, out) is out
        assert_same_bits(download(out), twin.step(wide[::-1, ::2]))
