"""recurra.training: truncated backpropagation through time, computed by hand, and sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from checks import Array, arrays, assert_close, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import training

WEIGHT_IH, WEIGHT_HH, BIAS = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"


def normal(*shape: int, seed: int = 0, dtype: str = "float64", scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


# Truncated BPTT. The oracle is Elman's network, written out: h_t = tanh(x_t U' + h_(t-1) W' + b)


def elman(seed: int = 0, **options: Any) -> recurra.RNN:
    return recurra.RNN(3, 4, dtype="float64", seed=seed, **options)


def elman_forward(params: dict[str, Array], x: Array, h: Array) -> list[Array]:
    """All states, the initial one first."""
    states = [h]
    for x_t in x:
        bias = params[BIAS] + params["bias_hh_l0"]
        states.append(np.tanh(x_t @ params[WEIGHT_IH].T + states[-1] @ params[WEIGHT_HH].T + bias))
    return states


def elman_backward(params: dict[str, Array], x: Array, states: list[Array], dy: Array) -> list[Array]:
    """Gradients of x, of the initial state, of the parameters by name."""
    grads = {name: np.zeros_like(array) for name, array in params.items()}
    dx, dh = np.zeros_like(x), np.zeros_like(states[0])
    for t in range(len(x) - 1, -1, -1):
        da = (dh + dy[t]) * (1 - states[t + 1] ** 2)
        grads[WEIGHT_IH] += da.T @ x[t]
        grads[WEIGHT_HH] += da.T @ states[t]
        for name in (BIAS, "bias_hh_l0"):
            grads[name] += da.sum(axis=0)
        dx[t], dh = da @ params[WEIGHT_IH], da @ params[WEIGHT_HH]
    return [dx, dh[None], *(grads[name] for name in sorted(grads))]


def listed(gradient: Any) -> list[Array]:
    return [gradient.x, *arrays(gradient.state), *(gradient.params[name] for name in sorted(gradient.params))]


def updated(layer: recurra.Recurrent, window: int) -> None:
    layer.load_state_dict({name: array * (1 + 0.05 * window) for name, array in layer.state_dict().items()})


@given(steps=st.integers(0, 13), k1=st.integers(1, 6), extra=st.integers(0, 9), seed=st.integers(0, 99))
@pytest.mark.parametrize("training_goes_on", (False, True))
def test_tbptt_is_what_one_computes_by_hand(training_goes_on: bool, steps: int, k1: int, extra: int, seed: int) -> None:
    k2, layer = k1 + extra, elman(seed)
    x, h = normal(steps, 2, 3, seed=seed), normal(1, 2, 4, seed=seed + 1, scale=0.3)
    known, stops = {0: h[0]}, []  # known: the state before each step, as last computed
    for window in training.tbptt(layer, x, k1, k2, h):
        stop = min(window.start + k1, steps)
        origin = max(0, stop - k2)
        assert (window.stop, window.origin) == (stop, origin)
        stops.append(stop)
        params = layer.state_dict()
        states = elman_forward(params, x[origin:stop], known[origin])
        known.update({origin + t: state for t, state in enumerate(states)})
        own = np.stack(states[1 + window.start - origin :])
        assert_close([window.y, window.state], [own, states[-1][None]], 1e-12)
        dy = normal(*own.shape, seed=stop)
        full = np.zeros((stop - origin, *own.shape[1:]))
        full[window.start - origin :] = dy
        expected = elman_backward(params, x[origin:stop], states, full)
        if training_goes_on:
            updated(layer, len(stops))  # must not reach a window that has begun
        assert_close(listed(window.backward(dy)), expected, 1e-11)
    assert stops == [*range(k1, steps, k1), *([steps] if steps else [])]


def lstm(**options: Any) -> recurra.LSTM:
    return recurra.LSTM(3, 5, 2, seed=3, **options)


@given(k1=st.integers(1, 12), extra=st.integers(0, 12))
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("lengths", (None, [11, 0, 6]))
def test_outputs_depend_on_neither_k1_nor_k2(batch_first: bool, lengths: list[int] | None, k1: int, extra: int) -> None:
    layer, axis = lstm(batch_first=batch_first), int(batch_first)
    x = normal(*((3, 11, 3) if batch_first else (11, 3, 3)), dtype="float32")
    state = tuple(normal(2, 3, 5, seed=seed, dtype="float32") for seed in (1, 2))
    seen = list(training.tbptt(layer, x, k1, k1 + extra, state, lengths=lengths))
    y, final = layer(x, state, lengths=lengths)
    assert_same_bits(np.concatenate([window.y for window in seen], axis), y)
    assert_same_bits(seen[-1].state, final)


@given(k1=st.integers(1, 12), extra=st.integers(0, 12), seed=st.integers(0, 99))
@pytest.mark.parametrize("form", ("batch", "batch first", "sequence"))
@pytest.mark.parametrize("masked_output", ("previous", "zero"))
@pytest.mark.parametrize("lengths", (None, [11, 0, 6]))
def test_windows_have_the_bits_of_a_call_with_marks(
    lengths: list[int] | None, masked_output: str, form: str, k1: int, extra: int, seed: int
) -> None:
    axis, rng = int(form == "batch first"), np.random.default_rng(seed)
    layer, x = lstm(batch_first=form != "batch"), rng.normal(size=(11, 3, 3)).astype("float32")
    resets, mask = rng.random((11, 3)) < 0.2, rng.random((11, 3)) < 0.6
    reset_state = tuple(rng.normal(size=(2, 5)).astype("float32") for _ in "hc")
    if form == "sequence":
        x, resets, mask, lengths = x[:, 0], resets[:, 0], mask[:, 0], None
    elif axis:
        x, resets, mask = x.swapaxes(0, 1), resets.T, mask.T
    marks: dict[str, Any] = {"resets": resets, "mask": mask, "masked_output": masked_output}
    for options in ({"resets": resets}, marks, marks | {"reset_state": reset_state}):
        seen = list(training.tbptt(layer, x, k1, k1 + extra, lengths=lengths, **options))
        y, final, tape = layer.forward(x, lengths=lengths, **options)
        assert_same_bits(np.concatenate([window.y for window in seen], axis), y)
        assert_same_bits(seen[-1].state, final)
        if len(seen) == 1:
            (window,) = seen
            got, want = window.backward(y), tape.backward(y)
            assert_same_bits(listed(got), listed(want))
            assert (got.reset_state is None) == ("reset_state" not in options)
            if got.reset_state is not None:
                assert_same_bits(arrays(got.reset_state), arrays(want.reset_state))


def test_no_gradient_of_a_window_crosses_a_reset() -> None:
    """The last window, of steps 2 to 6, of which 6 is its own, and a reset of one row at 4."""
    layer, x, resets = elman(), normal(7, 2, 3), np.zeros((7, 2), bool)
    resets[4, 1] = True
    *_, window = training.tbptt(layer, x, 2, 5, resets=resets)
    assert (window.start, window.stop, window.origin) == (6, 7, 2)
    gradients = window.backward(np.ones_like(window.y))
    d_x: Any = gradients.x
    for row in range(2):
        alone, begin = x[:, row], 4 if row else 2
        states = elman_forward(layer.state_dict(), alone[:, None], np.zeros((1, 4)))
        if row:
            states = [*states[:4], *elman_forward(layer.state_dict(), alone[4:, None], np.zeros((1, 4)))]
        dy = np.zeros((7 - begin, 1, 4))
        dy[-1] = 1
        dx, dh, *_ = elman_backward(layer.state_dict(), alone[begin:, None], states[begin:], dy)
        assert_close(window.y[:, row], states[-1], 1e-12)
        assert_close(d_x[begin - 2 :, row], dx[:, 0], 1e-12)
        assert not d_x[: begin - 2, row].any()
        assert_close(arrays(gradients.state)[0][:, row], 0 * dh[:, 0] if row else dh[:, 0], 1e-12)


@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("recompute", (False, True))
def test_one_window_is_the_full_gradient(batch_first: bool, recompute: bool) -> None:
    layer = lstm(batch_first=batch_first)
    x, lengths = normal(7, 7, 3, dtype="float32"), [7, 1, 0, 3, 7, 4, 2]
    y, _, tape = layer.forward(x, lengths=lengths, recompute=recompute)
    dy = normal(*y.shape, dtype="float32")
    for k1 in (7, 50):
        (window,) = training.tbptt(layer, x, k1, lengths=lengths, recompute=recompute)
        assert_same_bits(window.y, y)
        assert window._tape.nbytes == tape.nbytes
        assert_same_bits(listed(window.backward(dy)), listed(tape.backward(dy)))


@pytest.mark.parametrize("batch_first", (False, True))
def test_windows_reach_back_in_every_layout(batch_first: bool) -> None:
    """The last window, of k2 > k1 steps, is the plain gradient from the state that the steps before leave."""
    layer, lengths = lstm(batch_first=batch_first), [9, 7, 3]

    def laid(x: Array) -> Array:
        return x.swapaxes(0, 1) if batch_first else x

    x = normal(9, 3, 3, dtype="float32")
    *_, window = training.tbptt(layer, laid(x), 2, 5, lengths=lengths)
    _, state = layer(laid(x[:4]), lengths=[4, 4, 3])
    y, _, tape = layer.forward(laid(x[4:]), state, lengths=[5, 3, 0])
    dy = np.zeros((5, 3, 5), "float32")
    dy[-1] = normal(3, 5, dtype="float32")
    assert (window.start, window.stop, window.origin) == (8, 9, 4)
    assert_same_bits(window.y, laid(laid(y)[-1:]))
    assert_same_bits(listed(window.backward(laid(dy[-1:]))), listed(tape.backward(laid(dy))))


def test_tbptt_without_a_batch_axis_also_if_batch_first() -> None:
    x = normal(7, 3)
    for batch_first in (False, True):
        layer = elman(batch_first=batch_first)
        seen = list(training.tbptt(layer, x, 3, 4))
        assert_same_bits(np.concatenate([window.y for window in seen]), layer(x)[0])
        states = elman_forward(layer.state_dict(), x[:, None], np.zeros((1, 4)))
        dy = np.zeros((4, 1, 4))
        dy[-1] = 1
        expected = elman_backward(layer.state_dict(), x[3:, None], states[3:], dy)
        assert_close(
            listed(seen[-1].backward(np.ones((1, 4)))), [expected[0][:, 0], expected[1][:, 0], *expected[2:]], 1e-12
        )


def test_a_windows_gradients_accumulate_into_given_arrays() -> None:
    layer = elman()
    into = {name: np.zeros_like(array) for name, array in layer.state_dict().items()}
    total = {name: np.zeros_like(array) for name, array in into.items()}
    for window in training.tbptt(layer, normal(8, 2, 3), 2, 4):
        got = window.backward(np.ones_like(window.y), input_grad=False, into=into)
        assert got.x is None
        for name, array in window.backward(np.ones_like(window.y)).params.items():
            total[name] += array
    assert_close(list(into.values()), list(total.values()), 1e-13)


def test_training_with_tbptt_learns_to_remember() -> None:
    """All parts together: repeat the input of two steps ago."""
    layer = recurra.GRU(1, 8, dtype="float64", seed=0)
    params, head = layer.state_dict(), {"head": normal(8, 1, scale=0.3)}
    x = np.random.default_rng(1).choice([-1.0, 1.0], (60, 16, 1))
    target = np.concatenate([np.zeros((2, 16, 1)), x[:-2]])
    optimisers, losses = (training.Adam(params, 0.02), training.Adam(head, 0.02)), []
    for _ in range(25):
        for window in training.tbptt(layer, x, 10, 15):
            y = window.y.reshape(-1, 8)
            wanted = target[window.start : window.stop].reshape(-1, 1)
            loss, dout = training.mean_squared_error(y @ head["head"], wanted)
            losses.append(loss)
            grads = window.backward((dout @ head["head"].T).reshape(window.y.shape)).params
            head_grads = {"head": y.T @ dout}
            training.clip_grad_norm([grads, head_grads], 1.0)
            for optimiser, part in zip(optimisers, (grads, head_grads), strict=True):
                optimiser.step(part)
            layer.load_state_dict(params)
    assert losses[0] > 0.7
    assert max(losses[-6:]) < 0.1


# Sliding windows


@given(
    steps=st.integers(1, 30),
    length=st.integers(1, 9),
    stride=st.none() | st.integers(1, 12),
    horizon=st.integers(0, 5),
)
def test_windows_are_slices_that_do_not_look_ahead(steps: int, length: int, stride: int | None, horizon: int) -> None:
    x = np.arange(steps * 2).reshape(steps, 2)
    if steps < length + horizon:
        with pytest.raises(ValueError, match=f"x: .*{length + horizon}.*{steps}"):
            training.windows(x, length, stride, horizon)
        return
    inputs, targets = training.windows(x, length, stride, horizon)
    starts = range(0, steps - length - horizon + 1, stride or max(1, length // 2))
    assert inputs.tolist() == [x[i : i + length].tolist() for i in starts]
    assert targets.tolist() == [x[i + length : i + length + horizon].tolist() for i in starts]
    assert (inputs.shape[1:], targets.shape) == ((length, 2), (len(starts), horizon, 2))


def test_windows_are_read_only_views_that_layers_take() -> None:
    x = normal(20, 3)
    inputs, targets = training.windows(x, 6, horizon=1)
    for view in (inputs, targets):
        assert np.shares_memory(view, x)
        assert not view.flags.writeable
    layer = elman(batch_first=True)
    assert_same_bits(layer(inputs)[0], layer(inputs.copy())[0])


def test_windows_of_a_series() -> None:
    """[T], of NumPy and of pandas, whose objects say what they are by their module."""
    series = normal(20)
    inputs, targets = training.windows(series, 6, 3, horizon=2)
    wide, ahead = training.windows(series[:, None], 6, 3, horizon=2)
    assert_same_bits([inputs, targets], [wide, ahead[..., 0]])
    assert np.shares_memory(inputs, series) and not inputs.flags.writeable
    for array, want in ((series, (inputs, targets)), (series[:, None], (wide, ahead))):
        frame = type("Series", (), {"__module__": "pandas", "to_numpy": lambda self, array=array: array})()
        assert_same_bits([*training.windows(frame, 6, 3, horizon=2)], [*want])


X, F32 = normal(4, 2, 3), normal(2, 3, dtype="float32")
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: training.tbptt(X, X, 2), TypeError, "layer: .*ndarray"),  # type: ignore[arg-type]
    (lambda: training.tbptt(elman(bidirectional=True), X, 2), ValueError, "layer: .*one direction.*bidirectional=True"),
    (lambda: training.tbptt(lstm().quantize("int8"), F32, 2), ValueError, "layer: .*precision.*int8"),
    (lambda: training.tbptt(elman(), X, 0), ValueError, "k1: .*0"),
    (lambda: training.tbptt(elman(), X, 3, 2), ValueError, "k2: .*at least 3, got 2"),
    (lambda: training.tbptt(elman(), F32, 3), TypeError, "x: .*float64.*float32"),
    (lambda: training.tbptt(elman(), X, 3, state=X), ValueError, r"state h: .*\[1, 2, 4\].*\[4, 2, 3\]"),
    (lambda: training.tbptt(elman(), X, 3, lengths=[5, 1]), ValueError, r"lengths: .*0\.\.4.*5"),
    (lambda: training.tbptt(elman(), X, 3, resets=np.ones((4, 2))), TypeError, "resets: expected bool, got float64"),
    (lambda: training.tbptt(elman(), X, 3, mask=np.ones((2, 4), bool)), ValueError, r"mask: .*\[4, 2\], got \[2, 4\]"),
    (lambda: training.tbptt(elman(), X, 3, reset_state=X), ValueError, "reset_state: expected None without resets"),
    (
        lambda: training.tbptt(elman(), X, 3, resets=np.ones((4, 2), bool), reset_state=X),
        ValueError,
        r"reset_state h: .*\[1, 2, 4\] or \[1, 4\].*\[4, 2, 3\]",
    ),
    (lambda: training.tbptt(elman(), X, 3, masked_output="zero"), ValueError, "masked_output: .*without a mask"),
    (lambda: training.tbptt(elman(), X, 3, recompute=1), TypeError, "recompute: .*1"),  # type: ignore[arg-type]
    (lambda: next(training.tbptt(elman(), X, 3)).backward(X), ValueError, r"dy: .*\[3, 2, 4\].*\[4, 2, 3\]"),
    (lambda: training.windows(X, 2), ValueError, r"x: .*\[T, F\].*\[4, 2, 3\]"),
    (lambda: training.windows(F32, 0), ValueError, "length: .*0"),
    (lambda: training.windows(F32, 1, 0), ValueError, "stride: .*0"),
    (lambda: training.windows(F32, 1, horizon=-1), ValueError, "horizon: .*-1"),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [pytest.param(*row, id=f"{k}-{row[2]}") for k, row in enumerate(WRONG)]
)
def test_wrong_input_is_refused_by_name(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_tbptt_is_lazy() -> None:
    seen: Iterator[training.Window] = training.tbptt(elman(), X, 1)
    assert iter(seen) is seen
    assert [window.start for window in seen] == [0, 1, 2, 3]
