"""Layers on a GPU, or over its stand-in: results of calls beside the oracle and the CPU's bits, kinds of arrays."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, states
from cuda_arrays import LIBRARY, DeviceArray, counted, download, driver, require_gpu, upload
from cuda_problems import MODES, Case, called, cases, oracle
from gradients import blank
from hypothesis import given
from hypothesis import strategies as st
from reference import CELLS
from strategies import Problem

import recurra
from recurra import functional

require_gpu()

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))
# Twice the rounding of the type; sums of some dozens of products have that of float32 and float64 on top.
TOLERANCE = {"float32": 2e-6, "float64": 1e-13, "float16": 2**-10, "bfloat16": 2**-7}


def sized(cell: str, **sizes: Any) -> Problem:
    usual: dict[str, Any] = {"input_size": 3, "hidden_size": 6, "steps": 4, "batch": 3, "layers": 2, "directions": 2}
    usual |= {"lengths": (4, 0, 2), "with_state": True} | sizes
    return Problem(cell, proj_size=4 if CELLS[cell].projected else 0, heads=2 if CELLS[cell].heads else 1, **usual)


def data(*shape: int, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, shape).astype(dtype)


# ---- results


@ALL_CELLS
@given(data=st.data())
def test_the_exact_engine_has_the_bits_of_the_cpu(cell: str, data: st.DataObject) -> None:
    case = data.draw(cases(cell, noise=False))
    problem, layer = case.problem, case.layer()
    want = layer(blank(problem, problem.x()), problem.state(), lengths=problem.lengths)
    assert_same_bits(called(case, layer.to("cuda", engine="exact")), want)


@pytest.mark.parametrize(("number", "engine"), MODES)
@ALL_CELLS
def test_every_cell_is_its_oracle(cell: str, number: str, engine: str) -> None:
    # Numbers of 16 bits are rounded again wherever a float32 sum lies near the middle of two: all layers have them.
    layers = 1 if number in ("float16", "bfloat16") else 2
    dtype = "float64" if number == "float64" else "float32"
    clip = 0.3 if cell.startswith("lstm") else None
    case = Case(sized(cell, dtype=dtype, layers=layers, cell_clip=clip, seed=3))
    layer = case.layer().to("cuda", dtype=number, engine=engine)
    y, final = called(case, layer)
    want_y, want_final = oracle(case, number)
    assert_close([y, *states(final)], [want_y, *want_final], TOLERANCE[number])


@pytest.mark.parametrize(("number", "engine"), MODES)
def test_lengths_on_the_gpu_that_are_none_lead_to_no_row_outside(number: str, engine: str) -> None:
    """Nobody can look at them: those below 0 count as 0, those beyond T as T."""
    layer = recurra.LSTM(3, 5, 2, bidirectional=True, seed=0, device="cuda", engine=engine, dtype=number)
    x, dy = upload(data(4, 4, 3), number), upload(data(4, 4, 10), number)

    def results(*lengths: int) -> Any:
        y, state, tape = layer.forward(x, lengths=upload(np.array(lengths, "int32")))
        return download((y, state, tuple(tape.backward(dy))))

    assert_same_bits(results(-3, 1000, 2, -(2**31)), results(0, 4, 2, 0))


@pytest.mark.parametrize(("number", "engine"), MODES)
@pytest.mark.parametrize("on_device", (False, True))
def test_lengths_are_those_of_rows_alone(number: str, engine: str, on_device: bool) -> None:
    dtype = "float64" if number == "float64" else "float32"
    case = Case(sized("lstm", dtype=dtype, batch=4, lengths=(4, 0, 1, 3)), on_device=on_device)
    layer = case.layer().to("cuda", dtype=number, engine=engine)
    y, final = called(case, layer)
    x, state = case.problem.x(), case.problem.state()
    for row, steps in enumerate(case.problem.lengths or ()):
        one = upload(x[:steps, row : row + 1], number)
        initial = upload(tuple(part[:, row : row + 1] for part in state), number)
        y1, final1 = download(layer(one, initial))
        assert not y[steps:, row].any()
        assert_close(y[:steps, row : row + 1], y1, TOLERANCE[number])
        assert_close([part[:, row : row + 1] for part in final], final1, TOLERANCE[number])


def test_auto_chooses_an_engine_that_the_numbers_allow() -> None:
    x = data(2, 2, 3)
    for number in ("float32", "float64", "float16", "bfloat16"):
        layer = recurra.GRU(3, 5, seed=0, device="cuda", dtype=number)
        assert layer.engine == "auto"
        y, _ = layer(upload(x, number))
        assert y.dtype == number
        dtype = "float64" if number == "float64" else "float32"
        want, _ = recurra.GRU(3, 5, seed=0, dtype=dtype)(x.astype(dtype))
        assert_close(download(y), want, TOLERANCE[number])


def test_tf32_rounds_products_when_it_is_asked_for() -> None:
    layer, x = recurra.GRU(40, 40, seed=0), data(3, 4, 40)
    want, _ = layer(x)
    plain, rounded = (
        download(layer.to("cuda", engine="cublas", allow_tf32=tf32)(upload(x))[0]) for tf32 in (False, True)
    )
    assert_close(plain, want, TOLERANCE["float32"])
    assert 1e-6 < np.abs(rounded - want).max() < 2e-3


# ---- arrays


@pytest.mark.parametrize("cell", ("lstm_projected", "gru"))
def test_layouts_are_those_of_the_cpu(cell: str) -> None:
    problem = sized(cell, lengths=None, directions=1)
    layer, x, state = problem.layer(), problem.x(), problem.state()
    there = layer.to("cuda", engine="exact")
    want = layer(x, state)
    initial = upload(state)

    def view_of(array: Array) -> DeviceArray:
        """The same numbers among others, backwards and with other strides, not to be written."""
        wide = np.zeros((array.shape[1], 2 * array.shape[0], array.shape[2] + 3), array.dtype)
        wide[::-1, ::2, 1:-2] = array.transpose(1, 0, 2)
        view = DeviceArray.of(wide)[::-1, ::2, 1:-2].transpose(1, 0, 2)
        return view.exported(readonly=True)

    assert_same_bits(download(there(view_of(x), initial)), want)
    strided = tuple(map(view_of, states(state)))
    assert_same_bits(download(there(upload(x), strided if len(strided) > 1 else strided[0])), want)
    first = problem.layer(batch_first=True)
    assert_same_bits(
        download(first.to("cuda", engine="exact")(upload(x.swapaxes(0, 1)), initial)),
        first(x.swapaxes(0, 1), state),
    )
    one = tuple(part[:, 1] for part in states(state))
    unbatched: Any = one if len(one) > 1 else one[0]
    assert_same_bits(download(there(upload(x[:, 1]), upload(unbatched))), layer(x[:, 1], unbatched))
    if len(one) > 1:
        assert_same_bits(download(there(upload(x), list(initial))), want)
    packed = functional.pack(cell, layer.state_dict(), device="cuda", engine="exact")
    assert_same_bits(download(functional.run(packed, upload(x), initial)), want)


@pytest.mark.parametrize("number", ("float32", "float64", "float16"))
def test_out_is_written_and_returned(number: str) -> None:
    layer = recurra.LSTM(3, 5, batch_first=True, seed=0, device="cuda", dtype=number)
    x = upload(data(2, 4, 3), number)
    want, state = download(layer(x))
    memory = DeviceArray.of(np.full((4, 3, 11), 9), number)
    out: Any = memory[:, 1:, ::2][:, :, :5].transpose(1, 0, 2)
    y, again = layer(x, out=out)
    assert y is out
    assert_same_bits([download(out), download(again)], [want, state])
    rest = download(memory)
    rest[:, 1:, 0:10:2] = 9
    assert (rest == 9).all()


@pytest.mark.parametrize("shape", ((0, 3, 3), (4, 0, 3), (0, 0, 3), (0, 3)))
def test_nothing_is_an_input_too(shape: tuple[int, ...]) -> None:
    for layers, both in ((1, False), (2, True)):
        layer = recurra.LSTM(3, 5, layers, bidirectional=both, seed=0)
        there = layer.to("cuda")
        x = np.zeros(shape, "float32")
        assert_same_bits(download(there(upload(x))), layer(x))
        y, state, tape = there.forward(upload(x))
        gradients = tape.backward(y, state)
        wanted_y, wanted_state, wanted = layer.forward(x)
        assert_same_bits(download(gradients), tuple(wanted.backward(wanted_y, wanted_state)))
    lengths = upload(np.zeros(0, "int32"))
    y, _ = there(upload(np.zeros((4, 0, 3), "float32")), lengths=lengths)
    assert y.shape == (4, 0, 10)


def test_results_are_of_the_library_and_stream_of_x() -> None:
    class Other(DeviceArray):
        pass

    x = DeviceArray.of(data(4, 2, 3))
    layer = recurra.GRU(3, 5, seed=0, device="cuda")
    y, h = layer(x)
    assert type(y) is type(h) is DeviceArray
    assert (y.dtype, y.shape, h.shape) == ("float32", (4, 2, 5), (1, 2, 5))
    assert y.stream == LIBRARY.current_stream(0) or y.stream == 1


# ---- parameters, places


@ALL_CELLS
@pytest.mark.parametrize("number", ("float32", "float64", "bfloat16"))
def test_parameters_stay_as_they_were_given(cell: str, number: str) -> None:
    dtype = "float64" if number == "float64" else "float32"
    layer = sized(cell, dtype=dtype).layer()
    there = layer.to("cuda:0", dtype=number)
    want = layer.state_dict()
    assert list(there.state_dict()) == list(want)
    assert_same_bits(there.state_dict(), want)
    assert_same_bits(there.weight_ih_l1, layer.weight_ih_l1)
    assert there.parameter_count == layer.parameter_count
    assert_same_bits(there.to("cpu", dtype=dtype).state_dict(), want)
    with pytest.raises(ValueError, match="read-only"):
        there.weight_ih_l0[0] = 1
    for again in (pickle.loads(pickle.dumps(there)), copy.copy(there), copy.deepcopy(there)):
        assert (type(again), repr(again), again.dtype, again.device) == (
            type(there),
            repr(there),
            there.dtype,
            "cuda:0",
        )
        assert_same_bits(again.state_dict(), want)


def test_parameters_are_loaded_from_both_devices() -> None:
    x = data(4, 2, 3)
    other = recurra.LSTM(3, 5, seed=1)
    params = other.state_dict()
    mixed = {name: DeviceArray.of(array) if "ih" in name else array for name, array in params.items()}
    for given_params in (params, upload(params), mixed):
        layer = recurra.LSTM(3, 5, seed=0, device="cuda", engine="exact")
        before = layer.state_dict()
        stream = layer.stream(2)
        tape = layer.forward(upload(x))[2]
        wanted = download(tape.backward(upload(np.ones((4, 2, 5), "float32"))))
        layer.load_state_dict(given_params)
        assert_same_bits(layer.state_dict(), params)
        assert_same_bits(download(layer(upload(x))), other(x))
        # What was made before keeps its parameters.
        assert_same_bits(download(tape.backward(upload(np.ones((4, 2, 5), "float32")))), wanted)
        old = recurra.LSTM(3, 5)
        old.load_state_dict(before)
        assert_same_bits(download(stream.step(upload(x[0]))), old(x[:1])[0][0])


def test_wrong_parameters_are_listed_and_change_nothing() -> None:
    layer = recurra.GRU(3, 5, seed=0, device="cuda")
    before = layer.state_dict()
    params: dict[str, Any] = upload(before)
    params["weight_ih_l0"] = upload(np.zeros((3, 15), "float32")).transpose(1, 0)
    params["weight_hh_l0"] = upload(np.zeros((15, 5)))
    params["bias_ih_l0"] = np.zeros(4, "float32")
    params["extra"] = params.pop("bias_hh_l0")
    with pytest.raises(ValueError) as error:
        layer.load_state_dict(params)
    for part in (
        "missing: bias_hh_l0",
        "unexpected: extra",
        "weight_ih_l0: expected a C-contiguous array on the GPU, got strides (1, 15)",
        "weight_hh_l0: expected float32, got float64",
        "bias_ih_l0: expected shape [15], got [4]",
    ):
        assert part in str(error.value)
    assert_same_bits(layer.state_dict(), before)


def test_packing_reads_sizes_from_arrays_on_the_gpu() -> None:
    layer, x = recurra.LSTM(3, 5, 2, bidirectional=True, proj_size=2, seed=0), data(4, 2, 3)
    packed = functional.pack("lstm_projected", upload(layer.state_dict()), device="cuda", engine="exact")
    assert packed.sizes == layer._packed.sizes
    assert_same_bits(download(functional.run(packed, upload(x))), layer(x))
    assert_same_bits(download(functional.lstm(upload(x), packed)), layer(x))
    small = functional.pack("lstm_projected", layer.state_dict(), device="cuda", dtype="bfloat16")
    assert_close(download(functional.run(small, upload(x, "bfloat16"))), layer(x), 4 * TOLERANCE["bfloat16"])
    with pytest.raises(TypeError, match="dtype: expected that of the parameters, float32, or 16 bits"):
        functional.pack("lstm_projected", layer.state_dict(), device="cuda", dtype="float64")
    with pytest.raises(ValueError, match="precision, keep: expected None and"):
        functional.pack("lstm_projected", layer.state_dict(), precision="int8", device="cuda")


def test_to_is_the_layer_itself_where_nothing_changes() -> None:
    layer = recurra.LSTM(3, 5, peephole=True, zoneout=0.1, seed=0)
    assert layer.to("cpu") is layer
    there = layer.to("cuda", engine="cublas", allow_tf32=True)
    assert (there.device, there.engine, there.allow_tf32) == ("cuda:0", "cublas", True)
    assert there.to("cuda") is there.to("cuda:0", dtype="float32") is there
    assert repr(there) == ("LSTM(3, 5, peephole=True, zoneout=0.1, device='cuda:0', engine='cublas', allow_tf32=True)")
    back = there.to("cpu")
    assert repr(back) == repr(layer)
    assert_same_bits(back.state_dict(), layer.state_dict())
    wide = there.to("cuda", dtype="float64", allow_tf32=False)
    assert (wide.dtype, wide.engine) == (np.dtype("float64"), "cublas")
    assert_same_bits(wide.weight_ih_l0, layer.weight_ih_l0.astype("float64"))
    biased = recurra.LSTM(3, 5, forget_bias=1.0, seed=0)
    assert_same_bits(recurra.LSTM(3, 5, forget_bias=1.0, seed=0, device="cuda").state_dict(), biased.state_dict())
    same = recurra.LSTM(3, 5, peephole=True, zoneout=0.1, seed=0, device="cuda")
    assert_same_bits(same.state_dict(), layer.state_dict())
    assert recurra.GRU(3, 5, device="cuda", dtype="bfloat16").dtype == "bfloat16"
    assert recurra.GRU(3, 5, device="cuda", dtype=np.float16).dtype == np.dtype("float16")


# ---- refused


def refusals() -> dict[str, tuple[Any, type[Exception], str]]:
    layer: Any = recurra.LSTM(3, 5, 2, seed=0, device="cuda")
    x = upload(data(4, 2, 3))
    small = recurra.LSTM(3, 5, device="cuda", dtype="bfloat16")
    h = upload(np.zeros((2, 2, 5), "float32"))
    memory = upload(data(64))
    lengths = upload(np.array([1, 2], "int64"))
    return {
        "NumPy": (lambda: layer(data(4, 2, 3)), ValueError, "x: expected a CUDA array on cuda:0, got a NumPy array"),
        "CPU layer": (lambda: recurra.LSTM(3, 5)(x), ValueError, "x: expected CPU memory, got cuda"),
        "list": (lambda: layer([1.0]), TypeError, "x: expected a CUDA array on cuda:0, got list"),
        "dtype": (lambda: layer(upload(data(4, 2, 3, dtype="float64"))), TypeError, "x: expected float32, got float64"),
        "bf16": (lambda: small(x), TypeError, "x: expected bfloat16, got float32"),
        "shape": (lambda: layer(upload(data(4, 2, 4))), ValueError, r"x: expected shape \[T, B, 3\] or \[T, 3\]"),
        "axes": (lambda: layer(upload(data(4))), ValueError, "x: expected shape"),
        "state kind": (lambda: layer(x, h), TypeError, r"state: expected a tuple \(h, c\), got DeviceArray"),
        "state shape": (lambda: layer(x, (h, h[:1])), ValueError, r"state c: expected shape \[2, 2, 5\]"),
        "state on the CPU": (lambda: layer(x, (h, data(2, 2, 5))), ValueError, "state c: expected a CUDA array"),
        "out shape": (lambda: layer(x, out=upload(data(4, 2, 4))), ValueError, "out: expected shape"),
        "out on the CPU": (lambda: layer(x, out=data(4, 2, 5)), ValueError, "out: expected a CUDA array"),
        "out read-only": (
            lambda: layer(x, out=upload(data(4, 2, 5)).exported(readonly=True)),
            ValueError,
            "out: expected a writeable array",
        ),
        "out of one row": (
            lambda: layer(x, out=upload(data(1, 2, 5)).broadcast_to((4, 2, 5))),
            ValueError,
            "out: expected elements that do not overlap",
        ),
        "long lengths": (lambda: layer(x, lengths=[1, 5]), ValueError, r"lengths: expected values in 0..4, got 5"),
        "few lengths": (lambda: layer(x, lengths=[1]), ValueError, r"lengths: expected shape \[2\]"),
        "float lengths": (lambda: layer(x, lengths=[1.0, 2.0]), TypeError, "lengths: expected integers"),
        "wide lengths": (
            lambda: layer(x, lengths=lengths),
            TypeError,
            "lengths: expected int32, contiguous on the GPU",
        ),
        "lengths on the GPU": (
            lambda: layer(x, lengths=upload(np.zeros(3, "int32"))),
            ValueError,
            r"lengths: expected shape \[2\], got \[3\]",
        ),
        "lengths of one": (lambda: layer(x[:, 0], lengths=[4]), ValueError, "lengths: expected none without a batch"),
        "quantize": (lambda: layer.quantize("int8"), ValueError, 'precision: expected a layer on the CPU.*"bfloat16"'),
        "quantized": (
            lambda: recurra.LSTM(3, 5).quantize("int8").to("cuda"),
            ValueError,
            "device, dtype: expected 'cpu' and float32 for a layer in int8",
        ),
        "16 bits to the CPU": (lambda: small.to("cpu"), TypeError, "dtype: expected float32 or float64 on the CPU"),
        "16 bits on the CPU": (lambda: recurra.GRU(3, 5, dtype="float16"), TypeError, "dtype: .* on the CPU"),
        "16 bits exact": (
            lambda: recurra.GRU(3, 5, device="cuda", dtype="float16", engine="exact"),
            ValueError,
            "engine: expected 'auto' or 'cublas' or 'cublas-resident' for float16",
        ),
        "engine on the CPU": (lambda: recurra.RNN(3, 5, engine="exact"), ValueError, "engine: expected 'auto'"),
        "TF32 on the CPU": (lambda: recurra.GRU(3, 5, allow_tf32=True), ValueError, "allow_tf32: expected False"),
        "TF32 of float64": (
            lambda: recurra.GRU(3, 5, device="cuda", dtype="float64", allow_tf32=True),
            ValueError,
            "allow_tf32: expected False for float64",
        ),
        "no engine": (lambda: layer.to("cuda", engine="fast"), ValueError, "engine: expected one of"),
        "no device": (lambda: layer.to("gpu"), ValueError, "device: expected 'cpu', 'cuda' or 'cuda:0', got 'gpu'"),
        "device number": (lambda: layer.to(0), TypeError, "device: expected"),
        "missing GPU": (lambda: layer.to("cuda:63"), ValueError, "device: there (is|are) .* got cuda:63"),
        "backward stream": (
            lambda: recurra.GRU(3, 5, bidirectional=True, device="cuda").stream(),
            ValueError,
            "bidirectional network cannot stream",
        ),
        "head": (
            lambda: layer.stream(head=recurra.Linear(5, 2)),
            ValueError,
            "head: expected one on cuda:0, got .*cpu",
        ),
        "stream of the CPU": (lambda: recurra.Stream(layer._packed), TypeError, "packed: .* got one on cuda:0"),
        "overlap": (
            lambda: recurra.RNN(4, 4, device="cuda")(view(memory, 0), out=view(memory, 4)),
            ValueError,
            "out: expected memory of its own, got an array that overlaps x",
        ),
        "rng": (lambda: layer.forward(x, rng=-1), ValueError, "rng: expected an integer"),
        "recompute": (lambda: layer.forward(x, recompute=1), TypeError, "recompute: expected True or False"),
    }


def view(memory: DeviceArray, start: int) -> DeviceArray:
    """[2, 2, 4] numbers of a vector."""
    new = object.__new__(DeviceArray)
    addresses = memory._addresses[start : start + 16].reshape(2, 2, 4)
    new.__dict__.update(memory.__dict__, _addresses=addresses)
    return new


@pytest.mark.parametrize("what", sorted(refusals()))
def test_what_cannot_be_is_refused_by_name(what: str) -> None:
    call, error, text = refusals()[what]
    driver()
    with pytest.raises(error, match=text):
        call()


def test_a_refused_call_launches_and_writes_nothing() -> None:
    layer: Any = recurra.LSTM(3, 5, seed=0, device="cuda")
    x, out = upload(data(4, 2, 3)), upload(data(4, 2, 5))
    before = download(out)
    launches = counted("launches") + counted("graph_launches")
    for options in ({"lengths": [1, 9]}, {"state": (out, out)}):
        with pytest.raises((TypeError, ValueError)):
            layer(x, out=out, **options)
    assert counted("launches") + counted("graph_launches") == launches
    assert_same_bits(download(out), before)


def test_an_array_of_another_gpu_is_refused_by_name() -> None:
    if recurra._core.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    layer = recurra.LSTM(3, 5, seed=0)
    first, second = layer.to("cuda:0", engine="exact"), layer.to("cuda:1", engine="exact")
    assert second.to("cuda") is not second
    x = data(4, 2, 3)
    here, there = DeviceArray.of(x, device=0), DeviceArray.of(x, device=1)
    assert_same_bits([download(first(here)), download(second(there))], [layer(x), layer(x)])
    with pytest.raises(ValueError, match=r"x: expected a CUDA array on cuda:1, got (one|memory) o.*cuda:0"):
        second(here)
    with pytest.raises(ValueError, match="weight_ih_l0: expected a CUDA array on cuda:1"):
        second.load_state_dict(upload(layer.state_dict()))
    assert_same_bits(second.to("cuda:0").state_dict(), layer.state_dict())


def test_a_case_has_a_twin() -> None:
    """The oracle's rounding is one: with it off, results of 16 bits are further away."""
    case = Case(replace(sized("gru", layers=1, lengths=None), hidden_size=32))
    y, _ = called(case, case.layer().to("cuda", dtype="bfloat16"))
    near, far = (np.abs(y - oracle(case, number)[0]).max() for number in ("bfloat16", "float32"))
    assert near <= 2**-8 and far > near
