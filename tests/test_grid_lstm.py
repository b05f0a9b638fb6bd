"""GridLSTM beside its oracle, and where it must equal something simpler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close
from reference_grids import Grid, central_differences, grid

import recurra

EXTENTS = (3, 2, 2, 2)
SIZES = ((3, 2, 2, 2), (1, 2, 1, 2), (2, 1, 2, 1))

# Every option alone and together with others that it could disturb.
CASES: dict[str, dict[str, Any]] = {
    "no depth": {"dims": 2},
    "one dimension": {"dims": 1},
    "four dimensions": {"dims": 4},
    "depth alone": {"dims": 0, "depth": 3},
    "depth": {"dims": 1, "depth": 2},
    "depth over volumes": {"dims": 3, "depth": 2},
    "standard": {"dims": 1, "depth": 2, "form": "standard"},
    "every": {"dims": 1, "depth": 2, "input": "every"},
    "no memory enters": {"dims": 1, "depth": 2, "proj_m": False},
    "no bias": {"dims": 2, "bias": False},
    "priority of the depth": {"dims": 1, "depth": 2, "priority": (1,)},
    "priority of an axis": {"dims": 2, "depth": 2, "priority": (0,)},
    "two priorities": {"dims": 2, "depth": 2, "priority": (0, 2), "input": "every"},
    "tied": {"dims": 2, "depth": 2, "tied": True},
    "tied depth": {"dims": 1, "depth": 3, "tied_depth": True},
    "all tied, with priority": {"dims": 1, "depth": 2, "tied": True, "tied_depth": True, "priority": (1,)},
    "identity": {"dims": 1, "depth": 2, "non_lstm": {1: "identity"}, "priority": (1,)},
    "relu": {"dims": 2, "depth": 2, "non_lstm": {2: "relu"}},
    "tanh": {"dims": 2, "non_lstm": {0: "tanh"}, "form": "standard"},
    "no memory at all": {"dims": 2, "non_lstm": {0: "tanh", 1: "relu"}},
    "residual": {"dims": 1, "depth": 2, "residual": (1,), "priority": (1,)},
    "residual along an axis": {"dims": 1, "depth": 2, "residual": (0,), "form": "standard"},
    "residual without a depth": {"dims": 2, "residual": (1,), "directions": ["10"]},
    "residual everywhere": {"dims": 2, "depth": 2, "residual": (0, 1, 2), "non_lstm": {0: "tanh"}, "input": "every"},
    "residual and linear": {"dims": 2, "residual": (0, 1), "non_lstm": {0: "relu", 1: "identity"}, "priority": (0,)},
    "two directions": {"dims": 1, "directions": "all"},
    "some directions of a plane": {"dims": 2, "directions": ["10", "01"], "combine": "sum"},
    "backwards alone": {"dims": 2, "directions": ["11"], "tied": True},
    "four deep directions": {"dims": 2, "depth": 2, "directions": "all", "combine": "mean", "residual": (2,)},
    "two deep directions": {"dims": 1, "depth": 2, "directions": "all", "input": "every", "tied_depth": True},
    "residual, seen by others": {"dims": 1, "depth": 3, "residual": (1,), "priority": (0,), "tied_depth": True},
}
ALL_CASES = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def corner(b: int, size: tuple[int, ...]) -> Any:
    """The index of a sample's own nodes."""
    return (b, *map(slice, size))


def problem(dims: int, inputs: int = 2) -> tuple[Array, list[tuple[int, ...]]]:
    """x [3, D1, .., DN, 2], NaN outside the samples' sizes, and these."""
    x = np.full((3, *EXTENTS[:dims], inputs), np.nan)
    sizes = [size[:dims] for size in SIZES]
    rng = np.random.default_rng(dims)
    for b, size in enumerate(sizes):
        x[corner(b, size)] = rng.normal(size=(*size, inputs))
    return x, sizes


def expected(layer: recurra.GridLSTM, x: Array, sizes: Any, params: Any = None) -> Array:
    """The oracle's output of a batch, zero outside the sizes."""
    spec = Grid(
        dims=layer.dims,
        depth=layer.depth or 0,
        form=layer.form,
        priority=layer.priority,
        linear=layer.non_lstm,
        residual=layer.residual,
        tied=layer.tied,
        tied_depth=layer.tied_depth,
        every=layer.input == "every",
    )
    params = layer.state_dict() if params is None else params
    outputs = []
    for name in layer.directions:
        tail = "" if set("".join(layer.directions)) <= {"0"} else f"_{name}"
        of_direction = {key.removesuffix(tail): value for key, value in params.items() if key.endswith(tail)}
        axes = tuple(axis for axis, digit in enumerate(name) if digit == "1")
        y = np.zeros((*x.shape[:-1], layer.hidden_size * (1 if layer.depth else layer.dims)))
        for b, size in enumerate(sizes):
            own = corner(b, size)
            y[own] = np.flip(grid(np.flip(x[own], axes), of_direction, spec), axes)
        outputs.append(y)
    if layer.combine == "concat":
        return np.concatenate(outputs, axis=-1)
    return np.asarray(sum(outputs) / (len(outputs) if layer.combine == "mean" else 1))


@ALL_CASES
@pytest.mark.parametrize("hidden", [1, 5, 19])
def test_every_option_is_the_oracles(options: dict[str, Any], hidden: int) -> None:
    layer = recurra.GridLSTM(2, hidden, **options, dtype="float64", seed=1)
    x, sizes = problem(layer.dims)
    assert_close(layer(x, sizes if layer.dims else None), expected(layer, x, sizes), 1e-13)
    single = recurra.GridLSTM(2, hidden, **options)
    single.load_state_dict({name: value.astype("float32") for name, value in layer.state_dict().items()})
    assert_close(
        single(x.astype("float32"), sizes if layer.dims else None).astype("float64"), expected(layer, x, sizes), 3e-6
    )


@ALL_CASES
def test_gradients_are_central_differences(options: dict[str, Any]) -> None:
    layer = recurra.GridLSTM(2, 2, **options, dtype="float64", seed=2)
    x, sizes = problem(layer.dims)
    dy = np.random.default_rng(3).normal(size=layer(x, sizes if layer.dims else None).shape)
    inside = ~np.isnan(x[..., 0])

    def loss(arrays: dict[str, Array]) -> float:
        full = np.full_like(x, np.nan)
        full[inside] = arrays["x"]
        return float((expected(layer, full, sizes, arrays) * dy).sum())

    wanted = central_differences(loss, {**layer.state_dict(), "x": x[inside]})
    dy[~inside] = np.nan  # which nobody may look at
    for recompute in (False, True):
        _, tape = layer.forward(x, sizes if layer.dims else None, recompute=recompute)
        gradients = tape.backward(dy)
        assert gradients.x is not None and not gradients.x[~inside].any()
        found = {**gradients.params, "x": gradients.x[inside]}
        assert set(found) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=5e-9, err_msg=name)
        again = tape.backward(dy, input_grad=False)
        assert again.x is None
        for name, value in again.params.items():
            np.testing.assert_array_equal(value, gradients.params[name])


def test_one_dimension_is_an_lstm() -> None:
    lstm = recurra.LSTM(3, 5, batch_first=True, dtype="float64", seed=1)
    layer = recurra.GridLSTM(3, 5, 1, form="standard", dtype="float64")
    p = lstm.state_dict()
    bias = p["bias_ih_l0"] + p["bias_hh_l0"]
    layer.load_state_dict({"weight_ih_l0": p["weight_ih_l0"], "weight_hh_l0": p["weight_hh_l0"], "bias_l0": bias})
    x = np.random.default_rng(0).normal(size=(4, 6, 3))
    assert_close(layer(x), lstm(x)[0], 1e-13)


def test_a_prioritised_identity_depth_is_a_stacked_lstm() -> None:
    hidden, layers = 4, 3
    lstm = recurra.LSTM(hidden, hidden, layers, batch_first=True, dtype="float64", seed=1)
    layer = recurra.GridLSTM(
        hidden, hidden, 1, layers, form="standard", priority=(1,), non_lstm={1: "identity"}, dtype="float64"
    )
    p, params = lstm.state_dict(), {"proj_h": np.eye(hidden), "proj_m": np.zeros((hidden, hidden))}
    for k in range(layers):
        of_time = np.hstack([p[f"weight_hh_l{k}"], p[f"weight_ih_l{k}"]])
        params[f"weight_hh_l{k}"] = np.vstack([of_time, np.eye(hidden, 2 * hidden)])
        params[f"bias_l{k}"] = np.concatenate([p[f"bias_ih_l{k}"] + p[f"bias_hh_l{k}"], np.zeros(hidden)])
    layer.load_state_dict(params)
    x, lengths = np.random.default_rng(0).normal(size=(4, 6, hidden)), [6, 1, 3, 5]
    assert_close(layer(x, [[n] for n in lengths]), lstm(x, lengths=lengths)[0], 1e-13)


def test_equal_weights_are_tied_ones() -> None:
    options: dict[str, Any] = {"dims": 2, "depth": 3, "priority": (2,), "dtype": "float64"}
    tied = recurra.GridLSTM(2, 3, **options, tied=True, tied_depth=True, seed=1)
    untied = recurra.GridLSTM(2, 3, **options)
    p = tied.state_dict()
    params = {name: p[name] for name in ("proj_h", "proj_m")}
    for k in range(3):
        params |= {f"weight_hh_l{k}": np.tile(p["weight_hh_l0"], (3, 1)), f"bias_l{k}": np.tile(p["bias_l0"], 3)}
    untied.load_state_dict(params)
    x, sizes = problem(2)
    np.testing.assert_array_equal(tied(x, sizes), untied(x, sizes))


def test_input_in_every_block_with_zero_columns_is_a_side_of_zeros() -> None:
    every = recurra.GridLSTM(2, 3, 2, 2, "every", dtype="float64", seed=1)
    side = recurra.GridLSTM(2, 3, 2, 2, dtype="float64")
    params = every.state_dict()
    zeros = {name: np.zeros_like(value) for name, value in params.items() if name.startswith("weight_ih")}
    every.load_state_dict({**params, **zeros})
    rest = {name: value for name, value in params.items() if name not in zeros}
    side.load_state_dict({**rest, "proj_h": np.zeros((3, 2)), "proj_m": np.zeros((3, 2))})
    x, sizes = problem(2)
    np.testing.assert_array_equal(every(x, sizes), side(x, sizes))


def test_names_of_directions() -> None:
    names = {"weight_ih_l0", "weight_hh_l0", "bias_l0"}
    for one in (1, ["00"]):
        assert set(recurra.GridLSTM(2, 3, directions=one).state_dict()) == names
    every = recurra.GridLSTM(2, 3, directions="all")
    wanted = {f"{name}_{direction}" for name in names for direction in ("00", "01", "10", "11")}
    assert set(every.state_dict()) == wanted
    assert every(np.ones((1, 2, 2, 2), "float32")).shape == (1, 2, 2, 24)
    assert recurra.GridLSTM(2, 3, 1, 2, directions="all", combine="sum")(np.ones((1, 2, 2), "float32")).shape[-1] == 3
    with pytest.raises(ValueError, match="directions: expected 'all', 1 or some of 00, 01, 10, 11, each once"):
        recurra.GridLSTM(2, 3, directions=["0"])
    with pytest.raises(ValueError, match="combine: expected one of 'concat', 'sum', 'mean', got 'max'"):
        recurra.GridLSTM(2, 3, directions="all", combine="max")


def test_priority_changes_the_prioritised_output_of_a_block_alone() -> None:
    plain = recurra.GridLSTM(2, 3, 2, dtype="float64", seed=1)
    first = recurra.GridLSTM(2, 3, 2, priority=(0,), dtype="float64", seed=1)
    x = np.random.default_rng(0).normal(size=(2, 1, 1, 2))
    np.testing.assert_array_equal(plain(x)[..., 3:], first(x)[..., 3:])
    assert (plain(x)[..., :3] != first(x)[..., :3]).all()


def test_parameter_counts_are_those_of_the_table() -> None:
    projections = 2 * 16 * 30
    assert recurra.GridLSTM(30, 16, 1, 1).parameter_count == 4224 + projections
    assert recurra.GridLSTM(30, 16, 1, 1, tied=True).parameter_count == 2112 + projections
    assert recurra.GridLSTM(30, 16, 1, 5, tied_depth=True).parameter_count == 4224 + projections
    assert recurra.GridLSTM(30, 16, 1, 5).parameter_count == 5 * 4224 + projections
