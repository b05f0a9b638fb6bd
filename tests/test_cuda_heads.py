"""Linear and Embedding on a GPU, or over its stand-in: beside the CPU's bits and NumPy in float64; arrays, refusals,
and what calls promise besides their results."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import numpy as np
import pytest
from checks import Array, arrays, assert_close, assert_same_bits, run_python
from cuda_arrays import (
    LIBRARY,
    DeviceArray,
    Memory,
    begin,
    counted,
    download,
    end,
    new_stream,
    replay,
    require_gpu,
    synchronize,
    upload,
)
from hypothesis import given
from hypothesis import strategies as st

import recurra

require_gpu()

# Of results, in units of their size: the type's rounding, twice, and for 16 bits that of what is multiplied.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 2**-9, "bfloat16": 2**-6}
MODES = pytest.mark.parametrize(
    ("number", "engine"),
    (
        ("float32", "exact"),
        ("float64", "exact"),
        ("float32", "cublas"),
        ("float64", "cublas"),
        ("float32", "auto"),
        ("float16", "auto"),
        ("bfloat16", "auto"),
    ),
)


def data(*shape: int, dtype: str = "float32", seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(dtype)


def rounded(array: Array, number: str) -> Array:
    """In float64, what a GPU holds of it in this type."""
    host: Array = download(upload(array, number))
    return host.astype("float64")


# ---- Linear


EMBEDDING_IN_A_CAPTURE = """
import numpy as np, recurra
from cuda_arrays import LIBRARY, begin, download, end, new_stream, replay, synchronize, upload
stream = new_stream()
with LIBRARY.use(stream):
    embedding = recurra.Embedding(5, 3, seed=0, device="cuda", dtype="float64")
    memory = [upload(np.zeros((2, 3))), upload(np.zeros(16, "uint8"))]
    indices = upload(np.array([4, 1]))
    del memory  # the capture gets it
    synchronize(stream)
    begin(stream)
    y, tape = embedding.forward(indices)
    replay(end(stream), stream)
    assert (download(y) == embedding.state_dict()["weight"][[4, 1]]).all()
"""


def test_the_first_look_up_can_be_captured() -> None:
    """Its kernels are loaded when the table is."""
    run_python(EMBEDDING_IN_A_CAPTURE)


@given(
    leading=st.sampled_from(((), (1,), (5,), (70,), (3, 4), (2, 0, 3), (2, 3, 2))),
    inputs=st.sampled_from((1, 3, 4, 17, 70)),
    outputs=st.sampled_from((1, 3, 33, 66)),
    bias=st.booleans(),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_the_exact_engine_has_the_bits_of_the_cpu(
    leading: tuple[int, ...], inputs: int, outputs: int, bias: bool, dtype: str
) -> None:
    layer = recurra.Linear(inputs, outputs, bias, dtype=dtype, seed=1)
    twin = layer.to("cuda", engine="exact")
    x, dy = data(*leading, inputs, dtype=dtype), data(*leading, outputs, dtype=dtype, seed=2)
    y, tape = layer.forward(x)
    z, other = twin.forward(upload(x))
    assert_same_bits(download([z, twin(upload(x))]), [y, y])
    assert_same_bits(download(tuple(other.backward(upload(dy)))), tuple(tape.backward(dy)))
    without = other.backward(upload(dy), input_grad=False)
    assert without.x is None
    assert_same_bits(download(without.params), tape.backward(dy).params)


@MODES
@pytest.mark.parametrize("bias", (False, True))
def test_linear_is_a_matrix_product_and_so_are_its_gradients(number: str, engine: str, bias: bool) -> None:
    layer = recurra.Linear(20, 9, bias, dtype=number, device="cuda", engine=engine, seed=1)
    x, dy = (rounded(data(4, 10, size, seed=size), number) for size in (20, 9))
    parameters = layer.state_dict()
    weight = rounded(parameters["weight"], number)
    y, tape = layer.forward(upload(x, number))
    found: Any = tape.backward(upload(dy, number))
    want = (
        x @ weight.T + parameters.get("bias", 0),
        dy @ weight,
        np.einsum("tbo,tbi->oi", dy, x),
        *([dy.sum((0, 1))] if bias else []),
    )
    got = (y, found.x, *found.params.values())
    assert {array.dtype for array in got[:2]} == {number}
    assert {array.dtype for array in got[2:]} == {"float64" if number == "float64" else "float32"}
    for k, (array, expected) in enumerate(zip(got, want, strict=True)):
        # Gradients of parameters are sums in float32, over numbers that both sides hold exactly.
        tolerance = TOLERANCE[number] if k < 2 else TOLERANCE["float64" if number == "float64" else "float32"]
        assert_close(download(array).astype("float64"), expected, tolerance)


VIEWS: dict[str, Any] = {
    "transposed": lambda x: x.transpose(1, 0, 2),
    "every second": lambda x: x[::2, 1::2],
    "backwards": lambda x: x[::-1, :, ::-1],
    "one step": lambda x: x[-1],
    "one row": lambda x: x[:, 2],
    "one vector": lambda x: x[1, 2],
    "features first": lambda x: x.transpose(2, 1, 0),
    "nothing": lambda x: x[:, 2:2],
}


@pytest.mark.parametrize("number", ("float32", "float64", "float16", "bfloat16"))
@pytest.mark.parametrize("name", VIEWS)
def test_strided_arrays_are_read_as_their_copies_are(name: str, number: str) -> None:
    values = download(upload(data(6, 4, 6, dtype="float64" if number == "float64" else "float32"), number))
    view, host = VIEWS[name](upload(values, number)), VIEWS[name](values)
    layer = recurra.Linear(6, 6, device="cuda", dtype=number, seed=0)
    y, tape = layer.forward(upload(np.ascontiguousarray(host), number))
    want = download([y, *arrays_of(tape.backward(y))])
    z, tape = layer.forward(view)
    assert_same_bits(download([z, layer(view)]), [want[0], want[0]])
    dy = VIEWS[name](upload(values, number))  # a gradient of the same strides
    if host.size:
        dy.fill(want[0])
    assert_same_bits(download(arrays_of(tape.backward(dy))), want[1:])


def arrays_of(gradients: recurra.heads.HeadGradients) -> list[Any]:
    return [gradients.x, *gradients.params.values()]


def test_an_array_whose_elements_are_all_one_is_read_too_and_one_of_many_odd_axes_refused() -> None:
    layer = recurra.Linear(5, 3, device="cuda", seed=0)
    row = data(5)
    y = layer(upload(row).broadcast_to((4, 2, 5)))
    assert_same_bits(download(y), np.broadcast_to(download(layer(upload(row))), (4, 2, 3)))
    odd = upload(np.zeros((3,) * 10, "float32"))[(slice(None, None, 2),) * 10]
    with pytest.raises(ValueError, match=r"x: .*axes that cannot be merged"):
        recurra.Linear(2, 3, device="cuda")(odd)


def test_a_tape_keeps_its_input_and_the_parameters_of_its_call() -> None:
    layer = recurra.Linear(6, 4, device="cuda", seed=0)
    x, dy = upload(data(5, 6)), upload(data(5, 4, seed=1))
    _, tape = layer.forward(x)
    want = download(arrays_of(tape.backward(dy)))
    x.fill(np.full((5, 6), np.nan))
    layer.load_state_dict({name: array + 1 for name, array in layer.state_dict().items()})
    assert_same_bits(download(arrays_of(tape.backward(dy))), want)


# ---- Embedding


@pytest.mark.parametrize("number", ("float32", "float64", "float16", "bfloat16"))
@pytest.mark.parametrize("kind", ("int32", "int64"))
def test_embedding_picks_rows_and_sums_their_gradients(kind: str, number: str) -> None:
    table = recurra.Embedding(7, 3, dtype=number, device="cuda", seed=0)
    twin = recurra.Embedding(7, 3, dtype="float64" if number == "float64" else "float32", seed=0)
    assert_same_bits(table.state_dict(), twin.state_dict())
    indices = np.array([[1, 2, 1], [6, 1, 0]], kind)
    on_gpu = upload(np.array([[1, 9, 2, 9, 1], [6, 9, 1, 9, 0]], kind))[:, ::2]
    y, tape = table.forward(on_gpu)
    want = twin(indices)
    assert_same_bits(download([y, table(on_gpu)]), [rounded(want, number).astype(want.dtype)] * 2)
    dy = rounded(data(2, 3, 3), number).astype(want.dtype)
    on_gpu.fill(np.zeros((2, 3), kind))  # the tape has a copy
    gradients = tape.backward(upload(dy, number))
    assert gradients.x is None
    assert_same_bits(download(gradients.params), twin.forward(indices)[1].backward(dy).params)


def test_an_index_that_is_out_of_range_gives_nan_and_no_gradient() -> None:
    table = recurra.Embedding(3, 2, device="cuda", seed=0)
    weight = table.state_dict()["weight"]
    y, tape = table.forward(upload(np.array([0, -1, 3, 2**40, 1])))
    nan = np.full(2, np.nan, "float32")
    np.testing.assert_array_equal(download(y), np.stack([weight[0], nan, nan, nan, weight[1]]))
    dy = data(5, 2)
    assert_same_bits(download(tape.backward(upload(dy)).params["weight"]), np.stack([dy[0], dy[4], 0 * nan_free(dy)]))


def nan_free(dy: Array) -> Array:
    return np.zeros(dy.shape[1], dy.dtype)


@pytest.mark.parametrize("shape", ((), (0,), (2, 0, 3)))
def test_embedding_takes_one_index_and_none(shape: tuple[int, ...]) -> None:
    table = recurra.Embedding(3, 2, device="cuda", seed=0)
    indices = np.zeros(shape, "int64")
    y, tape = table.forward(upload(indices))
    assert y.shape == (*shape, 2)
    twin, reference = recurra.Embedding(3, 2, seed=0).forward(indices)
    assert_same_bits(download(y), twin)
    assert_same_bits(download(tape.backward(y).params), reference.backward(twin).params)


# ---- parameters and places


def heads(**options: Any) -> list[Any]:
    return [
        recurra.Linear(5, 3, seed=0, **options),
        recurra.Linear(5, 3, False, seed=0, **options),
        recurra.Embedding(5, 3, seed=0, **options),
    ]


def example(head: Any) -> Any:
    number = str(head.dtype)
    return upload(np.arange(5)) if isinstance(head, recurra.Embedding) else upload(data(4, 5), number)


@pytest.mark.parametrize("number", ("float32", "float64", "float16", "bfloat16"))
@pytest.mark.parametrize("kind", range(3))
def test_they_pickle_copy_and_load(kind: int, number: str) -> None:
    head = heads(device="cuda", dtype=number)[kind]
    before, x = head.state_dict(), example(head)
    y = download(head(x))
    for other in (pickle.loads(pickle.dumps(head)), copy.deepcopy(head), copy.copy(head)):
        assert (other.device, other.dtype, repr(other)) == (head.device, head.dtype, repr(head))
        assert_same_bits(other.state_dict(), before)
        assert_same_bits(download(other(x)), y)
        changed = {name: array + 1 for name, array in before.items()}
        other.load_state_dict(upload(changed) if kind else changed)
        assert_same_bits(other.state_dict(), changed)
        assert not np.array_equal(download(other(x)), y)
        with pytest.raises(AttributeError, match="fixed"):
            other.device = "cpu"
    assert_same_bits(head.state_dict(), before)


@pytest.mark.parametrize("kind", range(3))
def test_to_moves_rounds_and_comes_back(kind: int) -> None:
    head = heads()[kind]
    there = head.to("cuda")
    assert (head.device, there.device, there.to("cuda:0") is there) == ("cpu", "cuda:0", True)
    assert_same_bits(there.state_dict(), head.state_dict())
    assert_same_bits(there.to("cpu").state_dict(), head.state_dict())
    half = there.to("cuda", dtype="bfloat16")
    assert half.dtype == "bfloat16"
    assert half(example(half)).dtype == "bfloat16"
    with pytest.raises(TypeError, match="dtype: expected float32 or float64 on the CPU, got bfloat16"):
        half.to("cpu")
    back = half.to("cpu", dtype="float64")
    assert_same_bits(back.state_dict(), {name: array.astype("float64") for name, array in head.state_dict().items()})
    assert back.to("cpu") is back


def test_engine_and_tf32_go_with_a_linear_from_gpu_to_gpu() -> None:
    layer = recurra.Linear(5, 3, device="cuda", engine="cublas", allow_tf32=True)
    second = layer.to("cuda:1")
    assert (second.device, second.engine, second.allow_tf32) == ("cuda:1", "cublas", True)
    home = second.to("cpu")
    assert (home.engine, home.allow_tf32) == ("auto", False)
    x = data(4, 5)
    assert_close(download(second(DeviceArray.of(x, device=1))), home(x), 1e-2)


# ---- refusals


LINEAR, TABLE = recurra.Linear(5, 3, device="cuda", seed=0), recurra.Embedding(5, 3, device="cuda", seed=0)
HOST = recurra.Linear(5, 3, seed=0)
X = upload(data(4, 5))
SOURCE = recurra.Linear(5, 5, device="cuda", seed=1)
BAD: tuple[tuple[Any, Any, str], ...] = (
    (lambda: LINEAR(data(4, 5)), ValueError, "x: expected a CUDA array on cuda:0, got a NumPy array on the CPU"),
    (lambda: HOST(X), ValueError, "x: expected CPU memory, got cuda:0"),
    (lambda: LINEAR(DeviceArray.of(data(4, 5), device=1)), ValueError, "x: expected .*cuda:0, got .*cuda:1"),
    (lambda: LINEAR(upload(data(4, 5), "float16")), TypeError, "x: expected float32, got float16"),
    (lambda: LINEAR(upload(data(4, 6))), ValueError, r"x: expected shape \[\.\.\., 5\], got \[4, 6\]"),
    (lambda: LINEAR(upload(np.float32(1))), ValueError, r"x: expected shape \[\.\.\., 5\], got \[\]"),
    (lambda: LINEAR([1.0] * 5), TypeError, "x: expected a CUDA array on cuda:0, got list"),  # type: ignore[arg-type]
    (lambda: LINEAR.forward(X)[1].backward(upload(data(4, 4))), ValueError, r"dy: expected shape \[4, 3\]"),
    (lambda: LINEAR.forward(X)[1].backward(data(4, 3)), ValueError, "dy: .*NumPy array on the CPU"),
    (lambda: LINEAR.forward(X)[1].backward(upload(data(4, 3)), input_grad=1), TypeError, "input_grad"),  # type: ignore[arg-type]
    (lambda: LINEAR.load_state_dict({"weight": upload(data(3, 5))}), ValueError, "bias"),
    (
        lambda: LINEAR.load_state_dict({"weight": upload(data(5, 3)).transpose(1, 0), "bias": upload(data(3))}),
        ValueError,
        "weight: expected a C-contiguous array on the GPU",
    ),
    (
        lambda: LINEAR.load_state_dict({"weight": upload(data(3, 5)), "bias": upload(data(3), "float64")}),
        TypeError,
        "bias: expected float32, got float64",
    ),
    (
        lambda: LINEAR.load_state_dict({"weight": DeviceArray.of(data(3, 5), device=1), "bias": data(3)}),
        ValueError,
        "weight: expected .*cuda:0, got .*cuda:1",
    ),
    (lambda: TABLE(np.array([1])), ValueError, "indices: .*NumPy array on the CPU"),
    (lambda: TABLE(upload(np.array([1], "int16"))), TypeError, "indices: expected int32 or int64, got int16"),
    (lambda: TABLE(upload(np.array([1.0]))), TypeError, "indices: expected int32 or int64, got float64"),
    (lambda: recurra.Linear(3, 3, device="cuda:9"), ValueError, "device: .*cuda:9"),
    (lambda: recurra.Embedding(3, 3, device="cuda:9"), ValueError, "device: .*cuda:9"),
    (lambda: recurra.Linear(3, 3, device="gpu"), ValueError, "device: .*'gpu'"),
    (lambda: recurra.Linear(3, 3, engine="exact"), ValueError, "engine: .*'exact'"),
    (lambda: recurra.Linear(3, 3, dtype="float16"), TypeError, "dtype: .*float16"),
    (lambda: recurra.Embedding(3, 3, dtype="float16"), TypeError, "dtype: .*float16"),
    (lambda: recurra.Linear(3, 3, dtype="float16", device="cuda", engine="exact"), ValueError, "engine: .*float16"),
    (lambda: recurra.Linear(3, 3, allow_tf32=True), ValueError, "allow_tf32"),
)


@pytest.mark.parametrize(("call", "error", "match"), BAD, ids=(f"{k}" for k in range(len(BAD))))
def test_wrong_input_is_refused_by_name(call: Any, error: Any, match: str) -> None:
    before = arrays([LINEAR.state_dict(), TABLE.state_dict()])
    with pytest.raises(error, match=match):
        call()
    assert_same_bits(arrays([LINEAR.state_dict(), TABLE.state_dict()]), before)


# ---- what a call promises besides


def trained(head: Any, x: Any) -> Any:
    y, tape = head.forward(x)
    return [head(x), y, *arrays_of(tape.backward(y))]


@pytest.mark.parametrize("engine", ("exact", "cublas"))
def test_in_a_steady_state_nothing_is_allocated_or_waited_for(engine: str) -> None:
    x, table = upload(data(2, 4, 5)), recurra.Embedding(5, 3, device="cuda")
    layer = recurra.Linear(5, 3, device="cuda", engine=engine)

    def step() -> None:
        trained(layer, x.transpose(1, 0, 2))
        trained(table, indices)

    with LIBRARY.use(new_stream()):
        indices = upload(np.arange(5))
        for _ in range(3):
            step()
        gc.collect()
        kinds = ("allocations", "synchronisations", "compilations", "live_events", "live_bytes")
        before = [counted(kind) for kind in kinds]
        for _ in range(3):
            step()
        assert [counted(kind) for kind in kinds] == before
        synchronize(LIBRARY.current_stream(0))
    assert counted("errors") == 0


def test_a_tape_does_not_keep_the_output_alive() -> None:
    for head in heads(device="cuda"):
        y, tape = head.forward(example(head))
        pointer = y.memory.pointer
        del y
        assert any(pointer in free for free in Memory._pool.values())
        del tape


def test_new_parameters_free_the_old_ones() -> None:
    for head in heads(device="cuda"):
        parameters = head.state_dict()
        head.load_state_dict(parameters)
        gc.collect()
        before = counted("live_allocations"), counted("live_bytes")
        for _ in range(3):
            head.load_state_dict(parameters)
        assert (counted("live_allocations"), counted("live_bytes")) == before


def test_forward_and_backward_may_be_on_different_streams() -> None:
    first, second = new_stream(), new_stream()
    for head in heads(device="cuda"):
        x = example(head)
        want = download(trained(head, x))
        with LIBRARY.use(first):
            y, tape = head.forward(x)
        with LIBRARY.use(second):
            got = [y, y, *arrays_of(tape.backward(y))]
        synchronize(first)
        synchronize(second)
        assert_same_bits(download(got), want)
    assert counted("errors") == 0


@pytest.mark.parametrize("turned", (False, True))
def test_an_array_from_another_stream_is_waited_for(turned: bool) -> None:
    layer, x = recurra.Linear(5, 5, device="cuda", seed=0), upload(data(2, 5, 5))
    with LIBRARY.use(new_stream()):
        made = SOURCE(x)
    with LIBRARY.use(new_stream()):
        got = layer(made.transpose(1, 0, 2) if turned else made)
        values = download(got)
    want = download(SOURCE(x))
    assert_same_bits(values, download(layer(upload(want.swapaxes(0, 1) if turned else want))))
    assert counted("errors") == 0


def test_parameters_from_another_stream_are_waited_for_and_all_streams_may_read_them() -> None:
    layer, x = recurra.Linear(5, 5, device="cuda", seed=0), upload(data(4, 5))
    with LIBRARY.use(new_stream()):
        parameters = SOURCE.forward(x)[1].backward(x).params
    with LIBRARY.use(new_stream()):
        layer.load_state_dict(parameters)
    with LIBRARY.use(new_stream()):
        layer(x)
    assert_same_bits(layer.state_dict(), download(parameters))
    assert counted("errors") == 0


@pytest.mark.parametrize("kind", range(3))
@pytest.mark.parametrize("engine", ("exact", "cublas"))
def test_training_can_be_captured_and_replayed_on_other_numbers(engine: str, kind: int) -> None:
    stream = new_stream()
    head = heads(device="cuda")[kind]
    if kind < 2:
        head = head.to("cuda", engine=engine)
    with LIBRARY.use(stream):
        x = example(head)
        other = (download(x)[::-1] + (kind < 2)).astype(x.dtype)
        want = download(trained(head, upload(other)))
        trained(head, x)
        synchronize(stream)
        gc.collect()
        before = counted("allocations"), counted("synchronisations")
        begin(stream)
        results = trained(head, x)
        graph = end(stream)
        assert (counted("allocations"), counted("synchronisations")) == before
        x.fill(other)
        replay(graph, stream)
        assert_same_bits(download(results), want)
    assert counted("errors") == 0


# ---- streams


@MODES
@pytest.mark.parametrize("batch", (None, 3))
@pytest.mark.parametrize("batch_first", (False, True))
def test_a_stream_with_a_head_is_the_head_after_a_stream(
    number: str, engine: str, batch: int | None, batch_first: bool
) -> None:
    options: dict[str, Any] = {"dtype": number, "device": "cuda", "engine": engine, "seed": 0}
    layer, head = recurra.LSTM(4, 6, 2, batch_first=batch_first, **options), recurra.Linear(6, 5, **options)
    axes = () if batch is None else (batch,)
    plain, stream = layer.stream(batch), layer.stream(batch, head=head)
    for k in range(3):
        x = upload(data(*axes, 4, seed=k), number)
        assert_same_bits(download(stream.step(x)), download(head(plain.step(x))))
    for steps in (5, 0):
        chunk = upload(data(*((*axes, steps, 4) if batch_first else (steps, *axes, 4))), number)
        assert_same_bits(download(stream.run(chunk)), download(head(plain.run(chunk))))
    assert_same_bits(download(stream.state), download(plain.state))
    stream.reset()
    plain.reset()
    out = upload(np.zeros((*axes, 5), "float32"), number)
    assert stream.step(x, out) is out
    assert_same_bits(download(out), download(head(plain.step(x))))


def test_exact_streams_with_a_head_have_the_bits_of_the_cpu() -> None:
    layer, head, frames = recurra.GRU(4, 6, seed=0), recurra.Linear(6, 5, seed=0), data(6, 3, 4)
    there, its_head = layer.to("cuda", engine="exact"), head.to("cuda", engine="exact")
    stream = there.stream(3, head=its_head)
    want = head(layer(frames)[0])
    its_head.load_state_dict({name: array * 0 for name, array in head.state_dict().items()})  # changes no stream
    got = [download(stream.step(upload(frame))) for frame in frames[:3]]
    assert_same_bits(np.concatenate([np.stack(got), download(stream.run(upload(frames[3:])))]), want)


@pytest.mark.parametrize("engine", ("exact", "cublas"))
def test_a_step_with_a_head_allocates_nothing(engine: str) -> None:
    layer = recurra.RNN(3, 3, device="cuda", engine=engine)
    stream = layer.stream(2, head=recurra.Linear(3, 3, device="cuda", engine=engine))
    x, out = upload(data(2, 3)), upload(data(2, 3))
    stream.step(x, out)
    launches = counted("launches") + counted("graph_launches")
    before = Memory.allocations, sum(map(len, Memory._pool.values())), counted("synchronisations")
    stream.step(x, out)
    assert (Memory.allocations, sum(map(len, Memory._pool.values())), counted("synchronisations")) == before
    # The exact map is one launch; cuBLAS's product, which is counted elsewhere, needs one to add the bias.
    assert counted("launches") + counted("graph_launches") == launches + 2


def test_heads_that_do_not_go_with_the_network_are_refused() -> None:
    layer = recurra.RNN(3, 4, device="cuda")
    host = recurra.RNN(3, 4)
    for net, options, match in (
        (layer, {}, "head: expected one on cuda:0, got one on cpu"),
        (layer, {"device": "cuda:1"}, "head: expected one on cuda:0, got one on cuda:1"),
        (layer, {"device": "cuda", "dtype": "float64"}, "head: expected float32, got float64"),
        (layer, {"device": "cuda", "dtype": "bfloat16"}, "head: expected float32, got bfloat16"),
        (host, {"device": "cuda"}, "head: expected one on cpu, got one on cuda:0"),
    ):
        head: Any = recurra.Linear(4, 2, **options)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=match):
            net.stream(head=head)
    with pytest.raises(ValueError, match="head: expected in_features=4, got 5"):
        layer.stream(head=recurra.Linear(5, 2, device="cuda"))
    stream: Any = layer.stream(2, head=recurra.Linear(4, 2, device="cuda", seed=0))
    x, wide = upload(data(2, 3)), upload(data(2, 4))
    stream.step(x)
    before = download(stream.state)
    with pytest.raises(ValueError, match="out: expected a C-contiguous array with a head"):
        stream.step(x, wide[:, ::2])
    assert_same_bits(download(stream.state), before)


def test_more_columns_than_a_grid_has_tiles_are_refused_by_name() -> None:
    layer = recurra.Linear(1, 64 * 65535 + 1, bias=False, seed=0).to("cuda", engine="exact")
    with pytest.raises(ValueError, match=r'engine: expected "cublas" for .* more than 4194240 columns, got 4194241'):
        layer(upload(np.zeros((1, 1), "float32")))
