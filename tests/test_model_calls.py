"""Short calls of models, which skip most checks; and numbers at the edge of what their dtype holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_close, assert_same_bits

import recurra
from recurra import Value
from recurra.model import call as model_call

PLAIN: dict[str, list[Any]] = {
    "chain": [recurra.GRU(3, 4, seed=0), recurra.Linear(4, 2, seed=1)],
    "stride": [recurra.Conv1d(3, 5, 3, 2, seed=0), "relu"],
    "pool": [recurra.GRU(3, 4, bidirectional=True, seed=0), recurra.Pool("last")],
    "learned": [recurra.LSTM(3, 4, initial_state=True, seed=0)],
    "pooled": [recurra.Mask(0), recurra.Pool("mean"), recurra.Linear(3, 3, seed=1)],
    "embedding": [recurra.Embedding(4, 3, seed=0)],
    "width": [recurra.Reshape((1, 3)), recurra.Conv2d(1, 2, 3, padding=1, seed=0)],
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("batch_first", [False, True])
def test_short_calls_are_those_of_all_checks(name: str, batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain array, or one that is not: the same bits, shapes and refusals as without the short way."""
    inputs = {"x": Value((3,))} if isinstance(PLAIN[name][0], (recurra.Mask, recurra.Reshape)) else None
    model = recurra.Model(PLAIN[name], inputs=inputs, batch_first=batch_first)
    x = np.random.default_rng(0).standard_normal((6, 5, 3)).astype("float32")
    if name == "embedding":
        x = (x[..., 0] > 0).astype(int)
    given: list[Any] = [
        x,
        x[:1, :1],
        x[:, 0],
        x[:1],
        x[:, :0],
        x[:0],
        x[::2],
        x[:, ::-1],
        x.tolist(),
        None,
        x[0, 0],
        1.0,
    ]
    given += [x.astype(x.dtype.newbyteorder()), x.astype("float64"), x[..., :-1], x[None], np.asfortranarray(x), (x,)]
    given += [{"x": x}, np.ma.masked_array(x), x.view(np.recarray), np.zeros((1, 1 << 25, 0), "float32")]

    def outcome(each: Any) -> Any:
        try:
            return model(each)
        except (TypeError, ValueError) as error:
            return type(error), str(error)

    short = [outcome(each) for each in given]
    monkeypatch.setattr(model_call, "run_plain", lambda *_: None)
    for one, each in zip(short, given, strict=True):
        if isinstance(one, tuple):
            assert one == outcome(each)
        else:
            assert type(one) is np.ndarray and one.flags.c_contiguous
            assert_same_bits(one, outcome(each))


def test_a_short_call_sees_new_parameters() -> None:
    model, x = recurra.Model([recurra.Linear(3, 2, seed=0)]), np.ones((1, 1, 3), "float32")
    before = model(x)
    model.load_state_dict({name: 2 * array for name, array in model.state_dict().items()})
    assert_same_bits(model(x), 2 * before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm_of_numbers_whose_squares_overflow(dtype: str) -> None:
    """And of a sum that does; as the equations have it, in a call, in a stream and in training."""
    most = float(np.finfo(dtype).max)
    sizes = [1e-3, 1.0, most**0.4, most**0.5, most**0.51, most**0.7, most / 40, most / 3, most]
    rng = np.random.default_rng(0)
    x = (rng.uniform(-1, 1, (len(sizes), 2, 37)) * np.array(sizes)[:, None, None]).astype(dtype)
    x[-1, 0] = np.abs(x[-1, 0])
    norm = recurra.LayerNorm(37, dtype=dtype)
    norm.load_state_dict({n: rng.uniform(-1, 1, 37).astype(dtype) for n in ("weight", "bias")})
    model = recurra.Model([norm])
    wide = x.astype(np.longdouble)
    centred = wide - wide.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    p = norm.state_dict()
    y = model(x)
    assert_close(y, (normed * p["weight"] + p["bias"]).astype(dtype), 2e-5 if dtype == "float32" else 1e-11)
    stream = model.stream(2)
    assert_same_bits(np.stack([stream.step(frame) for frame in x]), y)
    forward, tape = model.forward(x)
    assert_same_bits(forward, y)
    dy = rng.standard_normal(y.shape).astype(dtype)
    assert_close(tape.backward(dy).params["layer_norm0.weight"], (dy * normed).sum((0, 1)).astype(dtype), 1e-4)
    scale = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    d = dy * p["weight"]
    expected = scale * (d - d.mean(-1, keepdims=True) - normed * (d * normed).mean(-1, keepdims=True))
    assert_close((tape.backward(dy).x / scale).astype(dtype), (expected / scale).astype(dtype), 1e-3)
    for strange in (np.inf, np.nan):
        x[0, 0, 3] = strange
        assert np.isnan(model(x)[0, 0]).all() and np.isfinite(model(x)[0, 1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_row_with_a_nan_has_no_softmax(sign: int, log: bool, dtype: str) -> None:
    model = recurra.Model([recurra.Scale(9, dtype=dtype), recurra.Softmax(log=log)])
    x = np.random.default_rng(0).standard_normal((1, 3, 9)).astype(dtype)
    x[0, 1, 4] = np.copysign(np.nan, sign)
    y = model(x)
    assert np.isnan(y[0, 1]).all() and np.isfinite(y[0, ::2]).all()
