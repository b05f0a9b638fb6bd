"""Law 5: wrong input never computes.

It raises an error that names the argument, what was expected and what came, and leaves layer, stream and `out` alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from checks import CPUS, Array, assert_same_bits, copies
from numpy.lib.stride_tricks import as_strided

import recurra
from recurra import functional

T, B, N, H = 4, 2, 3, 5  # steps, batch, input and hidden size
Call = Callable[[Any], Any]


def f32(*shape: int) -> Array:
    return np.full(shape, 0.5, "float32")


X, H0, C0 = f32(T, B, N), f32(1, B, H), f32(1, B, H)


class OnDevice:
    """An array of another library that lives in GPU memory."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, **_: Any) -> Any:
        raise AssertionError("refused by its device, without asking for its memory")


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def self_overlapping() -> Array:
    """Every step and row in the same memory."""
    function: Any = as_strided  # untyped in some releases of NumPy
    return cast("Array", function(f32(H), (T, B, H), (0, 0, 4)))


def overlapping_pair() -> tuple[Array, Array]:
    """Input and output that share some memory but do not begin at the same place."""
    memory = np.zeros(T * B * (N + H), "float32")
    return memory[: T * B * N].reshape(T, B, N), memory[T * B * N - 1 :][: T * B * H].reshape(T, B, H)


def call_with_overlap(layer: Any) -> Any:
    x, out = overlapping_pair()
    return layer(x, out=out)


def call_with_state_overlap(layer: Any) -> Any:
    out = f32(T, B, H)
    return layer(X, (H0, out[1:2]), out=out)


# What is wrong, the call, the error, and what the message must say: the argument, what was expected, what came.
CALLS: list[tuple[str, Call, type[Exception] | tuple[type[Exception], ...], list[str]]] = [
    ("rank 1", lambda m: m(f32(N)), ValueError, ["x", str(N), r"\[3\]|\(3,\)"]),
    ("rank 4", lambda m: m(f32(T, B, N, 1)), ValueError, ["x", "4, 2, 3, 1"]),
    ("features", lambda m: m(f32(T, B, N + 1)), ValueError, ["x", "3", "4, 2, 4"]),
    ("unbatched features", lambda m: m(f32(T, N + 1)), ValueError, ["x", "3", "4, 4"]),
    ("float64", lambda m: m(X.astype("float64")), TypeError, ["x", "float32", "float64"]),
    ("integers", lambda m: m(X.astype("int32")), TypeError, ["x", "float32", "int32"]),
    ("objects", lambda m: m(X.astype(object)), TypeError, ["x", "float32", "object"]),
    ("byte order", lambda m: m(X.astype(X.dtype.newbyteorder())), TypeError, ["x", "float32", "[<>]f4|byte"]),
    ("list", lambda m: m(X.tolist()), TypeError, ["x", "array", "list"]),
    ("None", lambda m: m(None), TypeError, ["x", "array", "None"]),
    ("string", lambda m: m("abc"), TypeError, ["x", "array", "str"]),
    ("masked", lambda m: m(np.ma.masked_less(X, 1)), TypeError, ["x", "mask"]),
    ("device", lambda m: m(OnDevice()), ValueError, ["x", "CPU", "cuda"]),
    ("state device", lambda m: m(X, (OnDevice(), C0)), ValueError, ["state", "CPU", "cuda"]),
    ("state alone", lambda m: m(X, H0), TypeError, ["state", "tuple", "ndarray"]),
    ("state stacked", lambda m: m(X, np.stack([H0, C0])), TypeError, ["state", "tuple", "ndarray"]),
    ("state of one", lambda m: m(X, (H0,)), TypeError, ["state", "h, c", "1"]),
    ("state of three", lambda m: m(X, (H0, C0, C0)), TypeError, ["state", "h, c", "3"]),
    ("state batch", lambda m: m(X, (f32(1, 3, H), C0)), ValueError, ["state", "h", "1, 2, 5", "1, 3, 5"]),
    ("state layers", lambda m: m(X, (H0, f32(2, B, H))), ValueError, ["state", "c", "1, 2, 5", "2, 2, 5"]),
    ("state size", lambda m: m(X, (H0, f32(1, B, 4))), ValueError, ["state", "c", "1, 2, 5", "1, 2, 4"]),
    ("state unbatched", lambda m: m(X, (f32(1, H), f32(1, H))), ValueError, ["state", "h", "1, 2, 5", "1, 5"]),
    ("state dtype", lambda m: m(X, (H0, C0.astype("float64"))), TypeError, ["state", "c", "float32", "float64"]),
    ("state list", lambda m: m(X, (H0.tolist(), C0)), TypeError, ["state", "h", "array", "list"]),
    ("batched state", lambda m: m(f32(T, N), (H0, C0)), ValueError, ["state", "1, 5", "1, 2, 5"]),
    ("length too long", lambda m: m(X, lengths=[4, 5]), ValueError, ["lengths", "4", "5"]),
    ("length negative", lambda m: m(X, lengths=[4, -1]), ValueError, ["lengths", "0", "-1"]),
    ("length wraps", lambda m: m(X, lengths=np.array([4, 2**64 - 1], "uint64")), ValueError, ["lengths", "184467"]),
    ("lengths NaN", lambda m: m(X, lengths=[4, np.nan]), (TypeError, ValueError), ["lengths", "integer", "float|nan"]),
    ("lengths float", lambda m: m(X, lengths=np.array([4.0, 2.0])), TypeError, ["lengths", "integer", "float64"]),
    ("lengths bool", lambda m: m(X, lengths=[True, False]), TypeError, ["lengths", "integer", "bool"]),
    ("lengths mixed", lambda m: m(X, lengths=[True, 4]), TypeError, ["lengths", "integers", "both"]),
    ("lengths mixed 2", lambda m: m(X, lengths=(4, np.array(True))), TypeError, ["lengths", "integers", "both"]),
    ("lengths count", lambda m: m(X, lengths=[4, 4, 4]), ValueError, ["lengths", "2", "3"]),
    ("lengths rank", lambda m: m(X, lengths=[[4, 4]]), ValueError, ["lengths", "2", "1, 2"]),
    ("lengths scalar", lambda m: m(X, lengths=4), TypeError, ["lengths", "int"]),
    ("lengths unbatched", lambda m: m(f32(T, N), lengths=[4]), ValueError, ["lengths", "batch"]),
    ("out shape", lambda m: m(X, out=f32(T, B, H + 1)), ValueError, ["out", "4, 2, 5", "4, 2, 6"]),
    ("out dtype", lambda m: m(X, out=f32(T, B, H).astype("float64")), TypeError, ["out", "float32", "float64"]),
    ("out list", lambda m: m(X, out=[]), TypeError, ["out", "array", "list"]),
    ("out read-only", lambda m: m(X, out=read_only(f32(T, B, H))), ValueError, ["out", "writ", "read-only"]),
    ("out strided", lambda m: m(X, out=f32(T, B, 2 * H)[..., ::2]), ValueError, ["out", "contiguous", "strides"]),
    ("out on itself", lambda m: m(X, out=self_overlapping()), ValueError, ["out", "overlap"]),
    ("out on x", call_with_overlap, ValueError, ["out", "overlap", "x"]),
    ("out on state", call_with_state_overlap, ValueError, ["out", "overlap", "c$"]),
    ("out byte order", lambda m: m(X, out=np.zeros((T, B, H), X.dtype.newbyteorder())), TypeError, ["out", "float32"]),
    ("too many rows", lambda m: m(np.empty((0, 2**31, N), "float32")), ValueError, ["x", "2\\*\\*31", "2147483648"]),
    (
        "beyond memory",
        lambda m: m(np.broadcast_to(f32(1, 1, N), (2**50, 1, N))),
        (MemoryError, ValueError),
        ["output", "bytes|memory|allocate"],
    ),
    (
        "beyond 64 bits",
        lambda m: m(np.broadcast_to(f32(1, 1, N), (2**30, 2**28, N))),
        (MemoryError, ValueError),
        ["output", "bytes|memory|allocate"],
    ),
]


def check_message(error: BaseException, parts: list[str]) -> None:
    for part in parts:
        assert re.search(part, str(error)), f"{part!r} is not in {str(error)!r}"


@pytest.mark.parametrize(("call", "kind", "parts"), [c[1:] for c in CALLS], ids=[c[0] for c in CALLS])
def test_a_refused_call_says_why_and_leaves_the_layer_as_it_was(call: Call, kind: Any, parts: list[str]) -> None:
    layer = recurra.LSTM(N, H, seed=0)
    before = copies(layer(X, (H0, C0)))
    with pytest.raises(kind) as caught:
        call(layer)
    check_message(caught.value, parts)
    assert_same_bits(list(copies(layer(X, (H0, C0)))), before)


def test_a_refused_out_is_not_written() -> None:
    layer = recurra.LSTM(N, H, seed=0)
    out = np.full((T, B, H), 7, "float32")
    for state, lengths in (((H0, f32(1, B, 4)), None), (None, [1, 9])):
        with pytest.raises(ValueError, match=r"state|lengths"):
            layer(X, state, lengths=lengths, out=out)
        assert (out == 7).all()


def test_single_state_layers_refuse_a_tuple() -> None:
    for layer in (recurra.GRU(N, H), recurra.RNN(N, H)):
        with pytest.raises(TypeError, match=r"state.*array.*tuple"):
            layer(X, (H0, C0))


STREAM_CALLS: list[tuple[str, Call, Any, list[str]]] = [
    ("step size", lambda s: s.step(f32(B, N + 1)), ValueError, ["x", "2, 3", "2, 4"]),
    ("step batch", lambda s: s.step(f32(B + 1, N)), ValueError, ["x", "2, 3", "3, 3"]),
    ("step same count", lambda s: s.step(f32(N, B)), ValueError, ["x", "2, 3", "3, 2"]),
    ("step rank", lambda s: s.step(f32(N)), ValueError, ["x", "2, 3"]),
    ("step of a chunk", lambda s: s.step(f32(1, B, N)), ValueError, ["x", "2, 3", "1, 2, 3"]),
    ("step dtype", lambda s: s.step(X[0].astype("float64")), TypeError, ["x", "float32", "float64"]),
    ("step byte order", lambda s: s.step(X[0].astype(X.dtype.newbyteorder())), TypeError, ["x", "float32"]),
    ("step list", lambda s: s.step(X[0].tolist()), TypeError, ["x", "array", "list"]),
    ("step None", lambda s: s.step(None), TypeError, ["x", "array", "None"]),
    ("step device", lambda s: s.step(OnDevice()), ValueError, ["x", "CPU", "cuda"]),
    ("step out shape", lambda s: s.step(X[0], out=f32(B, H + 1)), ValueError, ["out", "2, 5", "2, 6"]),
    ("step out dtype", lambda s: s.step(X[0], out=np.zeros((B, H))), TypeError, ["out", "float32", "float64"]),
    ("step out list", lambda s: s.step(X[0], out=[]), TypeError, ["out", "array", "list"]),
    ("step out read-only", lambda s: s.step(X[0], out=read_only(f32(B, H))), ValueError, ["out", "writ", "read-only"]),
    ("chunk size", lambda s: s.run(f32(T, B, N + 1)), ValueError, ["chunk", "3", "4, 2, 4"]),
    ("chunk rank", lambda s: s.run(f32(T, N)), ValueError, ["chunk", "3", "4, 3"]),
    ("chunk dtype", lambda s: s.run(X.astype("float64")), TypeError, ["chunk", "float32", "float64"]),
    ("chunk list", lambda s: s.run(X.tolist()), TypeError, ["chunk", "array", "list"]),
    ("chunk out", lambda s: s.run(X, out=f32(T, B, H + 1)), ValueError, ["out", "4, 2, 5", "4, 2, 6"]),
    ("state shape", lambda s: setattr(s, "state", (H0, f32(1, B, 4))), ValueError, ["state", "1, 2, 5", "1, 2, 4"]),
    ("state alone", lambda s: setattr(s, "state", H0), TypeError, ["state", "tuple"]),
    ("state dtype", lambda s: setattr(s, "state", (H0, C0.astype("float64"))), TypeError, ["state", "32", "float64"]),
    ("reset row", lambda s: s.reset([0, B]), ValueError, ["rows", "1", "2"]),
    ("reset negative row", lambda s: s.reset([-1]), ValueError, ["rows", "0", "-1"]),
    ("reset float", lambda s: s.reset([0.5]), TypeError, ["rows", "integer", "float"]),
    ("reset mixed", lambda s: s.reset([True, 1]), TypeError, ["rows", "integers or booleans", "both"]),
    ("reset mask", lambda s: s.reset(np.array([True])), ValueError, ["rows", "2", "1"]),
]


@pytest.mark.parametrize(("call", "kind", "parts"), [c[1:] for c in STREAM_CALLS], ids=[c[0] for c in STREAM_CALLS])
def test_a_refused_stream_call_says_why_and_leaves_the_state_as_it_was(call: Call, kind: Any, parts: list[str]) -> None:
    layer = recurra.LSTM(N, H, seed=0)
    stream = layer.stream(B)
    stream.run(X)
    before = copies(stream.state)
    with pytest.raises(kind) as caught:
        call(stream)
    check_message(caught.value, parts)
    assert_same_bits(copies(stream.state), before)
    assert_same_bits(stream.step(X[0]), layer(X[:1], tuple(before))[0][0])


@pytest.mark.parametrize("size", (N, H))
def test_a_stream_refuses_an_out_that_overlaps_its_input(size: int) -> None:
    stream = recurra.LSTM(size, size, seed=0).stream(B)
    x, chunk = f32(B, size), f32(T, B, size)
    with pytest.raises(ValueError, match=r"out.*overlaps x"):
        stream.step(x, out=x)
    with pytest.raises(ValueError, match=r"out.*overlaps chunk"):
        stream.run(chunk, out=chunk)
    assert not any(part.any() for part in stream.state)
    assert (x == 0.5).all()
    assert (chunk == 0.5).all()


def test_a_bidirectional_layer_refuses_to_stream_and_says_why() -> None:
    with pytest.raises(ValueError, match=r"bidirectional.*(last|whole|future|end)"):
        recurra.GRU(N, H, bidirectional=True).stream()


@pytest.mark.parametrize("batch", (0, -1, 1.5, "2", True, 2**50))
def test_a_stream_refuses_a_bad_batch(batch: Any) -> None:
    with pytest.raises((ValueError, TypeError, MemoryError), match="batch"):
        recurra.GRU(N, H).stream(batch)


@pytest.mark.parametrize("threads", (0, -1, 1.5, "2", True))
def test_a_stream_refuses_a_bad_number_of_threads(threads: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="threads"):
        recurra.GRU(N, H).stream(threads=threads)


CONSTRUCTIONS: list[tuple[str, Any, dict[str, Any], Any, str]] = [
    ("hidden 0", recurra.LSTM, {"hidden_size": 0}, ValueError, "hidden_size.*0"),
    ("hidden -1", recurra.GRU, {"hidden_size": -1}, ValueError, "hidden_size.*-1"),
    ("hidden float", recurra.RNN, {"hidden_size": 5.0}, TypeError, "hidden_size.*5.0"),
    ("hidden text", recurra.RNN, {"hidden_size": "5"}, TypeError, "hidden_size.*5"),
    ("input -1", recurra.LSTM, {"input_size": -1}, ValueError, "input_size.*-1"),
    ("input float", recurra.LSTM, {"input_size": 3.5}, TypeError, "input_size.*3.5"),
    ("layers 0", recurra.LSTM, {"num_layers": 0}, ValueError, "num_layers.*0"),
    ("proj -1", recurra.LSTM, {"proj_size": -1}, ValueError, "proj_size.*-1"),
    ("proj too large", recurra.LSTM, {"proj_size": H}, ValueError, "proj_size.*5"),
    ("dropout 1.5", recurra.LSTM, {"dropout": 1.5}, ValueError, "dropout.*1.5"),
    ("dropout NaN", recurra.LSTM, {"dropout": float("nan")}, ValueError, "dropout.*(nan|NaN)"),
    ("clip 0", recurra.LSTM, {"cell_clip": 0.0}, ValueError, "cell_clip.*0"),
    ("clip NaN", recurra.LSTM, {"cell_clip": float("nan")}, ValueError, "cell_clip.*(nan|NaN)"),
    ("clip text", recurra.LSTM, {"cell_clip": "1"}, TypeError, "cell_clip.*1"),
    ("proj array", recurra.LSTM, {"proj_size": np.array([2, 3])}, TypeError, "proj_size.*2, 3"),
    ("clip vanishes", recurra.LSTM, {"cell_clip": 1e-60}, ValueError, "cell_clip.*float32.*1e-60"),
    ("clip counts as zero", recurra.LSTM, {"cell_clip": 1e-39}, ValueError, "cell_clip.*float32.*1e-39"),
    ("clip overflows", recurra.LSTM, {"cell_clip": 1e39}, ValueError, r"cell_clip.*float32.*1e\+39"),
    ("clip beyond float64", recurra.LSTM, {"cell_clip": 10**400}, ValueError, "cell_clip.*float64.*10000"),
    (
        "clip that Python does not print",
        recurra.LSTM,
        {"cell_clip": 10**5000},
        ValueError,
        "cell_clip.*got an int that",
    ),
    ("hidden that Python does not print", recurra.RNN, {"hidden_size": -(10**5000)}, ValueError, "hidden_size.*an int"),
    ("layers beyond printing", recurra.GRU, {"num_layers": 10**5000}, MemoryError, "num_layers=an int that"),
    ("long text is cut", recurra.GRU, {"input_size": "a" * 5000}, TypeError, r"^input_size: .*, got 'a{99}\.\.\.$"),
    ("coupled float", recurra.LSTM, {"coupled": 1.0}, ValueError, r"coupled.*True.*1\.0"),
    ("coupled 0", recurra.LSTM, {"coupled": 0}, ValueError, "coupled.*False.*got 0"),
    ("coupled", recurra.LSTM, {"coupled": "both"}, ValueError, "coupled.*f_from_i.*both"),
    ("reset", recurra.GRU, {"reset": "middle"}, ValueError, "reset.*after.*before.*middle"),
    ("update", recurra.GRU, {"update": "forget"}, ValueError, "update.*keep.*write.*forget"),
    ("nonlinearity", recurra.RNN, {"nonlinearity": "gelu"}, ValueError, "nonlinearity.*tanh.*relu.*gelu"),
    ("float16", recurra.LSTM, {"dtype": "float16"}, (TypeError, ValueError), "dtype.*float32.*float16"),
    ("int32", recurra.LSTM, {"dtype": np.int32}, (TypeError, ValueError), "dtype.*float32.*int32"),
    ("two dtypes", recurra.LSTM, {"dtype": "f4,f4,,"}, TypeError, "dtype.*float32.*f4,f4,,"),
    ("dtype None", recurra.LSTM, {"dtype": None}, TypeError, "dtype.*float32.*None"),
    ("no dtype", recurra.LSTM, {"dtype": "fast"}, (TypeError, ValueError), "dtype.*float32.*fast"),
    ("seed and rng", recurra.LSTM, {"seed": 1, "rng": np.random.default_rng(1)}, (TypeError, ValueError), "rng.*seed"),
    ("seed", recurra.LSTM, {"seed": "one"}, (TypeError, ValueError), "(?i)seed.*one"),
    ("seed -1", recurra.LSTM, {"seed": -1}, ValueError, "seed.*-1"),
    ("seed True", recurra.LSTM, {"seed": True}, TypeError, "seed.*True"),
    ("seed matrix", recurra.LSTM, {"seed": f32(2, 2).view(np.matrix)}, TypeError, "seed.*matrix"),  # crashes NumPy
    ("rng", recurra.LSTM, {"rng": 3}, TypeError, "rng.*3|rng.*int"),
    ("forget bias", recurra.LSTM, {"forget_bias": "one"}, TypeError, "forget_bias.*one"),
    ("forget bias without bias", recurra.LSTM, {"forget_bias": 1.0, "bias": False}, ValueError, "forget_bias.*1.0"),
    ("forget bias overflows", recurra.LSTM, {"forget_bias": 1e39}, ValueError, r"forget_bias.*1e\+39"),
    ("forget bias NaN", recurra.LSTM, {"forget_bias": float("nan")}, ValueError, "forget_bias.*(nan|NaN)"),
    ("bidirectional", recurra.LSTM, {"bidirectional": 2}, TypeError, "bidirectional.*2"),
    ("beyond memory", recurra.LSTM, {"hidden_size": 2**24}, (ValueError, MemoryError), "."),
    ("beyond 64 bits", recurra.LSTM, {"hidden_size": 2**40, "input_size": 2**40}, (ValueError, MemoryError), "."),
    ("many layers", recurra.LSTM, {"num_layers": 2**60}, (ValueError, MemoryError), "."),
]


CONSTRUCTION_IDS = [c[0] for c in CONSTRUCTIONS]


@pytest.mark.parametrize(("cls", "change", "kind", "match"), [c[1:] for c in CONSTRUCTIONS], ids=CONSTRUCTION_IDS)
def test_a_bad_constructor_argument_is_named(cls: Any, change: dict[str, Any], kind: Any, match: str) -> None:
    with pytest.raises(kind, match=f"(?s){match}"):
        cls(**({"input_size": N, "hidden_size": H} | change))


UNKNOWN: list[tuple[dict[str, Any], list[str]]] = [
    ({"cell": "nonesuch"}, ["cell", "gru", "lstm", "nonesuch"]),
    ({"cell": "lstm", "constants": {"gain": 1.0}}, ["constants", "lstm", "cell_clip", "gain"]),
    ({"cell": "gru", "constants": {"cell_clip": 1.0}}, ["constants", "gru", "cell_clip"]),
    ({"cell": "lstm", "constants": {"cell_clip": 1e-60}}, ["constants", "cell_clip", "float32", "1e-60"]),
    ({"cell": "gru", "proj_size": 2}, ["proj_size", "gru", "2"]),
    ({"cell": "lstm_projected"}, ["proj_size", "lstm_projected", "0"]),
]


@pytest.mark.parametrize(("change", "parts"), UNKNOWN)
def test_a_cell_or_constant_that_does_not_exist_is_named(change: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        recurra.Recurrent(**({"input_size": N, "hidden_size": H} | change))
    check_message(caught.value, parts)


@pytest.mark.parametrize("constants", ([1], "abc", {1: 2}))
def test_constants_that_are_no_mapping_are_refused(constants: Any) -> None:
    params = recurra.LSTM(N, H, seed=0).state_dict()
    with pytest.raises(TypeError, match=r"constants: expected"):
        recurra.Recurrent("lstm", N, H, constants=constants)
    with pytest.raises(TypeError, match=r"constants: expected"):
        functional.pack("lstm", params, constants)


def test_float64_has_clips_that_float32_has_not() -> None:
    assert recurra.LSTM(N, H, cell_clip=1e-60, dtype="float64").cell_clip == 1e-60
    assert recurra.LSTM(N, H, cell_clip=np.inf).cell_clip == np.inf


def test_a_layer_is_no_packed_network() -> None:
    layer: Any = recurra.LSTM(N, H)
    for call in (lambda: recurra.Stream(layer), lambda: functional.run(layer, X), lambda: functional.forward(layer, X)):
        with pytest.raises(TypeError, match=r"packed: .*functional\.pack.*LSTM"):
            call()


@pytest.mark.parametrize("rng", (-1, 2**64))
def test_a_seed_of_noise_out_of_range_is_a_value_error(rng: int) -> None:
    with pytest.raises(ValueError, match=rf"rng: .*{rng}"):
        recurra.LSTM(N, H, dropout=0.5).forward(X, rng=rng)


def broken_parameters(params: dict[str, Array]) -> dict[str, Array]:
    broken = {n: a for n, a in params.items() if n not in ("bias_hh_l0", "weight_ih_l1")}
    return broken | {"weight_hh_l0": f32(20, 4), "extra": f32(1), "weight_hh_l7": f32(20, 5)}


def test_a_bad_state_dict_is_refused_whole_with_everything_wrong_in_one_message() -> None:
    layer = recurra.LSTM(N, H, 2, seed=0)
    before = copies(list(layer.state_dict().values()))
    result = copies(layer(X))
    with pytest.raises(ValueError, match="missing") as caught:
        layer.load_state_dict(broken_parameters(layer.state_dict()))
    check_message(
        caught.value,
        ["missing.*bias_hh_l0.*weight_ih_l1", "unexpected.*extra.*weight_hh_l7", "weight_hh_l0.*20, 5.*20, 4"],
    )
    assert_same_bits(list(layer.state_dict().values()), before)
    assert_same_bits(copies(layer(X)), result)


@pytest.mark.parametrize(
    ("value", "part"),
    [(np.zeros((20, 5)), "float64"), ([[0.0]], "list"), (OnDevice(), "cuda"), (np.zeros((20, 5), ">f4"), "byte|>f4")],
    ids=["dtype", "list", "device", "byte order"],
)
def test_a_parameter_of_the_wrong_kind_is_named(value: Any, part: str) -> None:
    layer = recurra.LSTM(N, H, seed=0)
    with pytest.raises((TypeError, ValueError), match=f"(?s)weight_hh_l0.*({part})"):
        layer.load_state_dict({**layer.state_dict(), "weight_hh_l0": value})
    with pytest.raises(TypeError, match=r"state_dict: .*mapping.*str"):
        layer.load_state_dict("m.onnx")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"state_dict: .*list"):
        layer.load_state_dict([1, 2])  # type: ignore[arg-type]


def test_functional_refuses_what_does_not_fit_together() -> None:
    layer = recurra.LSTM(N, H, 2, seed=0)
    params = layer.state_dict()
    with pytest.raises(ValueError, match="weight_hh_l0"):
        functional.lstm(X, {n: a for n, a in params.items() if n != "weight_hh_l0"})
    with pytest.raises(ValueError, match="weight_ih_l1"):
        functional.lstm(X, {n: a for n, a in params.items() if n != "weight_ih_l1"})
    with pytest.raises(ValueError, match="weight_peep_l1"):
        functional.lstm(X, {**params, "weight_peep_l0": f32(3 * H)})
    with pytest.raises(ValueError, match=r"weight_hh_l1.*20, 5.*20, 6"):
        functional.lstm(X, {**params, "weight_hh_l1": f32(20, 6)})
    with pytest.raises(ValueError, match=r"weight_ih_l0.*20, 3"):
        functional.gru(X, params)
    with pytest.raises(TypeError, match=r"params.*mapping.*list"):
        functional.lstm(X, [])  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match=r"(?s)bias_hh_l1.*float32.*float64"):
        functional.lstm(X, {**params, "bias_hh_l1": np.zeros(20)})
    packed = functional.pack("lstm", params)
    with pytest.raises(ValueError, match=r"params.*lstm_coupled.*lstm"):
        functional.lstm(X, packed, coupled=True)
    with pytest.raises(ValueError, match=r"params.*cell_clip"):
        functional.lstm(X, packed, cell_clip=1.0)


def test_thread_counts_that_make_no_sense_are_refused() -> None:
    for wrong in (0, -1, 1.5, "2", None):
        with pytest.raises((TypeError, ValueError), match=r"(?i)thread|n:"):
            recurra.set_num_threads(wrong)  # type: ignore[arg-type]
    assert recurra.get_num_threads() >= 1


def test_more_threads_than_any_machine_has_are_as_many_as_this_one_has(restore_threads: None) -> None:
    recurra.set_num_threads(2**31)
    assert recurra.get_num_threads() == CPUS
