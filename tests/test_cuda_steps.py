"""Steps of streams on a GPU, or over its stand-in, at sizes that a block goes through in several slices."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
from checks import assert_close, assert_same_bits
from cuda_arrays import LIBRARY, DeviceArray, download, new_stream, require_gpu, upload
from reference import CELLS

import recurra
from recurra.cuda import arrays
from recurra.cuda import stream as streams

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


# ---- arrays that come again


class LikeCupy:
    """As cupy.ndarray."""

    def __init__(self, host: Any) -> None:
        self.array = DeviceArray.of(host)
        self.shape, self.strides, self.dtype, self.itemsize = host.shape, self.array.strides, host.dtype, host.itemsize
        self.data = types.SimpleNamespace(ptr=self.array.pointer, device_id=0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arrays that have been checked, with a CuPy whose current stream is that of the tests' library."""
    looked: list[str] = []

    def looking(name: str, *arguments: Any, **options: Any) -> Any:
        looked.append(name)
        return arrays.view(name, *arguments, **options)

    cupy: Any = types.ModuleType("cupy")
    cupy.ndarray = LikeCupy
    current = LIBRARY.current_stream
    cupy.cuda = types.SimpleNamespace(get_current_stream=lambda device: types.SimpleNamespace(ptr=current(device)))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(streams, "view", looking)
    return looked


@pytest.mark.parametrize("with_head", (False, True))
@pytest.mark.parametrize("layers", (1, 2))
def test_arrays_that_come_again_are_not_checked_again(looks: list[str], layers: int, with_head: bool) -> None:
    layer, head = recurra.GRU(3, 5, layers, seed=0), recurra.Linear(5, 5, seed=0)
    there = head.to("cuda", engine="exact") if with_head else None
    stream: Any = layer.to("cuda").stream(2, head=there)
    twin = layer.stream(2, head=head if with_head else None)
    wide = frames(8, 2, 3)
    kept = [LikeCupy(x) for x in wide]
    out, other = LikeCupy(np.zeros((2, 5), "float32")), LikeCupy(np.zeros((2, 5), "float32"))
    for i, x in enumerate(wide):
        y = other if i % 3 == 2 else out
        assert stream.step(kept[i], y) is y
        assert_same_bits(y.array.to_host(), twin.step(x))
        if i == 3:
            stream.reset([1])
            twin.reset([1])
    assert looks == ["x"]


def test_wrong_arrays_are_refused_after_right_ones(looks: list[str]) -> None:
    layer = recurra.LSTM(5, 5, seed=0)
    stream: Any = layer.to("cuda").stream(2)
    twin = layer.stream(2)
    good = frames(2, 5)
    x, out = LikeCupy(good), LikeCupy(good)
    for name, value, message in (
        ("shape", (5, 2), r"^x: expected shape \[2, 5\], got \[5, 2\]$"),
        ("dtype", np.dtype("int32"), r"^x: expected float32, got int32$"),
        ("strides", (21, 4), r"^x: expected strides of whole elements"),
        ("data", types.SimpleNamespace(ptr=x.array.pointer, device_id=1), r"^x: expected a CUDA array on cuda:0, got"),
        ("data", out.data, r"^out: expected memory of its own, got an array that overlaps x$"),
    ):
        stream.step(x, out)
        assert_same_bits(out.array.to_host(), twin.step(good))
        before = getattr(x, name)
        setattr(x, name, value)
        with pytest.raises((TypeError, ValueError), match=message):
            stream.step(x, out)
        setattr(x, name, before)
    with pytest.raises(ValueError, match=r"^mask"):
        stream.step(x, out, mask=np.array([True]))
    with pytest.raises(ValueError, match=r"^reset_state: expected None without resets"):
        stream.step(x, out, reset_state=x)
    with pytest.raises(ValueError, match=r"^x: expected a CUDA array on cuda:0, got a NumPy array"):
        stream.step(good, out)
    stream.step(x, out)
    assert_same_bits(out.array.to_host(), twin.step(good))


def test_steps_on_other_streams_are_in_order(looks: list[str]) -> None:
    layer = recurra.LSTM(5, 5, seed=0)
    stream: Any = layer.to("cuda").stream(2)
    twin, good = layer.stream(2), frames(2, 5)
    for handle in (new_stream(), new_stream()):
        with LIBRARY.use(handle):
            x, out = LikeCupy(good), LikeCupy(good)
            for _ in range(3):
                stream.step(x, out)
                assert_same_bits(out.array.to_host(), twin.step(good))
    assert looks == ["x", "x"]
