"""The compiled core, called past Python's checks: an array that does not fit is refused, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import Array

import recurra
from recurra import _core

T, B, I, O, H = 3, 2, 5, 4, 7  # noqa: E741


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def spoiled(array: Array) -> list[Array]:
    """Arrays that must not be taken for this one."""
    read_only = array.copy()
    read_only.flags.writeable = False
    return [
        array[..., :-1].copy(),
        np.concatenate([array, array], -1),
        np.concatenate([array, array], -1)[..., ::2],
        array[None],
        array.astype(np.float64),
        array.view(np.int32),
        array.astype(">f4"),
        np.zeros(array.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(array.shape),
    ]


def network() -> _core.Network:
    core: _core.Network = recurra.LSTM(I, H, 2, proj_size=O, seed=0)._packed.network
    return core


def params() -> list[list[Array | None]]:
    return recurra.LSTM(I, H, 2, proj_size=O, seed=0)._packed.by_layer(
        recurra.LSTM(I, H, 2, proj_size=O, seed=0).state_dict()
    )


def hn() -> list[Array]:
    return [zeros(2, B, O), zeros(2, B, H)]


def forward(x: Array, h: Array, c: Array, out: Array, h_n: Array, c_n: Array) -> None:
    network().forward(x, [h, c], None, out, [h_n, c_n])


def record(x: Array, h: Array, c: Array, out: Array, h_n: Array, c_n: Array) -> None:
    network().record(x, [h, c], None, out, [h_n, c_n], False, None)


def backward(dy: Array, d_h: Array, d_c: Array, dx: Array, h: Array, c: Array) -> None:
    tape = network().record(zeros(T, B, I), None, None, zeros(T, B, O), hn(), False, None)
    tape.backward(dy, [d_h, d_c], dx, [h, c], params(), False)


def stream_run(x: Array, out: Array) -> None:
    network().stream(B, False, 1, None).run(x, out)


def stream_get(h: Array, c: Array) -> None:
    network().stream(B, False, 1, None).get_state([h, c])


def stream_set(h: Array, c: Array) -> None:
    network().stream(B, False, 1, None).set_state([h, c])


def linear(weight: Array, bias: Array) -> None:
    _core.Linear(weight, bias).forward(zeros(6, I), zeros(6, O))


def linear_forward(x: Array, y: Array) -> None:
    _core.Linear(zeros(O, I), None).forward(x, y)


def linear_backward(x: Array, dy: Array, dx: Array, d_weight: Array, d_bias: Array) -> None:
    _core.Linear(zeros(O, I), None).backward(x, dy, dx, d_weight, d_bias)


def get_parameter(out: Array) -> None:
    network().get_parameter(1, 0, out)


STATES: list[tuple[int, ...]] = [(2, B, O), (2, B, H)]
CALLS: list[tuple[Callable[..., None], list[tuple[int, ...]]]] = [
    (forward, [(T, B, I), *STATES, (T, B, O), *STATES]),
    (record, [(T, B, I), *STATES, (T, B, O), *STATES]),
    (backward, [(T, B, O), *STATES, (T, B, I), *STATES]),
    (stream_run, [(T, B, I), (T, B, O)]),
    (stream_get, STATES),
    (stream_set, STATES),
    (linear, [(O, I), (O,)]),
    (linear_forward, [(6, I), (6, O)]),
    (linear_backward, [(6, I), (6, O), (6, I), (O, I), (O,)]),
    (get_parameter, [(4 * H, O)]),
]


@pytest.mark.parametrize(("call", "shapes"), CALLS, ids=[call.__name__ for call, _ in CALLS])
def test_arrays_that_do_not_fit_are_refused(call: Callable[..., None], shapes: list[tuple[int, ...]]) -> None:
    call(*(zeros(*shape) for shape in shapes))
    for position, shape in enumerate(shapes):
        for wrong in spoiled(zeros(*shape)):
            given = [zeros(*other) for other in shapes]
            given[position] = wrong
            with pytest.raises(ValueError, match="expected a"):
                call(*given)
            for array in given:
                assert not array.any()


@pytest.mark.parametrize(
    ("call", "shapes", "written"),
    [
        (forward, CALLS[0][1], (3, 4, 5)),
        (backward, CALLS[2][1], (3, 4, 5)),
        (stream_run, CALLS[3][1], (1,)),
        (stream_get, STATES, (0, 1)),
        (linear_forward, CALLS[7][1], (1,)),
        (linear_backward, CALLS[8][1], (2, 3, 4)),
    ],
)
def test_what_may_not_be_written_is_refused(
    call: Callable[..., None], shapes: list[tuple[int, ...]], written: tuple[int, ...]
) -> None:
    for position in range(len(shapes)):
        given = [zeros(*shape) for shape in shapes]
        given[position].flags.writeable = False
        if position in written:
            with pytest.raises(ValueError, match="writeable"):
                call(*given)
        else:
            call(*given)


def spoil(change: Callable[[list[Any]], None]) -> list[Any]:
    given: list[Any] = params()
    change(given)
    return given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (spoil(lambda p: p.pop()), "params"),
        (spoil(lambda p: p.append(p[0])), "weight_ih"),  # as wide as the first layer's input
        (spoil(lambda p: p[1].pop()), "params"),
        (spoil(lambda p: p[0].__setitem__(0, None)), "weight_ih"),
        (spoil(lambda p: p[1].__setitem__(1, None)), "weight_hh"),
        (spoil(lambda p: p[0].__setitem__(4, None)), "weight_hr"),
        (spoil(lambda p: p[0].__setitem__(2, zeros(4 * H - 1))), "bias_ih"),
        (spoil(lambda p: p[1].__setitem__(0, p[0][0])), "weight_ih"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(given: list[Any], words: str) -> None:
    options: tuple[Any, ...] = ([np.inf], "full", [], [0.0] * 6)
    _core.Network("lstm_projected", "float32", I, H, O, 2, 1, params(), *options)
    with pytest.raises(ValueError, match=words):
        _core.Network("lstm_projected", "float32", I, H, O, 2, 1, given, *options)


def test_numbers_that_do_not_fit_are_refused() -> None:
    good = network()
    x, out = zeros(T, B, I), zeros(T, B, O)
    for lengths in ([1], [1, 2, 3], [1, T + 1], [-1, 1]):
        with pytest.raises(ValueError, match="lengths"):
            good.forward(x, None, np.array(lengths), out, hn())
    every_other = np.array([2, 10**9, 3, 10**9])[::2]
    good.forward(x, None, every_other, out, hn())
    for states in ([], hn()[:1], [*hn(), zeros(2, B, H)]):
        with pytest.raises(ValueError, match="hn"):
            good.forward(x, None, None, out, states)
        with pytest.raises(ValueError, match="h0"):
            good.forward(x, states, None, out, hn())
    for layer, number in ((2, 0), (0, 6), (0, -1)):
        with pytest.raises(IndexError, match="get_parameter"):
            good.get_parameter(layer, number, zeros(4 * H, I))
    stream = good.stream(B, False, 1, None)
    for row in (-1, B):
        with pytest.raises(ValueError, match="rows"):
            stream.reset(np.array([0, row]))
    for batch, threads in ((-1, 1), (B, 0)):
        with pytest.raises(ValueError, match=r"rows|threads"):
            good.stream(batch, False, threads, None)
    with pytest.raises(ValueError, match="cell"):
        _core.Network("nonesuch", "float32", I, H, O, 2, 1, params(), [], "full", [], [0.0] * 6)
