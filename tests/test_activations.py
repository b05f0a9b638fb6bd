"""Activations and clip of RNN, LSTM and GRU: every function in every place against the oracle, and bad input."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import reference
import reference_backward
import reference_general
from checks import Array, assert_close, assert_same_bits, states
from gradients import assert_gradients_close
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import Activation, functional
from recurra.activation import CORE_NAMES

CASES: list[Any] = [
    "tanh",
    "sigmoid",
    "relu",
    "linear",
    "hard_sigmoid",
    Activation("hard_sigmoid", alpha=1 / 6),
    "softsign",
    "softplus",
    "leaky_relu",
    Activation("leaky_relu", alpha=0.3),
    "elu",
    Activation("elu", alpha=0.7),
    "thresholded_relu",
    Activation("thresholded_relu", alpha=0.25),
    Activation("scaled_tanh", alpha=1.7, beta=0.6),
    Activation("affine", alpha=0.4, beta=0.1),
]
ALL_FUNCTIONS = pytest.mark.parametrize("function", CASES, ids=str)
# Family, options of the layer, and the options that take an activation.
LAYERS: list[tuple[type[Any], dict[str, Any], tuple[str, ...]]] = [(recurra.RNN, {}, ("nonlinearity",))]
LAYERS += [
    (recurra.GRU, {"reset": reset, "update": update}, ("activation", "recurrent_activation"))
    for reset, update in itertools.product(("after", "before"), ("keep", "write"))
]
LAYERS += [
    (
        recurra.LSTM,
        {"coupled": coupled, "peephole": peephole, "proj_size": proj},
        ("activation", "recurrent_activation", "output_activation"),
    )
    for coupled, peephole, proj in itertools.product((False, True, "f_from_i"), (False, True), (0, 3))
]
ALL_LAYERS = pytest.mark.parametrize(
    ("kind", "options", "places"),
    LAYERS,
    ids=["-".join([kind.__name__, *map(str, options.values())]) for kind, options, _ in LAYERS],
)


def problem(layer: Any, steps: int = 5, batch: int = 3) -> tuple[Array, Any]:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, (steps, batch, layer.input_size)).astype(layer.dtype)
    widths = [layer.proj_size or layer.hidden_size] + [layer.hidden_size] * (reference.CELLS[layer.cell].states - 1)
    rows = layer.num_layers * (1 + layer.bidirectional)
    state = tuple(rng.uniform(-1, 1, (rows, batch, width)).astype(layer.dtype) for width in widths)
    return x, state if len(state) > 1 else state[0]


def against_oracle(layer: Any, lengths: tuple[int, ...] | None = None, tolerance: float = 1e-11) -> None:
    """Outputs, final states and all gradients."""
    x, state = problem(layer)
    y, final, tape = layer.forward(x, state, lengths=lengths)
    rng = np.random.default_rng(2)
    dy = rng.normal(size=y.shape)
    dfinal = tuple(rng.normal(size=part.shape) for part in states(final))
    of_oracle = (layer.cell, x, layer.state_dict())
    constants = dict(layer._packed.constants)
    want_y, want_final = reference.run(*of_oracle, states(state), lengths, constants)
    assert_close(y, want_y, tolerance)
    assert_close(final, want_final, tolerance)
    want = reference_backward.gradients(
        *of_oracle, dy, dfinal, state=states(state), lengths=lengths, constants=constants
    )
    got = tape.backward(dy, dfinal if len(dfinal) > 1 else dfinal[0])
    assert_gradients_close(got, want, tolerance)


@ALL_FUNCTIONS
@ALL_LAYERS
def test_a_function_in_each_place_is_that_of_the_oracle(
    kind: type[Any], options: dict[str, Any], places: tuple[str, ...], function: Any
) -> None:
    for place in places:
        against_oracle(kind(3, 5, **options, **{place: function}, dtype="float64", seed=4))


@ALL_LAYERS
def test_directions_have_functions_of_their_own(
    kind: type[Any], options: dict[str, Any], places: tuple[str, ...]
) -> None:
    pairs = [("softsign", "relu"), ("hard_sigmoid", Activation("elu", alpha=0.5)), ("softplus", "tanh")]
    layer = kind(
        3, 5, 2, bidirectional=True, **options, **dict(zip(places, pairs, strict=False)), dtype="float64", seed=5
    )
    against_oracle(layer, (5, 0, 3))


@ALL_FUNCTIONS
@ALL_LAYERS
def test_gradients_are_central_differences(
    kind: type[Any], options: dict[str, Any], places: tuple[str, ...], function: Any
) -> None:
    """Along one direction in the space of input, states and parameters; nothing lies at a kink."""
    rng = np.random.default_rng(10)
    layer = kind(3, 5, **options, **dict.fromkeys(places, function), clip=2.0, dtype="float64", seed=11)
    x, state = problem(layer)
    given = {"x": x / 2, **{f"state {k}": part / 2 for k, part in enumerate(states(state))}}
    given |= layer.state_dict()
    along = {name: rng.normal(size=value.shape) for name, value in given.items()}

    def run(step: float) -> tuple[Any, Any]:
        moved = {name: value + step * along[name] for name, value in given.items()}
        layer.load_state_dict({name: moved[name] for name in layer.state_dict()})
        parts = tuple(moved[name] for name in moved if name.startswith("state"))
        y, final, tape = layer.forward(moved["x"], parts if len(parts) > 1 else parts[0])
        return [y, *states(final)], tape

    results, tape = run(0.0)
    weights = [rng.normal(size=part.shape) for part in results]
    ahead, behind = (sum((w * part).sum() for w, part in zip(weights, run(e)[0], strict=True)) for e in (1e-6, -1e-6))
    found = tape.backward(weights[0], tuple(weights[1:]) if len(weights) > 2 else weights[1])
    gradients = {"x": found.x, **{f"state {k}": part for k, part in enumerate(states(found.state))}, **found.params}
    slope = sum((gradients[name] * along[name]).sum() for name in given)
    assert slope == pytest.approx((ahead - behind) / 2e-6, rel=1e-5, abs=1e-6)


@given(st.data())
def test_random_choices_are_those_of_the_oracle(data: st.DataObject) -> None:
    kind, options, places = data.draw(st.sampled_from(LAYERS))
    directions = data.draw(st.integers(1, 2))
    one = st.sampled_from(CASES)
    value = one if directions == 1 else one | st.tuples(one, one)
    chosen = {place: data.draw(value) for place in places}
    chosen["clip"] = data.draw(st.sampled_from((None, 0.5, 1.5)))
    if kind is recurra.LSTM:
        chosen["cell_clip"] = data.draw(st.sampled_from((None, 0.3)))
    sizes = (data.draw(st.integers(1, 20)), data.draw(st.sampled_from((4, 7, 17, 33))), data.draw(st.integers(1, 2)))
    layer = kind(*sizes, bidirectional=directions == 2, **options, **chosen, dtype="float64", seed=6)
    against_oracle(layer, data.draw(st.sampled_from((None, (5, 0, 3)))), 1e-9)


@ALL_LAYERS
def test_the_standard_functions_have_the_standard_cells_bits(
    kind: type[Any], options: dict[str, Any], places: tuple[str, ...]
) -> None:
    """Asked for by name they are that cell; by way of the general one they have its bits."""
    standard = kind(3, 33, **options, seed=7)
    standard_names = ("tanh", "sigmoid", "tanh")
    assert kind(3, 33, **options, **dict(zip(places, standard_names, strict=False))).cell == standard.cell
    name = "rnn_general" if kind is recurra.RNN else f"{standard.cell}_general"
    packed = functional.pack(name, standard.state_dict())
    x, state = problem(standard)
    assert_same_bits(functional.run(packed, x, state), standard(x, state))


def test_kinks_have_the_slope_below_them() -> None:
    """As in PyTorch: one unit whose pre-activation is the input."""
    for function, at, slope in (
        ("relu", 0.0, 0.0),
        (Activation("thresholded_relu", alpha=0.5), 0.5, 0.0),
        (Activation("leaky_relu", alpha=0.25), 0.0, 0.25),
        (Activation("elu", alpha=0.5), 0.0, 0.5),
        (Activation("hard_sigmoid", alpha=0.25), 2.0, 0.0),
        (Activation("hard_sigmoid", alpha=0.25), -2.0, 0.0),
    ):
        layer = recurra.RNN(1, 1, nonlinearity=function, bias=False)
        layer.load_state_dict({"weight_ih_l0": np.ones((1, 1), "f"), "weight_hh_l0": np.zeros((1, 1), "f")})
        y, _, tape = layer.forward(np.full((1, 1), at, "float32"))
        dx = tape.backward(np.ones_like(y)).x
        assert dx is not None and dx.item() == slope


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@ALL_FUNCTIONS
def test_a_function_is_right_to_the_last_bits(function: Any, dtype: str) -> None:
    """Over all sizes of numbers, infinity, zeros and NaN: one unit whose pre-activation is the input."""
    limits = np.finfo(dtype)
    sizes = np.logspace(np.log10(limits.tiny), np.log10(limits.max) - 1, 4001)
    x = np.concatenate([-sizes[::-1], [0.0], sizes]).astype(dtype)
    chosen = Activation(function) if isinstance(function, str) else function
    layer = recurra.RNN(1, 1, nonlinearity=function, bias=False, dtype=dtype)
    layer.load_state_dict({"weight_ih_l0": np.ones((1, 1), dtype), "weight_hh_l0": np.zeros((1, 1), dtype)})
    y, _ = layer(x[None, :, None])
    number, alpha, beta = (float(np.asarray(v, dtype)) for v in chosen.constants("f").values())
    with np.errstate(all="ignore"):
        wide = np.longdouble(x)
        want = reference_general.FUNCTIONS[CORE_NAMES[int(number)]][0](wide, np.longdouble(alpha), np.longdouble(beta))
    want = np.where(np.abs(want) < limits.tiny, 0, want)
    error = np.abs(np.longdouble(y[0, :, 0]) - want)
    scale = np.abs(want) if chosen.function not in ("affine", "hard_sigmoid") else np.maximum(np.abs(want), abs(beta))
    finite = np.isfinite(want)
    assert (error[finite] <= 4 * limits.eps * scale[finite] + 2 * limits.tiny).all()
    unknown, _ = layer(np.full((1, 1, 1), np.nan, dtype))
    assert np.isnan(unknown).all()


def test_rnnoise_runs() -> None:
    """Its older networks: GRUs of 24, 48 and 96 units that reset before the product, with relu for the candidate."""
    rng = np.random.default_rng(8)
    sizes = ((24, 24), (90, 48), (114, 96))
    for inputs, units in sizes:
        layer = recurra.GRU(inputs, units, reset="before", activation="relu", seed=9)
        x = rng.normal(size=(20, inputs)).astype("float32")
        y, _ = layer(x)
        weights = {name: np.float64(value) for name, value in layer.state_dict().items()}
        (w_r, w_z, w_n), (u_r, u_z, u_n), (b_r, b_z, b_n) = (
            np.split(weights[name], 3) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0")
        )
        c_r, c_z, c_n = np.split(weights["bias_hh_l0"], 3)
        now, want = np.zeros(units), []
        for row in x.astype(np.float64):
            r = 1 / (1 + np.exp(-(w_r @ row + b_r + u_r @ now + c_r)))
            z = 1 / (1 + np.exp(-(w_z @ row + b_z + u_z @ now + c_z)))
            now = z * now + (1 - z) * np.maximum(w_n @ row + b_n + u_n @ (r * now) + c_n, 0)
            want.append(now)
        assert_close(y, np.array(want), 1e-5)
        stream = layer.stream()
        assert_same_bits(np.stack([stream.step(row) for row in x]), y)
        assert layer.quantize("int8")(x)[0] == pytest.approx(y, abs=0.05)


def test_functional_calls_and_pickles_are_the_layers() -> None:
    activation = (Activation("leaky_relu", alpha=0.2), "softsign")
    common: dict[str, Any] = {"recurrent_activation": "hard_sigmoid", "clip": 0.5}
    lstm = recurra.LSTM(
        3, 4, bidirectional=True, peephole=True, output_activation="elu", activation=activation, **common
    )
    gru = recurra.GRU(3, 4, bidirectional=True, reset="before", activation=activation, **common)
    rnn = recurra.RNN(3, 4, bidirectional=True, nonlinearity=activation, clip=0.5)
    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype("float32")
    options: dict[str, Any] = {"activation": activation, **common}
    assert_same_bits(functional.lstm(x, lstm.state_dict(), output_activation="elu", **options), lstm(x))
    assert_same_bits(functional.lstm(x, lstm._packed, output_activation="elu", **options), lstm(x))
    assert_same_bits(functional.gru(x, gru.state_dict(), reset="before", **options), gru(x))
    assert_same_bits(functional.rnn(x, rnn.state_dict(), nonlinearity=activation, clip=0.5), rnn(x))
    with pytest.raises(ValueError, match=r"params: expected 'gru_reset_before_general'.* got .*packed with"):
        functional.gru(x, gru._packed, reset="before", **(options | {"clip": 0.25}))
    for layer in (lstm, gru, rnn):
        again = pickle.loads(pickle.dumps(layer))
        assert repr(again) == repr(layer)
        assert_same_bits(again(x), layer(x))
    assert "activation=(Activation(function='leaky_relu', alpha=0.2, beta=None), 'softsign')" in repr(gru)


@ALL_LAYERS
def test_modules_of_two_directions_are_the_layers(
    kind: type[Any], options: dict[str, Any], places: tuple[str, ...]
) -> None:
    """Packed, from weights in place, and by the equations that derivatives of gradients run through."""
    torch: Any = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    from recurra import torch as modules

    pairs = [("softsign", "relu"), (Activation("hard_sigmoid", alpha=0.25), "sigmoid"), ("softplus", "elu")]
    chosen: dict[str, Any] = {"clip": 1.5, **dict(zip(places, pairs, strict=False))}
    layer = kind(3, 5, 2, bidirectional=True, **options, **chosen, dtype="float64", seed=12)
    module: Any = getattr(modules, kind.__name__)(3, 5, 2, bidirectional=True, **options, **chosen, dtype=torch.float64)
    assert "clip=1.5" in repr(module)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    x, _ = problem(layer)
    for some in (x, np.ascontiguousarray(x[:1, :1])):
        want, final = layer(some)
        with torch.no_grad():
            found = module(torch.from_numpy(some))
        assert_same_bits([part.numpy() for part in (found[0], *states(found[1]))], [want, *states(final)])
    leaf = torch.from_numpy(x).requires_grad_()
    y, _, tape = layer.forward(x)
    (first,) = torch.autograd.grad(module(leaf)[0].sum(), leaf, create_graph=True)
    assert_close(first.detach().numpy(), tape.backward(np.ones_like(y)).x, 1e-12)
    with torch.autograd.forward_ad.dual_level():
        by_equations = module(torch.autograd.forward_ad.make_dual(torch.from_numpy(x), torch.ones(x.shape).double()))
        assert_close(torch.autograd.forward_ad.unpack_dual(by_equations[0]).primal.detach().numpy(), y, 1e-12)
    with pytest.raises(ValueError, match=r"torch\.nn has no layer with cell"):
        modules.revert(module)


def test_the_core_knows_the_functions_of_the_oracle() -> None:
    assert list(reference_general.FUNCTIONS) == CORE_NAMES


@pytest.mark.parametrize(
    ("arguments", "words"),
    (
        (("swish",), ["function", "'tanh'", "'swish'"]),
        ((3,), ["function", "3"]),
        (("tanh", 0.5), ["alpha", "'tanh'", "0.5"]),
        (("leaky_relu", 0.5, 0.1), ["beta", "'leaky_relu'", "0.1"]),
        (("leaky_relu", float("nan")), ["alpha", "NaN"]),
        (("leaky_relu", float("inf")), ["alpha", "finite", "inf"]),
        (("scaled_tanh", 0.5), ["beta", "'scaled_tanh'", "no default"]),
        (("affine",), ["alpha", "'affine'", "no default"]),
    ),
)
def test_impossible_functions_are_refused(arguments: tuple[Any, ...], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        Activation(*arguments)
    assert all(word in str(error.value) for word in words)


def test_parameters_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match="alpha: expected a number, got '1'"):
        Activation("elu", "1")  # type: ignore[arg-type]


@ALL_LAYERS
@pytest.mark.parametrize("torch", (False, True))
def test_impossible_choices_are_refused(
    kind: type[Any], options: dict[str, Any], places: tuple[str, ...], torch: bool
) -> None:
    if torch:
        pytest.importorskip("torch")
        from recurra import torch as modules

        kind = getattr(modules, kind.__name__)
    for place in places:
        for value in ("swish", 3, ("tanh", "relu"), "scaled_tanh", ["tanh"], Activation):
            with pytest.raises(ValueError, match=f"^{place}: expected"):
                kind(3, 5, **options, **{place: value})
        for pair in (("tanh",), ("tanh", "relu", "tanh"), ("tanh", "swish")):
            with pytest.raises(ValueError, match=f"^{place}: expected"):
                kind(3, 5, **options, **{place: pair}, bidirectional=True)
        with pytest.raises(ValueError, match=r"constants ._alpha: expected 0 or a normal number of float32, got 1e-60"):
            kind(3, 5, **options, **{place: Activation("leaky_relu", alpha=1e-60)})
    for clip in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^clip: expected"):
            kind(3, 5, **options, clip=clip)
    for wrong in ("1", True):
        with pytest.raises(TypeError, match=r"^clip: expected a number"):
            kind(3, 5, **options, clip=wrong)


@pytest.mark.parametrize(
    ("constants", "words"),
    (
        ({"f": 9}, ["constants f", "Activation.constants", "9"]),
        ({"f": 0.5}, ["constants f", "0.5"]),
        ({"g_alpha": float("inf")}, ["constants g_alpha", "inf"]),
        ({"clip": 0}, ["constants clip", "positive", "0"]),
        ({"f_reverse": 1}, ["constants", "reverse", "f_reverse"]),
        ({"q": 1}, ["constants", "'q'"]),
    ),
)
def test_impossible_constants_are_refused(constants: dict[str, float], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        recurra.Recurrent("gru_general", 3, 5, constants=constants)
    assert all(word in str(error.value) for word in words)
