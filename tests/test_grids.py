"""What layers over grids have in common: bits, bad input, parameters, pickles."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_same_bits, assert_same_bits_on_avx2_and_avx512

import recurra

MAKERS: dict[str, Callable[..., Any]] = {
    "standard": lambda **o: recurra.MultidimensionalLSTM(3, 21, 2, "standard", **{"seed": 1, **o}),
    "leakylp": lambda **o: recurra.MultidimensionalLSTM(3, 9, 2, "leakylp", **{"seed": 1, **o}),
    "grid": lambda **o: recurra.GridLSTM(3, 21, 2, **{"seed": 1, **o}),
    "deep grid": lambda **o: recurra.GridLSTM(3, 9, 2, 2, priority=(2,), tied_depth=True, **{"seed": 1, **o}),
    "local-global": lambda **o: recurra.LocalGlobalLSTM(3, 5, 2, **{"seed": 1, **o}),
    "local-global, neighbour": lambda **o: recurra.LocalGlobalLSTM(
        3, 9, 2, share_spatial=True, memory_from="neighbour", **{"seed": 1, **o}
    ),
}
ALL = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
SIZES = np.array([[7, 6], [1, 1], [3, 6], [7, 2], [4, 5]])


def own_sizes(layer: Any) -> Array:
    """SIZES, as large as the layer needs."""
    return np.maximum(SIZES, 3) if isinstance(layer, recurra.LocalGlobalLSTM) else SIZES


def batch(dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(size=(len(SIZES), 7, 6, 3)).astype(dtype)


def run(layer: Any, x: Array, sizes: Any, dy: Array | None = None, recompute: bool = False) -> tuple[Array, Array, Any]:
    """Output, gradient of x, and of the parameters."""
    y, tape = layer.forward(x, sizes, recompute=recompute)
    gradients = tape.backward(upstream(layer, x.shape) if dy is None else dy)
    return y, gradients.x, gradients.params


def upstream(layer: Any, shape: tuple[int, ...]) -> Array:
    width = layer(np.zeros((1, 3, 3, 3), layer.dtype)).shape[-1]
    return np.random.default_rng(1).normal(size=(*shape[:-1], width)).astype(layer.dtype)


@ALL
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sample_has_the_same_bits_alone_and_in_any_batch(make: Callable[..., Any], dtype: str) -> None:
    layer, x = make(dtype=dtype), batch(dtype)
    dy = upstream(layer, x.shape)
    sizes = own_sizes(layer)
    y, dx, _ = run(layer, x, sizes, dy)
    for b, (rows, columns) in enumerate(sizes):
        corner = np.s_[b : b + 1, :rows, :columns]
        own_y, own_dx, _ = run(layer, x[corner], None, dy[corner])
        assert_same_bits([y[corner], dx[corner]], [own_y, own_dx])
    order = [3, 0, 4, 1, 2]
    other_y, other_dx, _ = run(layer, x[order], sizes[order], dy[order])
    assert_same_bits([y[order], dx[order]], [other_y, other_dx])


@ALL
def test_threads_and_recomputing_change_no_bit(make: Callable[..., Any], restore_threads: None) -> None:
    layer, x = make(), batch()
    recurra.set_num_threads(1)
    sizes = own_sizes(layer)
    wanted = run(layer, x, sizes)
    assert_same_bits(layer(x, sizes), wanted[0])
    for threads in (1, 2, 3):
        recurra.set_num_threads(threads)
        for recompute in (False, True):
            assert_same_bits(run(layer, x, sizes, recompute=recompute), wanted)


def test_instruction_sets_agree_on_every_bit(tmp_path: Any) -> None:
    script = (
        "import sys; from checks import save_results; import test_grids as t; results = {}\n"
        "for name, make in t.MAKERS.items():\n"
        "    layer = make(); y, dx, params = t.run(layer, t.batch(), t.own_sizes(layer))\n"
        "    results |= {f'{name} y': y, f'{name} dx': dx, **{f'{name} {p}': v for p, v in params.items()}}\n"
        "save_results(sys.argv[1], results)\n"
    )
    assert_same_bits_on_avx2_and_avx512(script, tmp_path)


@ALL
def test_a_tape_keeps_what_it_needs(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    dy = upstream(layer, x.shape)
    wanted = run(layer, x, own_sizes(layer), dy)
    y, tape = layer.forward(x, own_sizes(layer))
    x[...] = 7
    layer.load_state_dict({name: 0 * value for name, value in layer.state_dict().items()})
    y[...] = 7
    for _ in range(2):
        gradients = tape.backward(dy)
        assert_same_bits([gradients.x, gradients.params], wanted[1:])
    assert tape.nbytes > x.nbytes
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        pickle.dumps(tape)


@ALL
def test_recomputing_keeps_less(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    assert layer.forward(x, recompute=True)[1].nbytes < layer.forward(x)[1].nbytes


@ALL
def test_strided_and_read_only_input_is_read(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    wide = np.zeros((len(x), 6, 7, 6), "float32")
    wide[..., ::2] = x.swapaxes(1, 2)
    view = wide[..., ::2].swapaxes(1, 2)
    view.flags.writeable = False
    assert_same_bits(layer(view, own_sizes(layer)), layer(x, own_sizes(layer)))


@ALL
def test_outputs_outside_a_sample_are_zero_and_its_padding_is_ignored(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    sizes = own_sizes(layer)
    wanted = layer(x, sizes)
    for b, (rows, columns) in enumerate(sizes):
        assert not wanted[b, rows:].any() and not wanted[b, :, columns:].any()
        assert wanted[b, :rows, :columns].all()
        x[b, rows:] = x[b, :, columns:] = np.nan
    assert_same_bits(layer(x, sizes.tolist()), wanted)


@ALL
def test_parameters_are_replaced_at_once_or_not_at_all(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    y, params = layer(x), layer.state_dict()
    assert layer.parameter_count == sum(value.size for value in params.values())
    for name, value in params.items():
        value[...] += 1  # copies
        for wrong in ({}, {name: value.astype("float64")}, {name: value[:-1]}):
            others = {other: params[other] for other in params if other != name}
            with pytest.raises(ValueError, match=f"state_dict(.|\n)*{name}"):
                layer.load_state_dict({**others, **wrong})
    with pytest.raises(ValueError, match="unexpected: more"):
        layer.load_state_dict({**params, "more": np.zeros(1, "float32")})
    assert_same_bits(layer(x), y)
    layer.load_state_dict(params)
    assert (layer(x) != y).any()
    assert_same_bits(layer.state_dict(), params)


@ALL
def test_a_layer_is_fixed_and_pickles(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), eval(repr(layer), vars(recurra))):
        assert repr(twin) == repr(layer)
        twin.load_state_dict(layer.state_dict())
        assert_same_bits(twin(x, own_sizes(layer)), layer(x, own_sizes(layer)))
    assert_same_bits(pickle.loads(pickle.dumps(layer))(x), layer(x))
    for name in ("hidden_size", "anything"):
        with pytest.raises(AttributeError, match="is fixed"):
            setattr(layer, name, 1)


@ALL
def test_a_seed_draws_the_same_and_within_the_bound(make: Callable[..., Any]) -> None:
    first, second = make(seed=5), make(seed=None, rng=np.random.default_rng(5))
    assert_same_bits(first.state_dict(), second.state_dict())
    for value in first.state_dict().values():
        assert np.abs(value).max() <= 1 / np.sqrt(first.hidden_size)
        assert value.std() > 0.4 / np.sqrt(first.hidden_size)


@ALL
def test_what_grids_lack_says_so(make: Callable[..., Any]) -> None:
    layer = make()
    with pytest.raises(TypeError, match=r"stream: .*LSTM has none, for a node of a grid needs others"):
        layer.stream(batch=1)
    with pytest.raises(TypeError, match=r"quantize: .*LSTM has float32 and float64 kernels only"):
        layer.quantize("int8")
    with pytest.raises(ValueError, match=r"device: expected 'cpu', for .*LSTM has no GPU kernels, got 'cuda:1'"):
        make(device="cuda:1")
    with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or 'cuda:0', got 'gpu'"):
        make(device="gpu")
    with pytest.raises(TypeError, match="dtype: expected float32 or float64"):
        make(dtype="float16")


def wrong_inputs() -> dict[str, tuple[Any, Any, type[Exception], str]]:
    x = batch()
    return {
        "dtype": (x.astype("float64"), None, TypeError, "x: expected float32, got float64"),
        "kind": ([1.0], None, TypeError, "x: expected a NumPy or DLPack array, got list"),
        "axes": (x[0], None, ValueError, r"x: expected shape \[B, D1, D2, 3\], got \[7, 6, 3\]"),
        "values": (x[..., :2], None, ValueError, r"x: expected shape \[B, D1, D2, 3\], got \[5, 7, 6, 2\]"),
        "no samples": (x[:0], None, ValueError, r"x: expected at least one sample .*, got \[0, 7, 6\]"),
        "empty axis": (x[:, :, :0], None, ValueError, r"x: .* no empty axis, got \[5, 7, 0\]"),
        "fewer sizes": (x, SIZES[:4], ValueError, r"sizes: expected shape \[5, 2\], got \[4, 2\]"),
        "flat sizes": (x, SIZES[:, 0], ValueError, r"sizes: expected shape \[5, 2\], got \[5\]"),
        "size too large": (
            x,
            SIZES + np.array([0, 1]),
            ValueError,
            r"sizes: expected [13]..\[7, 6\], got \[7, 7\] for sample 0",
        ),
        "size zero": (x, SIZES - np.array([0, 1]), ValueError, r"sizes: .* got \[1, 0\] for sample 1"),
        "real sizes": (x, SIZES * 1.0, TypeError, "sizes: expected integers, got float64"),
    }


@ALL
@pytest.mark.parametrize("wrong", wrong_inputs().values(), ids=wrong_inputs())
def test_wrong_input_is_named(make: Callable[..., Any], wrong: tuple[Any, Any, type[Exception], str]) -> None:
    x, sizes, error, text = wrong
    layer = make()
    for call in (layer, layer.forward):
        with pytest.raises(error, match=text):
            call(x, sizes)


@ALL
def test_wrong_gradients_are_named(make: Callable[..., Any]) -> None:
    layer, x = make(), batch()
    y, tape = layer.forward(x)
    with pytest.raises(TypeError, match="dy: expected float32, got float64"):
        tape.backward(y.astype("float64"))
    with pytest.raises(ValueError, match="dy: expected shape"):
        tape.backward(y[..., :-1])
    with pytest.raises(TypeError, match="input_grad: expected True or False, got 1"):
        tape.backward(y, input_grad=1)
    with pytest.raises(TypeError, match="recompute: expected True or False, got None"):
        layer.forward(x, recompute=None)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dims": 0}, ValueError, "dims: expected at least 1, got 0"),
        ({"dims": 5}, ValueError, "dims: expected 1..4, got 5"),
        ({"kind": "lstm"}, ValueError, "kind: expected one of 'standard'"),
        ({"directions": 3}, TypeError, "directions: expected 'all', 1 or some of 00, 01, 10, 11, got 3"),
        ({"directions": ()}, ValueError, "directions: expected 'all', 1 or some of"),
        ({"directions": ("00", "00")}, ValueError, "directions: .* each once"),
        ({"directions": ("000",)}, ValueError, "directions: .*got"),
        ({"directions": "00"}, TypeError, "directions: .*got '00'"),
        ({"combine": "max"}, ValueError, "combine: expected one of 'concat', 'sum', 'mean'"),
        ({"kind": "stable", "peephole": True}, ValueError, "peephole: expected None or False with kind='stable'"),
        ({"kind": "time_frequency", "dims": 3}, ValueError, "dims: expected 2 with kind='time_frequency', got 3"),
        ({"bias": 1}, TypeError, "bias: expected True or False"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1"),
        ({"hidden_size": 1 << 40}, MemoryError, "hidden_size=1099511627776"),
    ],
)
def test_wrong_options_of_a_multidimensional_lstm_are_named(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        recurra.MultidimensionalLSTM(**{"input_size": 2, "hidden_size": 3, **options})


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dims": 0}, ValueError, "dims: expected at least 1, got 0"),
        ({"dims": 4, "depth": 2}, ValueError, "dims: expected 0..3, got 4"),
        ({"depth": 0}, ValueError, "depth: expected at least 1, got 0"),
        ({"input": "side"}, ValueError, "input: expected 'every' without a depth"),
        ({"input": "all"}, ValueError, "input: expected one of 'side', 'every', got 'all'"),
        ({"proj_m": False}, ValueError, "proj_m: expected True with input='every'"),
        ({"form": "lstm"}, ValueError, "form: expected one of 'paper', 'standard'"),
        ({"priority": 1}, TypeError, "priority: expected a sequence of dimensions, got 1"),
        ({"priority": (2,)}, ValueError, r"priority: expected dimensions in 0..1, got 2"),
        ({"priority": (0, 0)}, ValueError, "priority: expected each dimension once"),
        ({"non_lstm": (1,)}, TypeError, "non_lstm: expected a mapping"),
        ({"non_lstm": {2: "tanh"}}, ValueError, r"non_lstm: expected dimensions in 0..1, got 2"),
        ({"non_lstm": {0: "sigmoid"}}, ValueError, "non_lstm 0: expected one of 'identity', 'relu', 'tanh'"),
        ({"non_lstm": {0: "tanh"}, "tied": True}, ValueError, "non_lstm: expected none with tied=True"),
        ({"tied_depth": True}, ValueError, "tied_depth: expected False without a depth"),
        ({"residual": True}, TypeError, "residual: expected a sequence of dimensions, got True"),
        ({"residual": (2,)}, ValueError, r"residual: expected dimensions in 0..1, got 2"),
        ({"residual": (1, 1)}, ValueError, "residual: expected each dimension once"),
        ({"hidden_size": 1 << 40}, MemoryError, "hidden_size=1099511627776"),
    ],
)
def test_wrong_options_of_a_grid_lstm_are_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        recurra.GridLSTM(**{"input_size": 2, "hidden_size": 3, **options})
