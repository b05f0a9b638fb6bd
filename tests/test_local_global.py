"""LocalGlobalLSTM beside its oracle, where it must equal something simpler, and its deep supervision."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits
from reference_grids import central_differences, local_global, lstm_blocks

import recurra
from recurra import training

SIZES = ((3, 4), (5, 3), (4, 6))
CASES: dict[str, dict[str, Any]] = {
    "paper": {},
    "standard": {"form": "standard"},
    "two layers": {"num_layers": 2},
    "three layers, standard": {"num_layers": 3, "form": "standard"},
    "shared": {"num_layers": 2, "share_spatial": True},
    "neighbour": {"num_layers": 3, "memory_from": "neighbour"},
    "shared neighbour": {"num_layers": 2, "share_spatial": True, "memory_from": "neighbour", "form": "standard"},
    "no bias": {"num_layers": 2, "bias": False},
}
ALL_CASES = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def corner(b: int) -> Any:
    """The index of a sample's own points."""
    return (b, *map(slice, SIZES[b]))


def problem(inputs: int = 2) -> Array:
    """x [3, 5, 6, 2], NaN outside the samples' sizes."""
    x, rng = np.full((3, 5, 6, inputs), np.nan), np.random.default_rng(0)
    for b, size in enumerate(SIZES):
        x[corner(b)] = rng.normal(size=(*size, inputs))
    return x


def expected(layer: recurra.LocalGlobalLSTM, x: Array, params: Any = None) -> Array:
    """The oracle's maps after each layer, zero outside the sizes."""
    params = layer.state_dict() if params is None else params
    maps = np.zeros((layer.num_layers, *x.shape[:-1], layer.hidden_size))
    for b in range(len(x)):
        maps[(slice(None), *corner(b))] = local_global(x[corner(b)], params, layer.form, layer.memory_from)
    return maps


@ALL_CASES
@pytest.mark.parametrize("hidden", [1, 3, 11])
def test_every_option_is_the_oracles(options: dict[str, Any], hidden: int) -> None:
    layer = recurra.LocalGlobalLSTM(2, hidden, **options, dtype="float64", seed=1)
    x = problem()
    wanted = expected(layer, x)
    assert_close(layer(x, SIZES, every_layer=True), wanted, 1e-13)
    assert_close(layer(x, SIZES), wanted[-1], 1e-13)
    single = recurra.LocalGlobalLSTM(2, hidden, **options)
    single.load_state_dict({name: value.astype("float32") for name, value in layer.state_dict().items()})
    found = single(x.astype("float32"), SIZES, every_layer=True)
    assert found.dtype == np.float32
    assert_close(found.astype("float64"), wanted, 3e-6)


@ALL_CASES
@pytest.mark.parametrize("every_layer", [False, True])
def test_gradients_are_central_differences(options: dict[str, Any], every_layer: bool) -> None:
    """Those of some numbers of every array, in all places of x."""
    layer = recurra.LocalGlobalLSTM(2, 2, **options, dtype="float64", seed=2)
    x = problem()
    y, tape = layer.forward(x, SIZES, every_layer=every_layer)
    rng = np.random.default_rng(3)
    dy, inside = rng.normal(size=y.shape), ~np.isnan(x[..., 0])
    arrays = {**layer.state_dict(), "x": x}

    def loss() -> float:
        maps = expected(layer, x, arrays)
        return float(((maps if every_layer else maps[-1]) * dy)[..., inside, :].sum())

    given = np.where(inside[..., None], dy, np.nan)  # nobody may look at the others
    gradients = tape.backward(given)
    assert gradients.x is not None and not gradients.x[~inside].any()
    assert set(gradients.params) == set(layer.state_dict())
    for name, gradient in {**gradients.params, "x": gradients.x}.items():
        value = arrays[name]
        assert gradient.shape == value.shape and gradient.dtype == np.float64
        places = np.flatnonzero(~np.isnan(value))
        for at in rng.permutation(places)[:12]:
            kept, losses = value.flat[at], []
            for step in (1e-5, -1e-5):
                value.flat[at] = kept + step
                losses.append(loss())
            value.flat[at] = kept
            slope = (losses[0] - losses[1]) / 2e-5
            assert gradient.flat[at] == pytest.approx(slope, rel=1e-6, abs=1e-8), (name, at)
    again = tape.backward(given, input_grad=False)
    assert again.x is None
    assert_same_bits(again.params, gradients.params)


def test_without_regions_and_neighbours_a_point_is_a_stack_of_its_own() -> None:
    hidden = 3
    layer = recurra.LocalGlobalLSTM(2, hidden, 3, dtype="float64", seed=1)
    params = layer.state_dict()
    for k in range(3):
        params[f"weight_depth_l{k}"][:, : 17 * hidden] = 0
    layer.load_state_dict(params)
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 2))
    h = x.reshape(-1, 2) @ params["weight_transition"].T + params["bias_transition"]
    m = np.zeros_like(h)
    for k in range(3):
        a = h @ params[f"weight_depth_l{k}"][:, 17 * hidden :].T + params[f"bias_depth_l{k}"]
        h, m = lstm_blocks(a, m, "paper")
    assert_close(layer(x), h.reshape(2, 4, 5, hidden), 1e-13)


def test_a_constant_map_stays_constant_away_from_the_border() -> None:
    layer = recurra.LocalGlobalLSTM(2, 4, 3, seed=1)
    y = layer(np.full((1, 9, 11, 2), 0.7, "float32"))[0]
    assert_same_bits(y[3:-3, 3:-3], np.broadcast_to(y[4, 4], (3, 5, 4)).copy())
    assert (y[0] != y[4]).any()


def test_shared_parameters_are_equal_ones() -> None:
    for memory_from in ("self", "neighbour"):
        options: dict[str, Any] = {"num_layers": 3, "memory_from": memory_from, "dtype": "float64"}
        shared = recurra.LocalGlobalLSTM(2, 4, **options, share_spatial=True, seed=1)
        own = recurra.LocalGlobalLSTM(2, 4, **options)
        params = shared.state_dict()
        for name, value in params.items():
            if "spatial" in name:
                params[name] = np.stack([value] * 8)
        own.load_state_dict(params)
        x = np.nan_to_num(problem())
        assert_same_bits(shared(x, SIZES), own(x, SIZES))


@pytest.mark.parametrize("far", [False, True])
def test_a_point_reaches_its_neighbours_and_as_a_maximum_all(far: bool) -> None:
    """One layer: a point that is no maximum changes at most itself and its neighbours."""
    layer = recurra.LocalGlobalLSTM(1, 1, dtype="float64", seed=1)
    layer.load_state_dict({**layer.state_dict(), "weight_transition": np.ones((1, 1))})
    x = np.random.default_rng(0).uniform(0.2, 0.8, (1, 9, 9, 1))
    other = x.copy()
    other[0, 4, 4] = 2 if far else 0.1
    changed = (layer(x) != layer(other))[0, ..., 0]
    around = np.zeros((9, 9), bool)
    around[3:6, 3:6] = True
    assert changed.all() if far else not changed[~around].any() and changed[around].all()


def test_the_first_of_equal_maxima_has_the_gradient() -> None:
    """The spatial and depth columns are zero, so that the maxima alone have gradients; -0 and 0 are equal."""
    layer = recurra.LocalGlobalLSTM(1, 1, bias=False, dtype="float64", seed=1)
    params = layer.state_dict()
    params["weight_transition"][:] = 1
    for name in ("weight_spatial_l0", "weight_depth_l0"):
        params[name][..., 9:] = 0
    layer.load_state_dict(params)
    x = np.zeros((1, 6, 7, 1))
    x[0, 0, 0] = -0.0
    x[0, 2:4, 2:4] = 5.0
    y, tape = layer.forward(x)
    dx = tape.backward(np.ones_like(y)).x
    assert dx is not None
    rows, columns = np.nonzero(dx[0, ..., 0])
    found = list(zip(rows.tolist(), columns.tolist(), strict=True))
    assert found == [(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4), (4, 0), (4, 2), (4, 4)]


def test_not_a_number_is_seen_everywhere_and_leads_back() -> None:
    layer = recurra.LocalGlobalLSTM(1, 2, 2, seed=1)
    x = np.ones((2, 4, 5, 1), "float32")
    x[0, 1, 2] = np.nan
    y, tape = layer.forward(x)
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()
    dx = tape.backward(np.ones_like(y)).x
    assert dx is not None and np.isnan(dx[0]).any() and np.isfinite(dx[1]).all()


def test_parameter_counts_are_those_of_the_table() -> None:
    transition = 16 * 7 + 16
    assert recurra.LocalGlobalLSTM(7, 16).parameter_count == 166464 + transition
    assert recurra.LocalGlobalLSTM(7, 16, 5).parameter_count == 5 * 166464 + transition
    assert recurra.LocalGlobalLSTM(7, 16, share_spatial=True).parameter_count == 36992 + transition


@pytest.mark.parametrize("size", [(2, 5), (5, 2)])
def test_maps_that_have_no_nine_regions_are_named(size: tuple[int, int]) -> None:
    layer = recurra.LocalGlobalLSTM(1, 2)
    text = rf"x: expected at least 3 nodes along each axis, got \[1, {size[0]}, {size[1]}\] nodes"
    with pytest.raises(ValueError, match=text):
        layer(np.ones((1, *size, 1), "float32"))
    with pytest.raises(ValueError, match=rf"sizes: expected 3..\[5, 5\], got \[{size[0]}, {size[1]}\] for sample 0"):
        layer.forward(np.ones((1, 5, 5, 1), "float32"), [size])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"input_size": 0}, ValueError, "input_size: expected at least 1"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1"),
        ({"num_layers": 0}, ValueError, "num_layers: expected at least 1"),
        ({"num_layers": 1 << 40}, MemoryError, "num_layers=1099511627776"),
        ({"hidden_size": 1 << 40}, MemoryError, "hidden_size=1099511627776"),
        ({"share_spatial": 1}, TypeError, "share_spatial: expected True or False"),
        ({"memory_from": "depth"}, ValueError, "memory_from: expected one of 'self', 'neighbour', got 'depth'"),
        ({"form": "lstm"}, ValueError, "form: expected one of 'paper', 'standard', got 'lstm'"),
        ({"bias": 1}, TypeError, "bias: expected True or False"),
        ({"device": "cuda"}, (ValueError, RuntimeError), "device|GPU|CUDA"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        recurra.LocalGlobalLSTM(**{"input_size": 2, "hidden_size": 3, **options})


# ------------------------------------------------------------------------------------------- deep supervision


def supervised(dtype: str = "float64") -> tuple[recurra.LocalGlobalLSTM, recurra.DeepSupervision, Any, Any, Any]:
    """A layer, heads, x, targets and which count."""
    layer = recurra.LocalGlobalLSTM(2, 3, 3, dtype=dtype, seed=1)
    heads = recurra.DeepSupervision(3, 4, num_layers=3, dtype=dtype, seed=2)
    x = np.nan_to_num(problem()).astype(dtype)
    targets = np.random.default_rng(0).integers(0, 4, x.shape[:-1])
    mask = np.zeros(x.shape[:-1], bool)
    for b in range(len(SIZES)):
        mask[corner(b)] = True
    return layer, heads, x, targets, mask


@pytest.mark.parametrize("weights", [None, [0.25, 0.0, 2.0]])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_sum_of_the_layers_losses(weights: Any, masked: bool) -> None:
    layer, heads, x, targets, mask = supervised()
    counted = mask if masked else None
    maps, tape = layer.forward(x, SIZES, every_layer=True)
    loss, gradients = heads.loss(maps, targets, counted, weights)
    params = heads.state_dict()
    total = 0.0
    for k, factor in enumerate([1.0, 1.0, 1.0] if weights is None else weights):
        scores = maps[k] @ params[f"weight_l{k}"].T + params[f"bias_l{k}"]
        total += factor * training.softmax_cross_entropy(scores, targets, counted)[0]
    assert loss == pytest.approx(total, rel=1e-12)

    def at(arrays: dict[str, Array]) -> float:
        heads.load_state_dict({name: arrays[name] for name in params})
        return heads.loss(arrays["maps"], targets, counted, weights)[0]

    wanted = central_differences(at, {**params, "maps": maps})
    assert set(gradients.params) == set(params) and gradients.x is not None
    for name, value in {**gradients.params, "maps": gradients.x}.items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert tape.backward(gradients.x).params.keys() == layer.state_dict().keys()


def test_a_loss_reaches_the_heads_of_its_own_layer_and_the_layers_below() -> None:
    layer, heads, x, targets, _ = supervised()
    maps, tape = layer.forward(x, every_layer=True)
    _, gradients = heads.loss(maps, targets, weights=[0.0, 1.0, 0.0])
    for k in range(3):
        assert gradients.params[f"weight_l{k}"].any() == gradients.params[f"bias_l{k}"].any() == (k == 1)
    assert gradients.x is not None
    params = tape.backward(gradients.x).params
    for name, value in params.items():
        assert value.any() == (not name.endswith("_l2") and name not in ("weight_spatial_l1", "bias_spatial_l1")), name


def test_scores_are_those_of_the_last_head() -> None:
    layer, heads, x, _, _ = supervised("float32")
    params, y = heads.state_dict(), layer(x)
    scores = heads(y)
    assert scores.shape == (*y.shape[:-1], 4) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, y @ params["weight_l2"].T + params["bias_l2"], rtol=1e-5, atol=1e-6)
    twin = pickle.loads(pickle.dumps(heads))
    assert_same_bits(twin(y), scores)
    assert_same_bits(eval(repr(heads), vars(recurra)).state_dict().keys() == params.keys(), True)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"maps": np.ones((2, 3, 5, 6, 3))}, ValueError, r"maps: expected shape \[3, \.\.\., 3\]"),
        ({"maps": np.ones((3, 3, 5, 6, 3), "float32")}, TypeError, "maps: expected float64, got float32"),
        ({"targets": np.full((3, 5, 6), 4)}, ValueError, "targets: expected values in 0..3"),
        ({"targets": np.zeros((3, 5, 5), int)}, ValueError, "targets: expected shape"),
        ({"mask": np.zeros((3, 5, 6), bool)}, ValueError, "mask: expected at least one position"),
        ({"weights": [1.0, 1.0]}, ValueError, "weights: expected 3 numbers"),
        ({"weights": [1.0, -1.0, 1.0]}, ValueError, "weights: expected .*at least 0"),
        ({"weights": [1.0, float("nan"), 1.0]}, ValueError, "weights"),
        ({"weights": "abc"}, TypeError, "weights"),
    ],
)
def test_wrong_supervision_is_named(change: dict[str, Any], error: type[Exception], text: str) -> None:
    _, heads, x, targets, _ = supervised()
    given = {"maps": np.ones((3, *x.shape[:-1], 3)), "targets": targets, **change}
    with pytest.raises(error, match=text):
        heads.loss(**given)
