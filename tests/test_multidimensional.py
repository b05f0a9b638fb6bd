"""MultidimensionalLSTM beside its oracle, and where it must equal something simpler."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close
from reference_grids import KINDS, central_differences, multidimensional

import recurra

PEEPING = ("standard", "time_frequency")
ANY_DIMS = [(kind, dims) for kind in sorted(KINDS) for dims in ((2,) if kind == "time_frequency" else (1, 2, 3, 4))]
EXTENTS = (3, 3, 2, 2)
SIZES = ((3, 3, 1, 2), (1, 2, 2, 1), (2, 1, 1, 2))


def corner(b: int, size: tuple[int, ...]) -> Any:
    """The index of a sample's own nodes."""
    return (b, *map(slice, size))


def problem(dims: int, seed: int = 0) -> tuple[Array, list[tuple[int, ...]]]:
    """x [3, D1, .., DN, 2], NaN outside the samples' sizes, and these."""
    x = np.full((3, *EXTENTS[:dims], 2), np.nan)
    sizes = [size[:dims] for size in SIZES]
    rng = np.random.default_rng(seed)
    for b, size in enumerate(sizes):
        x[corner(b, size)] = rng.normal(size=(*size, 2))
    return x, sizes


def of_direction(params: Any, name: str) -> dict[str, Array]:
    return {title.removesuffix(f"_{name}"): value for title, value in params.items() if title.endswith(f"_{name}")}


def expected(layer: recurra.MultidimensionalLSTM, x: Array, sizes: Any, params: Any = None) -> Array:
    """The oracle's output of a batch, zero outside the sizes."""
    params = layer.state_dict() if params is None else params
    hidden = layer.hidden_size
    y = np.zeros((*x.shape[:-1], len(layer.directions), hidden))
    for b, size in enumerate(sizes):
        own = corner(b, size)
        for k, name in enumerate(layer.directions):
            flips = [int(digit) for digit in name]
            y[own][..., k, :] = multidimensional(layer.kind, x[own], of_direction(params, name), flips)[0]
    if layer.combine == "concat":
        return y.reshape(*x.shape[:-1], -1)
    return np.asarray(y.sum(-2) if layer.combine == "sum" else y.mean(-2))


@pytest.mark.parametrize(("kind", "dims"), ANY_DIMS)
@pytest.mark.parametrize("combine", ["concat", "sum", "mean"])
def test_all_directions_are_the_oracles(kind: str, dims: int, combine: str) -> None:
    layer = recurra.MultidimensionalLSTM(2, 5, dims, kind, combine=combine, dtype="float64", seed=dims)
    x, sizes = problem(dims)
    assert_close(layer(x, sizes), expected(layer, x, sizes), 1e-13)
    single = recurra.MultidimensionalLSTM(2, 5, dims, kind, combine=combine, seed=dims)
    single.load_state_dict({name: value.astype("float32") for name, value in layer.state_dict().items()})
    assert_close(single(x.astype("float32"), sizes).astype("float64"), expected(layer, x, sizes), 2e-6)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("peephole", [True, False])
@pytest.mark.parametrize("directions", [1, ("10", "01")])
def test_options_are_the_oracles(kind: str, bias: bool, peephole: bool, directions: Any) -> None:
    peephole = peephole and kind in PEEPING
    layer = recurra.MultidimensionalLSTM(
        2, 3, 2, kind, directions, bias=bias, peephole=peephole, dtype="float64", seed=1
    )
    assert any("peep" in name for name in layer.state_dict()) == peephole
    assert any("bias" in name for name in layer.state_dict()) == bias
    x, sizes = problem(2, 1)
    y, _ = layer.forward(x, sizes)
    assert_close(y, expected(layer, x, sizes), 1e-13)


# Directions that together cross every axis both ways, and how they are combined, by dimensions.
CROSSED: dict[int, tuple[Any, str]] = {
    1: ("all", "concat"),
    2: ("all", "mean"),
    3: (("010", "101"), "sum"),
    4: (("1001", "0110"), "concat"),
}


@pytest.mark.parametrize(("kind", "dims"), ANY_DIMS)
def test_gradients_are_central_differences(kind: str, dims: int) -> None:
    directions, combine = CROSSED[dims]
    layer = recurra.MultidimensionalLSTM(2, 2, dims, kind, directions, combine, dtype="float64", seed=2)
    x, sizes = problem(dims)
    dy = np.random.default_rng(3).normal(size=layer(x, sizes).shape)
    inside = ~np.isnan(x[..., 0])

    def loss(arrays: dict[str, Array]) -> float:
        full = np.full_like(x, np.nan)
        full[inside] = arrays["x"]
        return float((expected(layer, full, sizes, arrays) * dy).sum())

    wanted = central_differences(loss, {**layer.state_dict(), "x": x[inside]})
    dy[~inside] = np.nan  # which nobody may look at
    for recompute in (False, True):
        _, tape = layer.forward(x, sizes, recompute=recompute)
        gradients = tape.backward(dy)
        assert gradients.x is not None and not gradients.x[~inside].any()
        found = {**gradients.params, "x": gradients.x[inside]}
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=2e-9, err_msg=name)
        again = tape.backward(dy, input_grad=False)
        assert again.x is None
        for name, value in again.params.items():
            np.testing.assert_array_equal(value, gradients.params[name])


@pytest.mark.parametrize("peephole", [True, False])
def test_one_dimension_is_an_lstm(peephole: bool) -> None:
    lstm = recurra.LSTM(3, 5, batch_first=True, bidirectional=True, peephole=peephole, dtype="float64", seed=1)
    p = lstm.state_dict()
    params = {}
    for name, suffix in (("0", "l0"), ("1", "l0_reverse")):
        params[f"weight_ih_{name}"], params[f"weight_hh_{name}"] = (
            p[f"weight_ih_{suffix}"],
            p[f"weight_hh_{suffix}"][None],
        )
        params[f"bias_{name}"] = p[f"bias_ih_{suffix}"] + p[f"bias_hh_{suffix}"]
        if peephole:
            params[f"weight_peep_{name}"] = p[f"weight_peep_{suffix}"]
    x, lengths = np.random.default_rng(0).normal(size=(4, 6, 3)), [6, 1, 4, 3]
    y, _ = lstm(x, lengths=lengths)
    for kind in ("standard",) if peephole else ("standard", "halved", "stable"):
        layer = recurra.MultidimensionalLSTM(3, 5, 1, kind, peephole=peephole, dtype="float64")
        layer.load_state_dict(params)
        assert_close(layer(x, [[n] for n in lengths]), y, 1e-13)


def test_one_dimension_of_leakylp_is_returnns_unit() -> None:
    layer = recurra.MultidimensionalLSTM(2, 3, 1, "leakylp", 1, dtype="float64", seed=1)
    p, x = layer.state_dict(), np.random.default_rng(0).normal(size=(1, 7, 2))
    h = c = np.zeros(3)
    for t, y in enumerate(layer(x)[0]):
        a = (p["weight_ih_0"] @ x[0, t] + p["weight_hh_0"][0] @ h + p["bias_0"]).reshape(4, 3)
        f, o1, o2 = (1 / (1 + np.exp(-a[k])) for k in (0, 2, 3))
        old, c = c, (1 - f) * np.tanh(a[1]) + f * c
        h = np.tanh(o1 * c + o2 * old)
        assert_close(y, h, 1e-14)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_of_size_one_is_no_axis(axis: int) -> None:
    """Of the standard cell: in the other kinds an absent predecessor's zero cell takes part in a mean."""
    three = recurra.MultidimensionalLSTM(2, 3, 3, "standard", 1, dtype="float64", seed=1)
    two = recurra.MultidimensionalLSTM(2, 3, 2, "standard", 1, dtype="float64")
    p = of_direction(three.state_dict(), "000")
    blocks = [block for block in range(6) if block != 1 + axis]
    peeps = [block for block in range(5) if block != 1 + axis]
    two.load_state_dict(
        {
            "weight_ih_00": p["weight_ih"].reshape(6, 3, 2)[blocks].reshape(15, 2),
            "weight_hh_00": np.delete(p["weight_hh"], axis, 0).reshape(2, 6, 3, 3)[:, blocks].reshape(2, 15, 3),
            "bias_00": p["bias"].reshape(6, 3)[blocks].reshape(15),
            "weight_peep_00": p["weight_peep"].reshape(5, 3)[peeps].reshape(12),
        }
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    assert_close(three(np.expand_dims(x, 1 + axis)), np.expand_dims(two(x), 1 + axis), 1e-13)


def test_transposing_the_input_and_the_dimensions_transposes_the_output() -> None:
    layer = recurra.MultidimensionalLSTM(2, 3, 2, "standard", dtype="float64", seed=1)
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2))
    params = layer.state_dict()
    turned: dict[str, Array] = {}
    for name, other in (("00", "00"), ("01", "10"), ("10", "01"), ("11", "11")):
        p, blocks = of_direction(params, name), [0, 2, 1, 3, 4]
        turned[f"weight_ih_{other}"] = p["weight_ih"].reshape(5, 3, 2)[blocks].reshape(15, 2)
        turned[f"weight_hh_{other}"] = p["weight_hh"][::-1].reshape(2, 5, 3, 3)[:, blocks].reshape(2, 15, 3)
        turned[f"bias_{other}"] = p["bias"].reshape(5, 3)[blocks].reshape(15)
        turned[f"weight_peep_{other}"] = p["weight_peep"].reshape(4, 3)[[0, 2, 1, 3]].reshape(12)
    swapped = recurra.MultidimensionalLSTM(2, 3, 2, "standard", dtype="float64")
    swapped.load_state_dict(turned)
    y, mirrored = layer(x), swapped(x.swapaxes(1, 2)).swapaxes(1, 2).reshape(2, 3, 4, 4, 3)
    assert_close(y, mirrored[..., [0, 2, 1, 3], :].reshape(y.shape), 1e-13)


def saturated(kind: str, dims: int) -> recurra.MultidimensionalLSTM:
    """All gates open, every candidate tanh(1e-3)."""
    layer = recurra.MultidimensionalLSTM(1, 1, dims, kind, 1, dtype="float64", peephole=False)
    params = {name: np.zeros_like(value) for name, value in layer.state_dict().items()}
    bias = params["bias_" + "0" * dims]
    bias[:] = 40
    bias[dims + 1] = 1e-3
    layer.load_state_dict(params)
    return layer


def test_a_time_frequency_lstm_without_frequency_is_an_lstm() -> None:
    lstm = recurra.LSTM(3, 5, batch_first=True, peephole=True, dtype="float64", seed=1)
    layer = recurra.MultidimensionalLSTM(3, 5, 2, "time_frequency", 1, dtype="float64")
    p = lstm.state_dict()
    layer.load_state_dict(
        {
            "weight_ih_00": p["weight_ih_l0"],
            "weight_hh_00": np.stack([p["weight_hh_l0"], np.zeros((20, 5))]),
            "bias_00": p["bias_ih_l0"] + p["bias_hh_l0"],
            "weight_peep_00": p["weight_peep_l0"],
        }
    )
    x = np.random.default_rng(0).normal(size=(4, 6, 2, 3))
    for band in range(2):
        assert_close(layer(x)[:, :, band], lstm(x[:, :, band])[0], 1e-13)


def test_open_gates_of_the_standard_cell_count_paths() -> None:
    y = saturated("standard", 2)(np.zeros((1, 5, 6, 1)))[0, ..., 0]
    for a, b in product(range(5), range(6)):
        assert np.arctanh(y[a, b]) == pytest.approx(np.tanh(1e-3) * (math.comb(a + b + 2, a + 1) - 1), rel=1e-12)


@pytest.mark.parametrize("kind", ["stable", "halved"])
def test_the_other_cells_grow_with_the_paths_length_at_most(kind: str) -> None:
    y = saturated(kind, 2)(np.zeros((1, 40, 40, 1)))[0, ..., 0]
    longest = np.arange(40)[:, None] + np.arange(40) + 1
    assert (np.arctanh(y) <= np.tanh(1e-3) * longest * (1 + 1e-12)).all()


def test_parameter_counts_are_those_of_the_table() -> None:
    for dims, count in ((1, 3056), (2, 5104), (3, 7664)):
        assert recurra.MultidimensionalLSTM(30, 16, dims, "standard", 1).parameter_count == count
    for dims, count in ((2, 5040), (3, 7584)):
        for kind in ("stable", "leakylp"):
            assert recurra.MultidimensionalLSTM(30, 16, dims, kind, 1).parameter_count == count
