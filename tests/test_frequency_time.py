"""The Frequency-Time LSTM beside NumPy float64 and central differences; its streams, lengths and errors."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
import reference
import reference_backward
from checks import Array, assert_close, assert_same_bits, states

import recurra

BANDS = 10
FORMS: list[dict[str, Any]] = [
    {"chunk_size": 4, "overlap": 2, "frequency_size": 3},
    {"chunk_size": 4, "overlap": 1, "frequency_size": 5, "num_layers": 2, "bidirectional_frequency": True},
    {"chunk_size": 5, "overlap": 0, "frequency_size": 2, "proj_size": 3, "peephole": True},
    {"chunk_size": 3, "overlap": 2, "frequency_size": 4, "batch_first": True, "bias": False},
    {"chunk_size": BANDS, "overlap": 3, "frequency_size": 4},
]
EVERY = pytest.mark.parametrize("form", FORMS, ids=str)


def made(form: dict[str, Any], dtype: str = "float64", seed: int = 0) -> recurra.FrequencyTimeLSTM:
    return recurra.FrequencyTimeLSTM(BANDS, 6, dtype=dtype, seed=seed, **form)


def parts(params: Any) -> list[dict[str, Array]]:
    """The parameters of the F-LSTM and of the T-LSTM, by torch's names."""
    return [
        {key.partition(".")[2]: value for key, value in params.items() if key.startswith(f"{name}.")}
        for name in ("frequency", "time")
    ]


def cells(form: dict[str, Any]) -> tuple[str, str]:
    peep = "_peephole" * form.get("peephole", False)
    return f"lstm{peep}", f"lstm{peep}" + "_projected" * ("proj_size" in form)


def starts(form: dict[str, Any]) -> range:
    return range(0, BANDS - form["chunk_size"] + 1, form["chunk_size"] - form["overlap"])


def features(form: dict[str, Any], x: Array, params: dict[str, Array]) -> Array:
    """What the T-LSTM reads, from x [T, B, F], frame by frame and chunk by chunk."""
    u = []
    for t in range(len(x)):
        chunks = np.stack([x[t, :, k : k + form["chunk_size"]] for k in starts(form)])
        h, _ = reference.run(cells(form)[0], chunks, params)
        u.append(np.concatenate(list(h), axis=-1))
    return np.stack(u)


def oracle(form: dict[str, Any], x: Array, layer: Any, state: Any, lengths: Any) -> tuple[Array, Any]:
    """From x [T, B, F], time first whatever the layer is."""
    low, high = parts(layer.state_dict())
    return reference.run(cells(form)[1], features(form, x, low), high, states(state), lengths)


def problem(form: dict[str, Any], dtype: str = "float64", steps: int = 5, batch: int = 3) -> tuple[Any, Array, Any]:
    """A layer, x [T, B, F] and an initial state."""
    layer, rng = made(form, dtype), np.random.default_rng(1)
    x = rng.standard_normal((steps, batch, BANDS)).astype(dtype)
    like = layer.time(
        np.zeros((batch, 0, layer.time.input_size) if layer.batch_first else (0, batch, layer.time.input_size), dtype)
    )[1]
    return layer, x, tuple(rng.uniform(-1, 1, h.shape).astype(dtype) for h in like)


def turned(layer: Any, array: Array) -> Array:
    """[T, B, .] as the layer takes it, and back."""
    return array.swapaxes(0, 1) if layer.batch_first else array


@EVERY
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 3e-6)])
def test_calls(form: dict[str, Any], lengths: Any, dtype: str, tolerance: float) -> None:
    layer, x, state = problem(form, dtype)
    given = x.copy()
    if lengths:
        given[3:, 2] = given[:, 1] = np.nan  # nobody may look at padded frames
    y, final = layer(turned(layer, given), state, lengths=lengths)
    wanted, last = oracle(form, x.astype("float64"), layer, state, lengths)
    assert_close([turned(layer, y), list(final)], [wanted, list(last)], tolerance)
    assert y.dtype == dtype and layer.chunks == len(starts(form))
    out = np.empty_like(y)
    assert layer(turned(layer, given), state, lengths=lengths, out=out)[0] is out
    assert_same_bits(out, y)
    recorded, ended, _ = layer.forward(turned(layer, given), state, lengths=lengths)
    assert_same_bits([recorded, list(ended)], [y, list(final)])


@EVERY
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients(form: dict[str, Any], lengths: Any, recompute: bool) -> None:
    layer, x, state = problem(form)
    given = x.copy()
    if lengths:
        given[3:, 2] = given[:, 1] = np.nan
    y, final, tape = layer.forward(turned(layer, given), state, lengths=lengths, recompute=recompute)
    rng = np.random.default_rng(2)
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(h.shape) for h in final)
    got = tape.backward(dy, dstate)

    low, high = parts(layer.state_dict())
    u, (f_cell, t_cell) = features(form, x, low), cells(form)
    above = reference_backward.gradients(t_cell, u, high, turned(layer, dy), dstate, state=state, lengths=lengths)
    dx, d_low = np.zeros_like(x), {name: np.zeros_like(array) for name, array in low.items()}
    for t in range(len(x)):
        chunks = np.stack([x[t, :, k : k + form["chunk_size"]] for k in starts(form)])
        du = np.stack(np.split(above.x[t], len(chunks), axis=-1))
        below = reference_backward.gradients(f_cell, chunks, low, du)
        for k, chunk in zip(starts(form), below.x, strict=True):
            dx[t, :, k : k + form["chunk_size"]] += chunk
        for name, array in below.params.items():
            d_low[name] += array
    if lengths:
        assert not dx[3:, 2].any() and not dx[:, 1].any()
    assert got.x is not None
    assert_close([turned(layer, got.x), list(got.state)], [dx, list(above.state)], 1e-11)
    assert list(got.params) == list(layer.state_dict())
    assert_close(list(parts(got.params)), [d_low, above.params], 1e-11)
    assert_same_bits(tape.backward(dy, dstate, input_grad=False).params, got.params)
    assert tape.backward(dy, dstate, input_grad=False).x is None and tape.nbytes > x.nbytes


@EVERY
def test_gradients_are_slopes(form: dict[str, Any]) -> None:
    layer, x, state = problem(form, steps=3, batch=2)
    x = turned(layer, x)
    weights = np.random.default_rng(3).standard_normal(layer(x)[0].shape)

    def loss(x: Array, state: Any) -> float:
        y, (h, c) = layer(x, state)
        return float((weights * y).sum() + h.sum() - 2 * c.sum())

    _, (h, c), tape = layer.forward(x, state)
    got = tape.backward(weights, (np.ones_like(h), np.full_like(c, -2)))

    def slope(array: Array, at: tuple[int, ...]) -> float:
        was, found = array[at], []
        for step in (1e-6, -1e-6):
            array[at] = was + step
            found.append(loss(x, state))
        array[at] = was
        return (found[0] - found[1]) / 2e-6

    x = np.ascontiguousarray(x)
    for at in np.ndindex(x.shape):
        assert got.x[at] == pytest.approx(slope(x, at), abs=1e-7)
    for part, gradient in zip(state, got.state, strict=True):
        for at in np.ndindex(part.shape):
            assert gradient[at] == pytest.approx(slope(part, at), abs=1e-7)
    before = layer.state_dict()
    for name, array in before.items():
        for position in {0, array.size // 2, array.size - 1}:
            found = []
            for step in (1e-6, -1e-6):
                changed = {key: value.copy() for key, value in before.items()}
                changed[name].flat[position] += step
                layer.load_state_dict(changed)
                found.append(loss(x, state))
            layer.load_state_dict(before)
            assert got.params[name].flat[position] == pytest.approx((found[0] - found[1]) / 2e-6, abs=1e-7)


NOISY: list[dict[str, Any]] = [{**form, "dropout": 0.4, "zoneout": (0.2, 0.3)} for form in FORMS]


def mix(z: int) -> int:
    """SplitMix64's finaliser."""
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def between_stages(shape: tuple[int, ...], rate: float, seed: int, lane: int) -> Array:
    """What u [T, B, size] is multiplied by: every place has a hash of its own, as between the layers of a stack."""
    mask = np.empty(shape)
    for t, b, i in np.ndindex(*shape):
        key = mix((seed + 0x9E3779B97F4A7C15) % 2**64)
        for part in (lane, b, t):
            key = mix(key ^ mix((part + 0x632BE59BD9B4E019) % 2**64))
        left_out = mix((key + i * 0x9E3779B97F4A7C15) % 2**64) >> 11 < int(rate * 2**53)
        mask[t, b, i] = 0 if left_out else 1 / (1 - rate)
    return mask


@pytest.mark.parametrize("form", NOISY, ids=str)
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]])
def test_noise_is_that_of_the_stages(form: dict[str, Any], lengths: Any) -> None:
    """A mask on what the T-LSTM reads, and its own zoneout; gradients go the same way back."""
    layer, x, state = problem(form)
    y, final, tape = layer.forward(turned(layer, x), state, lengths=lengths, rng=7)
    low, _ = parts(layer.state_dict())
    u = features(form, x, low)
    mask = between_stages(u.shape, 0.4, 7, layer.time.num_layers)
    assert 0.3 < (mask == 0).mean() < 0.5
    wanted, last, high = layer.time.forward(turned(layer, u * mask), state, lengths=lengths, rng=7)
    assert_close([y, list(final)], [wanted, list(last)], 1e-12)
    dy = np.random.default_rng(2).standard_normal(y.shape)
    above, got = high.backward(dy), tape.backward(dy)
    assert above.x is not None and got.x is not None
    du, d_x = turned(layer, above.x) * mask, np.zeros_like(x)
    for t in range(len(x)):
        chunks = np.stack([x[t, :, k : k + form["chunk_size"]] for k in starts(form)])
        pieces = np.stack(np.split(du[t], len(chunks), axis=-1))
        below = reference_backward.gradients(cells(form)[0], chunks, low, pieces)
        for k, chunk in zip(starts(form), below.x, strict=True):
            d_x[t, :, k : k + form["chunk_size"]] += chunk
    assert_close([turned(layer, got.x), parts(got.params)[1]], [d_x, above.params], 1e-11)
    assert_same_bits(tape.backward(dy).x, got.x)


@pytest.mark.parametrize("form", NOISY, ids=str)
def test_gradients_of_noise_are_slopes(form: dict[str, Any]) -> None:
    layer, x, state = problem(form, steps=3, batch=2)
    x = turned(layer, x)
    y, _, tape = layer.forward(x, state, rng=3)
    weights = np.random.default_rng(3).standard_normal(y.shape)
    got = tape.backward(weights)
    assert got.x is not None

    def loss() -> float:
        return float((weights * layer.forward(x, state, rng=3)[0]).sum())

    for at in np.ndindex(*x.shape):
        was, found = x[at], []
        for step in (1e-6, -1e-6):
            x[at] = was + step
            found.append(loss())
        x[at] = was
        assert got.x[at] == pytest.approx((found[0] - found[1]) / 2e-6, abs=1e-7)


def test_noise_of_a_row_depends_on_its_number_alone() -> None:
    layer, x, _ = problem({**FORMS[0], "dropout": 0.4, "zoneout": 0.2}, "float32", steps=7, batch=4)
    y = layer.forward(x, rng=5)[0]
    assert_same_bits(layer.forward(x[:, :2], rng=5)[0], np.ascontiguousarray(y[:, :2]))
    assert_same_bits(layer.forward(x[:, 0], rng=5)[0], np.ascontiguousarray(y[:, 0]))
    rows_first = made({**FORMS[0], "dropout": 0.4, "zoneout": 0.2, "batch_first": True}, "float32")
    assert_same_bits(rows_first.forward(x.swapaxes(0, 1), rng=5)[0].swapaxes(0, 1), y)
    assert not np.array_equal(layer.forward(x, rng=6)[0], y)


def test_without_rng_nothing_is_dropped_and_zoneout_keeps_its_share() -> None:
    form = FORMS[1]
    plain, x, _ = problem(form)
    dropping = made({**form, "dropout": 0.4})
    assert_same_bits([dropping(x)[0], dropping.forward(x)[0]], [plain(x)[0]] * 2)
    zoning = made({**form, "dropout": 0.4, "zoneout": 0.3})
    shares = recurra.LSTM(plain.time.input_size, 6, 2, dtype="float64", zoneout=0.3)
    shares.load_state_dict(plain.time.state_dict())
    low, _ = parts(plain.state_dict())
    assert_close([zoning(x)[0]], [shares(features(form, x, low))[0]], 1e-12)
    stream = zoning.stream(batch=3)
    assert_same_bits(np.stack([stream.step(frame) for frame in x]), zoning(x)[0])


def test_one_chunk_of_all_bands_is_two_lstms() -> None:
    layer, x, _ = problem(FORMS[-1])
    h = layer.frequency(x.reshape(1, -1, BANDS))[0].reshape(5, 3, 4)
    assert layer.chunks == 1
    assert_same_bits(layer(x)[0], layer.time(h)[0])


def marks_of(layer: Any, steps: int, batch: int) -> tuple[dict[str, Any], Array, Array]:
    """Arguments of a call, and the flags [T, B]."""
    rng = np.random.default_rng(2)
    resets, mask = rng.random((steps, batch)) < 0.3, rng.random((steps, batch)) < 0.6
    fresh = tuple(
        rng.uniform(-1, 1, (layer.time.num_layers, part.shape[-1]))
        for part in layer.time(np.zeros((layer.time.input_size,) * 2))[1]
    )
    return {"resets": turned(layer, resets), "mask": turned(layer, mask), "reset_state": fresh}, resets, mask


@EVERY
@pytest.mark.parametrize("lengths", [None, [6, 3, 0]])
@pytest.mark.parametrize("masked_output", ["previous", "zero"])
def test_resets_and_masks_are_those_of_the_t_lstm(form: dict[str, Any], masked_output: str, lengths: Any) -> None:
    """Which reads what the F-LSTM makes of the frames that are not masked; nobody looks at the others."""
    layer, x, state = problem(form, steps=6)
    marks, _, mask = marks_of(layer, 6, 3)
    u = turned(layer, features(form, x, parts(layer.state_dict())[0]))
    options = {"lengths": lengths, "masked_output": masked_output, **marks}
    want, final, tape = layer.time.forward(u, state, **options)
    x[~mask] = np.nan
    y, last, own = layer.forward(turned(layer, x), state, **options)
    assert_close([y, *states(last)], [want, *states(final)], 1e-13)
    called, called_state = layer(turned(layer, x), state, **options)
    assert_same_bits([called, *called_state], [y, *last])
    dy = np.random.default_rng(3).standard_normal(y.shape)
    dy[~turned(layer, mask)] *= np.nan if masked_output == "zero" else 1
    wanted, found = tape.backward(dy, state), own.backward(dy, state)
    assert_close([*found.state, *states(found.reset_state)], [*wanted.state, *states(wanted.reset_state)], 1e-12)
    high = parts(found.params)[1]
    assert_close([high[name] for name in wanted.params], list(wanted.params.values()), 1e-12)
    low, _, below = layer.frequency.forward(layer._cut(turned(layer, np.nan_to_num(x))))
    d = below.backward(layer._side_by_side(np.ascontiguousarray(wanted.x)).reshape(low.shape))
    got = parts(found.params)[0]
    assert_close([got[name] for name in d.params], list(d.params.values()), 1e-12)
    assert found.x is not None and not turned(layer, found.x)[~mask].any() and found.x.any()


@pytest.mark.parametrize("form", FORMS[1:4], ids=str)
def test_a_mask_is_frames_moved_together_also_for_what_is_dropped(form: dict[str, Any]) -> None:
    layer, x, _ = problem({**form, "dropout": 0.4, "num_layers": 2, "zoneout": 0.2}, steps=6)
    marks, _, mask = marks_of(layer, 6, 3)
    del marks["resets"], marks["reset_state"]
    order = np.argsort(~mask, axis=0, kind="stable")[..., None]
    moved = np.take_along_axis(x, order, 0)
    y, final, tape = layer.forward(turned(layer, x), rng=7, masked_output="zero", **marks)
    want, last, other = layer.forward(turned(layer, moved), rng=7, lengths=mask.sum(0))
    back = np.zeros_like(turned(layer, want))
    np.put_along_axis(back, order, turned(layer, want), 0)
    assert_same_bits([turned(layer, y).copy(), *final], [back, *last])
    found, wanted = tape.backward(y), other.backward(want)
    assert_close(list(found.params.values()), list(wanted.params.values()), 1e-12)


@EVERY
def test_streams_take_resets_and_masks(form: dict[str, Any]) -> None:
    layer, x, state = problem(form, steps=6)
    marks, resets, mask = marks_of(layer, 6, 3)
    want, final = layer(turned(layer, x), state, **marks)
    by_step, by_chunk = layer.stream(3), layer.stream(3)
    by_step.state = by_chunk.state = state
    for t in range(6):
        own = {"resets": resets[t], "mask": mask[t], "reset_state": marks["reset_state"]}
        assert_same_bits(by_step.step(x[t], **own), turned(layer, want)[t])
    assert_same_bits(by_chunk.run(turned(layer, x), **marks), want)
    assert_same_bits([*by_step.state, *by_chunk.state], [*final, *final])
    by_step.reset([1], tuple(part for part in marks["reset_state"]))
    assert_same_bits([part[:, 1] for part in by_step.state], list(marks["reset_state"]))


@EVERY
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streams_have_the_bits_of_a_call(form: dict[str, Any], dtype: str) -> None:
    layer, x, state = problem(form, dtype)
    y, final = layer(turned(layer, x), state)
    stream = layer.stream(batch=3)
    stream.state = state
    out = np.empty(y.shape[-1], dtype)
    steps = [stream.step(frame) for frame in x]
    assert_same_bits(np.stack(steps), np.ascontiguousarray(turned(layer, y)))
    assert_same_bits(list(stream.state), list(final))
    stream.state = state
    cut = [stream.run(turned(layer, part)) for part in (x[:2], x[2:2], x[2:])]
    assert_same_bits(np.concatenate([turned(layer, part) for part in cut]), np.ascontiguousarray(turned(layer, y)))
    stream.reset()
    assert not any(part.any() for part in stream.state)
    assert_same_bits(stream.step(x[0]), np.ascontiguousarray(turned(layer, layer(turned(layer, x))[0])[0]))
    one = layer.stream()
    alone = layer(x[:, 1])[0]
    for t in range(3):
        assert one.step(x[t, 1], out=out) is out
        assert_same_bits(out, alone[t])
    assert_same_bits(one.run(x[3:, 1]), alone[3:])


def test_rows_of_a_stream_start_again() -> None:
    layer, x, _ = problem(FORMS[0])
    stream = layer.stream(batch=3)
    stream.run(x)
    stream.reset([1])
    y = stream.step(x[0])
    assert_same_bits(y[1], layer(x)[0][0, 1])
    assert not np.array_equal(y[0], layer(x)[0][0, 0])


def test_outputs_do_not_depend_on_batch_or_strides() -> None:
    layer, x, _ = problem(FORMS[1], "float32", steps=7, batch=9)
    y = layer(x)[0]
    for b in range(9):
        assert_same_bits(layer(x[:, b])[0], np.ascontiguousarray(y[:, b]))
    wide = np.zeros((9, 7, 2 * BANDS), "float32")
    wide[..., ::2] = x.swapaxes(0, 1)
    wide.flags.writeable = False
    assert_same_bits(layer(wide[..., ::2].swapaxes(0, 1))[0], y)


@pytest.mark.parametrize("shape", [(0, 3, BANDS), (4, 0, BANDS), (0, BANDS)])
def test_nothing_to_read(shape: tuple[int, ...]) -> None:
    layer = made(FORMS[0])
    y, (h, _) = layer(np.zeros(shape))
    assert y.shape == (*shape[:-1], 6) and h.shape == (1, *shape[1:-1], 6)
    y, _, tape = layer.forward(np.zeros(shape))
    got = tape.backward(np.zeros(y.shape))
    assert got.x is not None and got.x.shape == shape and not any(array.any() for array in got.params.values())


def test_a_streams_step_allocates_no_array() -> None:
    layer = recurra.FrequencyTimeLSTM(400, 500, chunk_size=40, overlap=4, frequency_size=100, seed=0)
    stream = layer.stream()
    x, y = np.ones(400, np.float32), np.empty(500, np.float32)
    stream.step(x, out=y)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        stream.step(x, out=y)
        assert tracemalloc.get_traced_memory()[1] - before < x.nbytes  # small objects: views and tuples
    finally:
        tracemalloc.stop()


def test_streams_and_calls_keep_their_parameters() -> None:
    layer, x, _ = problem(FORMS[0])
    y, stream, other = layer(x)[0], layer.stream(batch=3), layer.stream(batch=3)
    layer.load_state_dict(made(FORMS[0], seed=5).state_dict())
    assert_same_bits(np.stack([stream.step(frame) for frame in x]), y)
    assert_same_bits(other.run(x), y)
    assert_same_bits(layer(x)[0], made(FORMS[0], seed=5)(x)[0])


@EVERY
def test_it_pickles_and_loads(form: dict[str, Any]) -> None:
    layer, x, _ = problem(form)
    x = turned(layer, x)
    other = pickle.loads(pickle.dumps(layer))
    assert_same_bits(other(x)[0], layer(x)[0])
    assert repr(other) == repr(layer) and repr(layer).startswith("FrequencyTimeLSTM(10, chunk_size=")
    fresh = made(form, seed=1)
    fresh.load_state_dict(layer.state_dict())
    assert_same_bits(fresh(x)[0], layer(x)[0])
    assert layer.parameter_count == sum(array.size for array in layer.state_dict().values())


def test_wrong_parameters_change_nothing() -> None:
    layer, x, _ = problem(FORMS[0])
    y, good = layer(x)[0], made(FORMS[0], seed=5).state_dict()
    bad: list[tuple[Any, str]] = [
        ({**good, "time.weight_hh_l0": np.zeros((2, 2))}, "time"),
        ({**good, "frequency.weight_hh_l0": good["frequency.weight_hh_l0"].astype("float32")}, "frequency"),
        ({**good, "more": np.zeros(1)}, "more"),
        ({key: good[key] for key in list(good)[1:]}, "frequency.weight_ih_l0"),
    ]
    for given, words in bad:
        with pytest.raises(ValueError, match=words):
            layer.load_state_dict(given)
        assert_same_bits(layer(x)[0], y)
    with pytest.raises(AttributeError, match="fixed"):
        layer.chunks = 3


SIZES: dict[str, Any] = {"input_size": 10, "hidden_size": 6, "chunk_size": 4, "overlap": 2, "frequency_size": 3}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"chunk_size": 11}, ValueError, "chunk_size: expected at most input_size=10, got 11"),
        ({"chunk_size": 4.0}, TypeError, "chunk_size: expected an integer, got 4.0"),
        ({"overlap": 4}, ValueError, "overlap: expected less than chunk_size=4, got 4"),
        ({"overlap": -1}, ValueError, "overlap: expected at least 0, got -1"),
        ({"overlap": 0}, ValueError, "chunk_size, overlap: expected chunks that end with the last of 10 bands"),
        ({"frequency_size": 0}, ValueError, "frequency_size: expected at least 1, got 0"),
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
        ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
        ({"bidirectional_frequency": 1}, TypeError, "bidirectional_frequency: expected True or False, got 1"),
        ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64"),
        ({"dropout": 1.5}, ValueError, "dropout: expected"),
        ({"zoneout": (0.1,)}, ValueError, r"zoneout: expected a number or a tuple \(h, c\)"),
        ({"proj_size": 6}, ValueError, "proj_size: expected less than hidden_size=6, got 6"),
        ({"seed": 1, "rng": np.random.default_rng()}, ValueError, "rng: expected none beside a seed, got both"),
    ],
)
def test_bad_options(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recurra.FrequencyTimeLSTM(**{**SIZES, **wrong})


X = np.zeros((5, 3, 10), "float32")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f(X[..., :9]), ValueError, r"x: expected shape \[T, B, 10\] or \[T, 10\], got \[5, 3, 9\]"),
        (lambda f: f(X.astype("float64")), TypeError, "x: expected float32, got float64"),
        (lambda f: f(X, lengths=[5, 6, 0]), ValueError, r"lengths: expected values in 0\.\.5, got 6 at position 1"),
        (lambda f: f(X, mask=np.ones((3, 5), bool)), ValueError, r"mask: expected shape \[5, 3\], got \[3, 5\]"),
        (lambda f: f.forward(X, resets=np.ones((5, 3))), TypeError, "resets: expected bool, got float64"),
        (lambda f: f(X, reset_state=X), ValueError, "reset_state: expected None without resets"),
        (lambda f: f(X, masked_output="zero"), ValueError, "masked_output: expected 'previous' without a mask"),
        (lambda f: f(X, lengths=[5]), ValueError, r"lengths: expected shape \[3\], got \[1\]"),
        (lambda f: f(X[:, 0], lengths=[5]), ValueError, "lengths: expected none without a batch axis"),
        (lambda f: f(X, X), TypeError, r"state: expected a tuple \(h, c\)"),
        (lambda f: f(X, out=np.zeros((5, 3, 6))), TypeError, "out: expected float32, got float64"),
        (lambda f: f.forward(X, rng=-1), ValueError, r"rng: expected an integer in 0\.\.2\*\*64-1, got -1"),
        (lambda f: f.forward(X)[2].backward(), ValueError, "dy, dstate: expected at least one of them, got neither"),
        (lambda f: f.forward(X)[2].backward(X), ValueError, r"dy: expected shape \[5, 3, 6\], got \[5, 3, 10\]"),
        (lambda f: f.forward(X)[2].backward(X[..., :6], input_grad=0), TypeError, "input_grad: expected True or False"),
        (lambda f: f.stream(0), ValueError, "batch: expected at least 1, got 0"),
        (lambda f: f.stream(3).step(X[0, 0]), ValueError, r"x: expected shape \[3, 10\], got \[10\]"),
        (lambda f: f.stream().step(X[0, 0], out=np.zeros(5, "float32")), ValueError, r"out: expected shape \[6\], got"),
        (lambda f: f.stream().run(X), ValueError, r"chunk: expected shape \[T, 10\], got \[5, 3, 10\]"),
        (lambda f: pickle.dumps(f.stream()), TypeError, "a stream cannot be copied or pickled"),
        (lambda f: type(f.stream())(f.time), TypeError, "layer: expected a FrequencyTimeLSTM, got LSTM"),
    ],
)
def test_bad_calls(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(recurra.FrequencyTimeLSTM(**SIZES))
