"""A stream with a head: layer and affine map in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits
from reference import CELLS
from strategies import DTYPES

import recurra

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))


def make(cell: str, hidden: int, outputs: int, dtype: str = "float32", **options: Any) -> tuple[Any, recurra.Linear]:
    proj = max(1, hidden // 2) if CELLS[cell].projected else 0
    layer = recurra.Recurrent(cell, 3, hidden, num_layers=2, proj_size=proj, dtype=dtype, seed=0, **options)
    return layer, recurra.Linear(proj or hidden, outputs, dtype=dtype, seed=1)


def frames(steps: int, batch: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).standard_normal((steps, batch, 3)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@ALL_CELLS
def test_bits_are_those_of_the_head_after_a_call(cell: str, dtype: str) -> None:
    for hidden, outputs, batch in ((2, 1, 1), (17, 1, 3), (33, 5, 1), (40, 16, 2), (19, 37, 4)):
        layer, head = make(cell, hidden, outputs, dtype)
        x = frames(9, batch, dtype)
        want = head(layer(x)[0])
        stream = layer.stream(batch, head=head)
        steps = [stream.step(x[0]), stream.step(x[1])]
        assert_same_bits(np.stack(steps), want[:2])
        assert_same_bits(stream.run(x[2:6]), want[2:6])
        out = np.empty((batch, outputs), dtype)
        assert stream.step(x[6], out) is out
        assert_same_bits(out, want[6])
        assert_same_bits(stream.step(np.repeat(x[7], 2, axis=-1)[:, ::2]), want[7])  # strided
        assert_same_bits(stream.run(x[8:8]), want[8:8])
        assert_same_bits(stream.run(x[8:]), want[8:])


def test_long_runs_and_strided_outputs() -> None:
    layer, head = make("gru", 21, 3)
    for batch in (1, 5):
        x = frames(150, batch)
        out = np.full((150, batch, 5), np.nan, "float32")
        layer.stream(batch, head=head).run(x, out[..., 1:4])
        assert_same_bits(out[..., 1:4], head(layer(x)[0]))
        assert np.isnan(out[..., [0, 4]]).all()


def test_one_sequence_batch_first_threads_and_reduced_precision() -> None:
    layer, head = make("lstm", 24, 2)
    x = frames(7, 4)
    assert_same_bits(layer.stream(head=head).run(x[:, 0]), head(layer(x[:, 0])[0]))
    turned = recurra.LSTM(3, 24, num_layers=2, batch_first=True, seed=0)
    turned.load_state_dict(layer.state_dict())
    assert_same_bits(turned.stream(4, head=head).run(x.swapaxes(0, 1)), head(layer(x)[0]).swapaxes(0, 1))
    for precision in ("bfloat16", "int8"):
        small = layer.quantize(precision)
        assert_same_bits(small.stream(4, head=head).run(x), head(small(x)[0]))
        assert_same_bits(small.stream(4, head=head).step(x[0]), head(small(x)[0])[0])
    zoned = recurra.LSTM(3, 24, zoneout=0.3, seed=0)
    assert_same_bits(zoned.stream(4, head=head).step(x[0]), head(zoned(x)[0])[0])
    recurra.set_num_threads(2)
    wide, wide_head = recurra.GRU(3, 256, seed=0), recurra.Linear(256, 2, seed=0)
    stream = wide.stream(2, threads=2, head=wide_head)
    assert_same_bits(np.stack([stream.step(frame) for frame in x[:, :2]]), wide_head(wide(x[:, :2])[0]))


@pytest.mark.parametrize("inputs", [1, 2, 3, 4, 5, 7, 8, 13, 64, 131])
def test_the_head_sums_as_it_says(inputs: int) -> None:
    """Four chains of fused multiply-adds, each of which float64 does exactly enough to be rounded right."""
    random = np.random.default_rng(inputs)
    for outputs, rows in ((1, 1), (1, 9), (5, 2), (16, 1), (33, 7)):
        head = recurra.Linear(inputs, outputs, seed=inputs)
        weight, bias = head.state_dict()["weight"], head.state_dict()["bias"]
        x = random.standard_normal((rows, inputs), dtype=np.float32)
        quarter, sums = -(-inputs // 4), []
        for part in range(4):
            chain = np.broadcast_to(bias if part == 0 else np.float32(0), (rows, outputs)).astype(np.float32)
            for k in range(part * quarter, min(inputs, (part + 1) * quarter)):
                product = x[:, k, None].astype(np.longdouble) * weight[:, k].astype(np.longdouble)  # exact
                chain = (product + chain).astype(np.float32)
            sums.append(chain)
        assert_same_bits(head(x), (sums[0] + sums[1]) + (sums[2] + sums[3]))
        assert_close(head(x), x.astype("f8") @ weight.astype("f8").T + bias, 1e-5)


def test_a_later_change_of_the_head_does_not_change_the_stream() -> None:
    layer, head = make("gru", 8, 2)
    stream, x = layer.stream(1, head=head), frames(2, 1)
    want = head(layer(x)[0])
    head.load_state_dict({name: np.zeros_like(array) for name, array in head.state_dict().items()})
    assert_same_bits(stream.run(x), want)


def test_what_does_not_fit_is_refused() -> None:
    layer, head = make("lstm_projected", 8, 2)
    with pytest.raises(ValueError, match="head: expected in_features=4, got 8"):
        layer.stream(head=recurra.Linear(8, 2))
    with pytest.raises(ValueError, match="head: expected float32, got float64"):
        layer.stream(head=recurra.Linear(4, 2, dtype="float64"))
    with pytest.raises(TypeError, match=r"head: expected a recurra\.Linear, got LSTM"):
        layer.stream(head=recurra.LSTM(4, 2))
    stream = layer.stream(2, head=head)
    with pytest.raises(ValueError, match=r"out: expected shape \[2, 2\], got \[2, 4\]"):
        stream.step(frames(1, 2)[0], np.empty((2, 4), "float32"))
