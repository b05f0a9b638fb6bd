"""Reduced precision: bfloat16 and int8 against their arithmetic in NumPy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import reference
from checks import assert_same_bits, isa_available, run_python

import recurra
from recurra import functional
from recurra._precision import check_precision
from recurra.demo import vowels

PRECISIONS = ("bfloat16", "int8")
Array = np.ndarray[Any, Any]


def layer_of(cell: str, inputs: int = 13, hidden: int = 37, **options: Any) -> recurra.Recurrent:
    projection = 11 if "_projected" in cell else 0
    return recurra.Recurrent(cell, inputs, hidden, proj_size=projection, seed=3, **options)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def bfloat16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, found by trying both neighbours in float64."""
    below = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    above = (below.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
    down, up = np.abs(x.astype(np.float64) - below), np.abs(above.astype(np.float64) - x)
    even = (below.view(np.uint32) >> np.uint32(16)) % 2 == 0
    return np.where((down < up) | ((down == up) & even), below, above)


def int8(x: Array) -> Array:
    """Each row rounded to multiples of its largest value / 127, as float64."""
    scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
    exact: Array = np.rint(x / scale) * scale.astype(np.float64)
    return exact


def matrices(layer: recurra.Recurrent) -> list[str]:
    return [name for name, array in layer.state_dict().items() if array.ndim == 2]


def pairs_product(total: Array, x: Array, weight: Array) -> Array:
    """total + x . weight of bfloat16 numbers in float32: of each two first the second's product, then the first's.

    Products of two bfloat16 numbers are exact in float32, so in either order a sum is rounded once.
    """
    order = [k for pair in range(0, x.size, 2) for k in (pair + 1, pair) if k < x.size]
    for k in order:
        total = total + x[k] * weight[:, k]
    return total


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (13, 37), (32, 64), (6, 129)])
def test_bfloat16_adds_the_products_of_pairs_in_float32_to_the_bit(inputs: int, hidden: int) -> None:
    layer = layer_of("rnn_relu", inputs, hidden)
    weights = layer.state_dict()
    weight_ih, weight_hh = bfloat16(weights["weight_ih_l0"]), bfloat16(weights["weight_hh_l0"])
    bias = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    x = random(9, 4, inputs)
    y, _ = layer.quantize("bfloat16")(x)
    for row in range(4):
        h = np.zeros(hidden, np.float32)
        for step in range(9):
            chain = pairs_product(bias, bfloat16(x[step, row]), weight_ih)
            h = np.maximum(pairs_product(chain, bfloat16(h), weight_hh), 0)
            np.testing.assert_array_equal(y[step, row], h)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0x3F807FFF, 0x3F80),  # below the middle, the middle of an even and of an odd number, above it
        (0x3F808000, 0x3F80),
        (0x3F818000, 0x3F82),
        (0x3F808001, 0x3F81),
        (0x3F7F8000, 0x3F80),  # to the next power of two
        (0x007FFFFF, 0x0080),  # the largest subnormal number, to a normal one
        (0x00010000, 0x0000),  # other subnormal numbers count as zero
        (0x7F7F7FFF, 0x7F7F),  # the largest numbers
        (0x7F7F8000, 0x7F80),
        (0x7F800000, 0x7F80),
        (0x7F800001, 0x7FC0),  # NaN, though its upper half reads infinity
        (0x7FFFFFFF, 0x7FC0),
    ],
)
def test_bfloat16_rounds_inputs_to_nearest_ties_to_even(x: int, expected: int) -> None:
    layer = recurra.RNN(1, 1, nonlinearity="relu", bias=False)
    layer.load_state_dict({"weight_ih_l0": np.ones((1, 1), np.float32), "weight_hh_l0": np.zeros((1, 1), np.float32)})
    y, _ = layer.quantize("bfloat16")(np.full((1, 3, 1), x, np.uint32).view(np.float32))
    np.testing.assert_array_equal(y, np.full((1, 3, 1), expected << 16, np.uint32).view(np.float32))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("cell", recurra.cells())
def test_a_reduced_step_is_a_float64_step_of_rounded_matrices_and_vectors(cell: str, rows: int, precision: str) -> None:
    layer = layer_of(cell)
    rounding, ulp = (bfloat16, 2.0**-8) if precision == "bfloat16" else (int8, 1 / 127)
    exact = {name.removesuffix("_l0"): array.astype(np.float64) for name, array in layer.state_dict().items()}
    for name in matrices(layer):
        exact[name.removesuffix("_l0")] = rounding(layer.state_dict()[name]).astype(np.float64)
    x = random(1, rows, 13)
    # An h whose rounding changes nothing: multiples of 1/127, every row reaching 1 in case it is scaled like x.
    width = layer.proj_size or layer.hidden_size
    h = np.rint(random(1, rows, width, seed=1) * 127).astype(np.float32) / np.float32(127)
    h[..., 0] = 1
    if precision == "bfloat16":
        h = bfloat16(h)
    others = [random(1, rows, layer.hidden_size, seed=1 + k) for k in range(1, reference.CELLS[cell].states)]
    if reference.CELLS[cell].heads:
        others[1] = np.abs(others[1]) + 1  # n divides
    states = (h, *others)
    y, _ = layer.quantize(precision)(x, states if len(states) > 1 else h)
    step = reference.CELLS[cell].step
    rounded = rounding(x[0]).astype(np.float64)
    expected = [
        step(rounded[row], tuple(s[0, row].astype(np.float64) for s in states), exact, {"cell_clip": np.inf})[0]
        for row in range(rows)
    ]
    # A second phase rounds its source too, by at most half a unit of a number below 1.
    second = {"_projected": "weight_hr", "gru_reset_before": "weight_hh", "multiplicative": "weight_hh"}
    inner = [exact[weight] for part, weight in second.items() if part in cell]
    allowed = 2e-6 + sum(np.abs(w).sum(-1).max() * 0.5 * ulp for w in inner)
    np.testing.assert_allclose(y[0], np.stack(expected), rtol=0, atol=allowed)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("cell", recurra.cells())
def test_reduced_precision_keeps_the_same_bits(cell: str, precision: str) -> None:
    layer = layer_of(cell, num_layers=2).quantize(precision)
    x = random(70, 6, 13)
    y, state = layer(x)
    stream = layer.stream(6)
    pieces = [stream.run(x[:50]), *(stream.step(np.ascontiguousarray(step))[None] for step in x[50:])]
    assert_same_bits((np.concatenate(pieces), stream.state), (y, state))
    lengths = np.array([70, 3, 0, 64, 65, 1])
    ragged, _ = layer(x, lengths=lengths)
    for row, length in enumerate(lengths):
        assert_same_bits(ragged[:length, row], layer(x[:length, row])[0])


DIGEST = """
import hashlib, numpy as np, recurra
x = np.random.default_rng(0).uniform(-1, 1, (20, 5, 13)).astype(np.float32)
digest = hashlib.sha256()
for cell in recurra.cells():
    for precision in ("bfloat16", "int8"):
        layer = recurra.Recurrent(cell, 13, 37, 2, proj_size=11 if "_projected" in cell else 0, seed=1)
        digest.update(layer.quantize(precision)(x)[0].tobytes())
# Sums that underflow between two additions, that overflow, and such of infinities; NaN may have any payload.
for scale in (1e-20, 1e-19, 1e-18, 1e18, 1e19, 1e20):
    layer = recurra.RNN(13, 37, nonlinearity="relu", seed=1)
    layer.load_state_dict({k: v * np.float32(scale) for k, v in layer.state_dict().items()})
    y = layer.quantize("bfloat16")(x * np.float32(scale))[0]
    digest.update(np.where(np.isnan(y), np.float32(-1), y).tobytes())
print(digest.hexdigest())
"""


def test_reduced_precision_has_the_same_bits_on_every_instruction_set_with_a_fused_multiply_add() -> None:
    isas = set(isa_available()) - {"generic"}
    if len(isas) < 2:
        pytest.skip("this machine has less than two")
    digests = {run_python(DIGEST, RECURRA_ISA=isa) for isa in isas}
    assert len(digests) == 1


@pytest.mark.parametrize(("precision", "error_to_signal"), [("bfloat16", -60), ("int8", -50)])
def test_the_shipped_classifier_keeps_its_scores_and_its_accuracy(precision: str, error_to_signal: float) -> None:
    weights = vowels.load_weights()
    layer = recurra.GRU(12, 64, batch_first=True)
    layer.load_state_dict({name: value for name, value in weights.items() if name.endswith("_l0")})
    frames, lengths, speakers = vowels.load_split("test")
    batch, valid = vowels.pad((frames - weights["mean"]) / weights["std"], lengths)

    def scores(layer: recurra.GRU) -> Array:
        output, _ = layer(batch, lengths=lengths)
        pooled = np.where(valid[:, :, None], output, -np.inf).max(1)
        return np.asarray(pooled @ weights["head_weight"].T + weights["head_bias"], np.float64)

    found, exact = scores(layer.quantize(precision)), scores(layer)
    assert (found.argmax(-1) + 1 == speakers).mean() >= 0.965
    assert 10 * np.log10(((found - exact) ** 2).sum() / (exact**2).sum()) < error_to_signal


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_quantized_layer_keeps_its_parameters_and_its_precision(precision: str) -> None:
    layer = recurra.LSTM(5, 7, seed=0)
    reduced = layer.quantize(precision)
    assert repr(reduced) == f"LSTM(5, 7).quantize({precision!r})"
    for name, array in layer.state_dict().items():
        assert_same_bits(reduced.state_dict()[name], array)
    x = random(4, 3, 5)
    expected = reduced(x)[0]
    assert not np.array_equal(expected, layer(x)[0])
    for twin in (pickle.loads(pickle.dumps(reduced)), copy.deepcopy(reduced)):
        assert_same_bits(twin(x)[0], expected)
    other = recurra.LSTM(5, 7, seed=1)
    reduced.load_state_dict(other.state_dict())
    assert_same_bits(reduced(x)[0], other.quantize(precision)(x)[0])


def test_weights_take_a_half_and_a_quarter_of_the_memory() -> None:
    layer = recurra.LSTM(256, 256)
    full, half, quarter = (
        each._packed.network.weight_bytes for each in (layer, layer.quantize("bfloat16"), layer.quantize("int8"))
    )
    assert half < 0.51 * full
    assert quarter < 0.27 * full


@pytest.mark.parametrize("precision", ["float16", None, 8])
def test_other_precisions_are_refused(precision: Any) -> None:
    with pytest.raises(ValueError, match=r"precision: expected one of 'bfloat16', 'int8'"):
        recurra.GRU(3, 4).quantize(precision)


def test_float64_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"precision: .*float64"):
        recurra.GRU(3, 4, dtype="float64").quantize("int8")


def test_int8_refuses_weights_that_are_not_finite_and_states_out_of_range() -> None:
    layer = recurra.GRU(3, 4)
    parameters = layer.state_dict()
    parameters["weight_hh_l0"][1, 2] = np.nan
    layer.load_state_dict(parameters)
    with pytest.raises(ValueError, match=r"weight_hh_l0: .*finite"):
        layer.quantize("int8")
    reduced = recurra.GRU(3, 4).quantize("int8")
    with pytest.raises(ValueError, match=r"state h: expected values in -1\.\.1"):
        reduced(random(2, 1, 3), np.full((1, 1, 4), 1.5, np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_with_a_value_that_is_not_finite_gives_nan_in_that_row_alone(bad: float) -> None:
    layer = recurra.GRU(13, 20, seed=0).quantize("int8")
    x = random(4, 3, 13)
    expected = layer(x)[0]
    x[2, 1, 5] = bad
    y = layer(x)[0]
    assert np.isnan(y[2:, 1]).all()
    assert_same_bits(np.delete(y, 1, 1), np.delete(expected, 1, 1))
    assert_same_bits(y[:2, 1], expected[:2, 1])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_kept_is_what_was_packed_whatever_is_written_meanwhile(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = recurra.GRU(3, 5, seed=0).state_dict()
    before = {name: array.copy() for name, array in params.items()}

    def check_and_write(*arguments: Any) -> None:
        check_precision(*arguments)
        params["weight_ih_l0"][:] = np.nan

    monkeypatch.setattr("recurra.packed.check_precision", check_and_write)
    packed = functional.pack("gru", params, precision=precision)
    monkeypatch.undo()
    x = np.ones((2, 1, 3), np.float32)
    assert_same_bits(packed.parameters, before)
    assert_same_bits(functional.run(packed, x), functional.run(functional.pack("gru", before, precision=precision), x))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_core_does_not_tell_reduced_matrices(precision: str) -> None:
    layer = recurra.GRU(3, 5, seed=0)
    network = layer.quantize(precision)._packed.network
    with pytest.raises(RuntimeError, match="reduced"):
        network.get_parameter(0, 0, np.empty((15, 3), np.float32))
    bias = np.empty(15, np.float32)
    network.get_parameter(0, 2, bias)
    assert_same_bits(bias, layer.bias_ih_l0)


def single(stack: recurra.Recurrent, layer: int) -> recurra.Recurrent:
    """One layer of a stack, on its own."""
    directions = 2 if stack.bidirectional else 1
    width = (stack.proj_size or stack.hidden_size) * directions
    alone = recurra.Recurrent(
        stack.cell,
        width if layer else stack.input_size,
        stack.hidden_size,
        proj_size=stack.proj_size,
        bidirectional=stack.bidirectional,
        seed=0,
    )
    params = stack.state_dict()
    alone.load_state_dict({name: params[name.replace("_l0", f"_l{layer}")] for name in alone.state_dict()})
    return alone


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("keep", [[0], [1], [2, 0], [0, 1, 2], []])
@pytest.mark.parametrize(("cell", "bidirectional"), [("lstm", False), ("gru", True), ("lstm_projected", False)])
def test_layers_that_are_kept_compute_in_float32(
    cell: str, bidirectional: bool, keep: list[int], precision: str
) -> None:
    stack = layer_of(cell, num_layers=3, bidirectional=bidirectional)
    reduced = stack.quantize(precision, keep=keep)
    x = random(20, 5, 13)
    expected = x
    for layer in range(3):
        alone = single(stack, layer)
        expected, _ = (alone if layer in keep else alone.quantize(precision))(expected)
    assert_same_bits(reduced(x)[0], expected)
    assert_same_bits(reduced(x[:, :1])[0], expected[:, :1])
    if not bidirectional:
        stream = reduced.stream(5)
        assert_same_bits(np.stack([stream.step(frame).copy() for frame in x]), expected)
    if len(keep) == 3:
        assert_same_bits(expected, stack(x)[0])
    else:
        assert not np.array_equal(expected, stack(x)[0])


def test_what_is_kept_stays_so() -> None:
    layer = layer_of("lstm", num_layers=2)
    reduced, x = layer.quantize("int8", keep=(1, 1)), random(9, 4, 13)
    assert reduced.keep == (1,) and layer.keep == () and repr(reduced).endswith(".quantize('int8', keep=[1])")
    expected, _ = reduced(x)
    for again in (
        pickle.loads(pickle.dumps(reduced)),
        copy.deepcopy(reduced),
        layer.quantize("bfloat16").quantize("int8", keep=[1]),
    ):
        assert_same_bits(again(x)[0], expected)
    other = layer_of("lstm", num_layers=2)
    other.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})
    reduced.load_state_dict(other.state_dict())
    assert_same_bits(reduced(x)[0], other.quantize("int8", keep=[1])(x)[0])
    h = np.full((2, 4, 37), 0.5, np.float32)
    h[1] = 3  # only a rounded layer's h has a fixed scale
    state = (h, np.zeros_like(h))
    layer.quantize("int8", keep=[1])(x, state)
    with pytest.raises(ValueError, match=r"state h: expected values in -1\.\.1 for int8"):
        layer.quantize("int8", keep=[0])(x, state)


@pytest.mark.parametrize(
    ("keep", "kind", "words"),
    [
        ([2], ValueError, "keep: expected layers from 0 to 1, got 2"),
        ([-1], ValueError, "keep: expected at least 0, got -1"),
        ([True], TypeError, "keep: expected an integer, got True"),
        (["0"], TypeError, "keep: expected an integer, got '0'"),
        ("0", TypeError, "keep: expected numbers of layers, got '0'"),
        (0, TypeError, "keep: expected numbers of layers, got 0"),
    ],
)
def test_what_cannot_be_kept_is_refused(keep: Any, kind: type[Exception], words: str) -> None:
    layer = layer_of("gru", num_layers=2)
    with pytest.raises(kind, match=words):
        layer.quantize("int8", keep=keep)
    with pytest.raises(kind, match=words):
        functional.pack("gru", layer.state_dict(), precision="int8", keep=keep)


MOST_INT8_COLUMNS = (2**31 - 1) // 127**2  # products of two numbers in -127..127, summed in 32 bits


def check_int8_at_the_bound() -> None:
    """Run in processes of their own, one per instruction set: the largest sums there are, of one row and of several."""
    n = MOST_INT8_COLUMNS
    ones, random = np.ones(n, np.float32), np.random.default_rng(0).uniform(-1, 1, n).astype(np.float32)
    random[0] = 1  # so that 1/127 is the scale of all
    rows = np.stack([ones, -ones, random, np.sign(random)])
    weight = np.stack([ones, -ones, np.sign(random)])
    whole = np.rint(rows * np.float32(127)).astype(np.int64) @ np.rint(weight * np.float32(127)).astype(np.int64).T
    assert whole.max() == 127**2 * n == -whole.min()
    scale = (np.float32(1) / np.float32(127)) ** 2
    # Rounded where the core rounds: the sum, the scales' product, and the product of these two (exact in float64).
    want = np.maximum((whole.astype(np.float32) * np.float64(scale)).astype(np.float32), 0)
    params = {"weight_ih_l0": weight, "weight_hh_l0": np.zeros((3, 3), np.float32)}
    packed = functional.pack("rnn_relu", params, precision="int8")
    for batch in (rows, *np.split(rows, 4)):
        y, _ = functional.run(packed, batch[None])
        np.testing.assert_array_equal(y[0], want[[np.flatnonzero((rows == row).all(-1))[0] for row in batch]])
    print(recurra.config()["isa"])


def test_int8_sums_are_exact_up_to_the_size_where_32_bits_end_and_refused_beyond() -> None:
    for isa in isa_available():
        assert run_python("import test_quantize as t; t.check_int8_at_the_bound()", RECURRA_ISA=isa).strip() == isa
    wide = recurra.RNN(MOST_INT8_COLUMNS + 1, 1, seed=0)
    with pytest.raises(ValueError, match=r"input_size: expected at most 133144 for int8.*got 133145"):
        wide.quantize("int8")
    assert wide.quantize("bfloat16").precision == "bfloat16"
    stack = recurra.RNN(MOST_INT8_COLUMNS + 1, 2, num_layers=2, seed=0)  # a layer that is kept has no such sums
    assert np.isfinite(stack.quantize("int8", keep=[0])(np.zeros((1, MOST_INT8_COLUMNS + 1), "float32"))[0]).all()
