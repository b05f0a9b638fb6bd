"""Layers as objects: construction, parameters, state_dict, pickling, seeds, kinds of input, shapes of results."""

from __future__ import annotations

import copy
import math
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_same_bits, copies, run_python, states
from reference import CELLS, shapes
from strategies import Problem

import recurra
from recurra import functional
from recurra.packed import CpuPacked

ALL_CELLS = pytest.mark.parametrize("cell", sorted(CELLS))


def data(steps: int = 4, batch: int = 2, size: int = 3, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).normal(0, 1, (steps, batch, size)).astype(dtype)


def same_parameters(one: recurra.Recurrent, other: recurra.Recurrent) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and x.dtype == y.dtype and x.tobytes() == y.tobytes() for (a, x), (b, y) in pairs)


# Worked out by hand from the parameters' shapes for I = 30 and H = 16, and the sums for bidirectional and stacked ones.
@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (recurra.RNN(30, 16, bias=False), 736),
        (recurra.RNN(30, 16), 768),
        (recurra.LSTM(30, 16, bias=False), 2944),
        (recurra.LSTM(30, 16), 3072),
        (recurra.LSTM(30, 16, peephole=True), 3072 + 48),
        (recurra.LSTM(30, 16, peephole=True, coupled=True), 2304 + 32),
        (recurra.LSTM(30, 16, proj_size=8), 2688),
        (recurra.LSTM(30, 16, coupled=True, bias=False), 2208),
        (recurra.LSTM(30, 16, coupled="f_from_i"), 2304),
        (recurra.GRU(30, 16, bias=False), 2208),
        (recurra.GRU(30, 16, reset="before"), 2304),
        (recurra.GRU(30, 16, bidirectional=True), 2 * 2304),
        (recurra.GRU(30, 16, 2, bidirectional=True), 2 * 2304 + 2 * (3 * 16 * (32 + 16) + 6 * 16)),
    ],
)
def test_parameter_count_is_that_of_cells_md(layer: recurra.Recurrent, count: int) -> None:
    assert layer.parameter_count == count
    assert sum(array.size for array in layer.state_dict().values()) == count


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (recurra.RNN(3, 5), "RNN(3, 5)"),
        (recurra.LSTM(3, 5, 2, bidirectional=True), "LSTM(3, 5, num_layers=2, bidirectional=True)"),
        (recurra.GRU(3, 5, reset="before", dtype="float64"), "GRU(3, 5, reset='before', dtype='float64')"),
        (recurra.LSTM(3, 5, coupled=True, cell_clip=1.5), "LSTM(3, 5, coupled=True, cell_clip=1.5)"),
        (recurra.RNN(3, 5, nonlinearity="relu", bias=False), "RNN(3, 5, nonlinearity='relu', bias=False)"),
        (recurra.Recurrent("gru_write", 3, 5, dropout=0.5), "Recurrent('gru_write', 3, 5, dropout=0.5)"),
    ],
)
def test_repr_is_the_call_that_makes_the_layer(layer: recurra.Recurrent, text: str) -> None:
    assert repr(layer) == text
    again = eval(text, vars(recurra))
    assert (type(again), repr(again)) == (type(layer), text)


@ALL_CELLS
@pytest.mark.parametrize("clone", (copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))))
def test_clones_are_equal_and_independent(cell: str, clone: Any) -> None:
    proj = 2 if CELLS[cell].projected else 0
    problem = Problem(cell, 3, 5, 4, 2, proj, 2, 2, cell_clip=0.3 if cell.startswith("lstm") else None, dtype="float64")
    layer = problem.layer(batch_first=True, dropout=0.25)
    before = copies(layer(problem.x()))
    other = clone(layer)
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert (other.dropout, other.batch_first, other.dtype) == (0.25, True, np.dtype("float64"))
    assert same_parameters(other, layer)
    assert_same_bits(copies(other(problem.x())), before)

    other.load_state_dict({name: 0 * array for name, array in layer.state_dict().items()})
    assert not same_parameters(other, layer)
    assert_same_bits(copies(layer(problem.x())), before)


@pytest.mark.parametrize(
    "layer",
    [
        recurra.LSTM(3, 5, peephole=True, coupled="f_from_i", cell_clip=0.2, forget_bias=1.0, seed=1),
        recurra.GRU(3, 5, reset="before", update="write", seed=1),
        recurra.RNN(3, 5, nonlinearity="sigmoid", seed=1),
    ],
)
def test_subclasses_pickle_with_their_options(layer: recurra.Recurrent) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        other = pickle.loads(pickle.dumps(layer, protocol))
        assert (type(other), repr(other), other.cell) == (type(layer), repr(layer), layer.cell)
        assert_same_bits(other(data()), layer(data()))


def test_a_pickle_holds_the_weights_once_and_nothing_packed() -> None:
    layer = recurra.LSTM(100, 100, seed=0)
    assert len(pickle.dumps(layer)) < 4 * layer.parameter_count + 4000


def test_packed_parameters_pickle_and_are_immutable() -> None:
    packed = functional.pack("lstm", recurra.LSTM(3, 5, seed=0).state_dict(), {"cell_clip": 0.1})
    with pytest.raises(AttributeError, match="sizes"):
        packed.sizes = packed.sizes
    again = pickle.loads(pickle.dumps(packed))
    assert_same_bits(functional.run(again, data()), functional.run(packed, data()))
    assert_same_bits(functional.lstm(data(), again, cell_clip=0.1), functional.run(packed, data()))


def test_state_dict_is_a_copy_and_loading_copies() -> None:
    layer = recurra.GRU(3, 5, seed=0)
    before = copies(layer(data()))
    for array in layer.state_dict().values():
        array[...] = 9
    params = layer.state_dict()
    layer.load_state_dict(params)
    for array in params.values():
        array[...] = 9
    assert_same_bits(copies(layer(data())), before)


def any_bits(cell: str, dtype: str, inputs: int, hidden: int, proj: int, bias: bool = True) -> dict[str, Array]:
    """Parameters of two layers and directions: numbers large, subnormal and infinite, NaN with this and that in it."""
    integers = np.dtype(dtype).str.replace("f", "u")
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, np.iinfo(integers).max, shape, integers, endpoint=True).view(dtype)
        for name, shape in shapes(cell, inputs, hidden, proj * CELLS[cell].projected, 2, 2, bias).items()
    }


@ALL_CELLS
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize(
    ("inputs", "hidden", "proj", "bias"), [(1, 2, 1, True), (7, 17, 3, False), (1201, 203, 16, True)]
)
def test_parameters_come_back_from_the_packed_weights(
    cell: str, dtype: str, inputs: int, hidden: int, proj: int, bias: bool
) -> None:
    params = any_bits(cell, dtype, inputs, hidden, proj, bias)
    packed = functional.pack(cell, params)
    assert list(packed.parameters) == list(params)
    assert_same_bits(packed.parameters, params)
    if dtype == "float32":
        assert_same_bits(functional.pack(cell, params, precision="bfloat16").parameters, params)


MEMORY = """
import resource
import numpy as np
from recurra import functional
from reference import shapes

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

def taken(inputs, hidden):
    params = {name: np.ones(shape, "float32") for name, shape in shapes("lstm", inputs, hidden).items()}
    before = resident()
    packed = functional.pack("lstm", params)
    functional.run(packed, np.ones((2, 1, inputs), "float32"))
    return (resident() - before) / sum(array.nbytes for array in params.values())

taken(15, 10)  # code becomes resident too, by megabytes at a time
print(taken(1500, 1000))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the memory of a process so")
def test_packed_parameters_take_the_memory_of_the_weights_once() -> None:
    assert 0.9 < float(run_python(MEMORY)) < 1.1


def test_loaded_parameters_may_be_strided_and_read_only() -> None:
    layer, other = recurra.GRU(3, 5, seed=0), recurra.GRU(3, 5, seed=1)
    strided = {}
    for name, array in layer.state_dict().items():
        wide = np.zeros([2 * size for size in array.shape], "float32")[tuple(slice(None, None, 2) for _ in array.shape)]
        wide[...] = array
        wide.flags.writeable = False
        strided[name] = wide
    other.load_state_dict(strided)
    assert same_parameters(layer, other)
    assert_same_bits(functional.gru(data(), strided), layer(data()))


@ALL_CELLS
def test_parameters_are_read_only_attributes(cell: str) -> None:
    proj = 2 if CELLS[cell].projected else 0
    layer = Problem(cell, 3, 5, 1, 1, proj, 2, 2).layer()
    before = layer.state_dict()
    for name, shape in shapes(cell, 3, 5, proj, 2, 2).items():
        array = getattr(layer, name)
        assert array.shape == shape
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match=r"WRITEABLE|writeable"):
            array.flags.writeable = True
        with pytest.raises(AttributeError):
            setattr(layer, name, array)
        assert_same_bits(array, before[name])
    with pytest.raises(AttributeError, match="weight_ih_l2"):
        layer.weight_ih_l2  # noqa: B018


@ALL_CELLS
@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("directions", (1, 2))
def test_plain_arrays_take_a_shortcut_to_the_same_result(cell: str, batch_first: bool, directions: int) -> None:
    proj = 2 if CELLS[cell].projected else 0
    problem = Problem(cell, 3, 5, 4, 2, proj, 2, directions, dtype="float64")
    layer, x = problem.layer(batch_first=batch_first), problem.x()
    x = np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x
    for given in (x, x[0]):
        strided = np.repeat(given, 2, axis=-1)[..., ::2]
        wanted = copies(layer(strided))  # which goes the long way
        outs = (None, np.full_like(wanted[0], np.nan))
        for out in outs:
            y, final = layer._packed.network.call(given, out, batch_first)
            assert out is None or y is out
            assert isinstance(final, tuple) == isinstance(layer(strided)[1], tuple)
            assert_same_bits((y, final), wanted)
            assert all(array.flags.owndata and array.flags.c_contiguous for array in (y, *states(final)))
        read_only = np.zeros_like(wanted[0])
        read_only.flags.writeable = False
        for bad_x, bad_out in (
            (strided, None),
            (given.astype("float32"), None),
            (given[None, None], None),
            (given[..., :2], None),
            (given[:0], None),
            (given, read_only),
            (given, wanted[0][..., :1]),
            (given, wanted[0].astype("float32")),
            (given, [1.0]),
        ):
            assert layer._packed.network.call(bad_x, bad_out, batch_first) is None
    square = recurra.GRU(3, 3, seed=0)
    memory = np.ones((5, 2, 3), "float32")
    assert square._packed.network.call(memory[:4], memory[1:], False) is None
    assert square._packed.network.call(memory[1:], memory[:4], False) is None
    assert (memory == 1).all()


def test_plain_calls_take_the_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = recurra.LSTM(3, 5, 2, seed=0), data()
    wanted = copies(layer(x, (np.zeros((2, 2, 5), "float32"),) * 2))
    monkeypatch.setattr(CpuPacked, "checked_call", None)
    assert_same_bits(layer(x), wanted)
    with pytest.raises(TypeError, match="not callable"):
        layer(x[::-1])


def test_a_seed_decides_the_parameters_and_rng_is_drawn_from() -> None:
    assert same_parameters(recurra.LSTM(3, 5, seed=1), recurra.LSTM(3, 5, seed=1))
    assert not same_parameters(recurra.LSTM(3, 5, seed=1), recurra.LSTM(3, 5, seed=2))
    assert not same_parameters(recurra.LSTM(3, 5), recurra.LSTM(3, 5))
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    assert same_parameters(recurra.LSTM(3, 5, rng=one), recurra.LSTM(3, 5, rng=other))
    assert not same_parameters(recurra.LSTM(3, 5, rng=one), recurra.LSTM(3, 5, seed=1))
    np.random.seed(0)
    before = str(np.random.get_state())
    recurra.LSTM(3, 5)
    assert str(np.random.get_state()) == before


def test_initial_parameters_are_uniform_within_one_over_root_hidden() -> None:
    layer = recurra.LSTM(30, 100, 2, proj_size=50, peephole=True, seed=0, dtype="float64")
    for array in layer.state_dict().values():
        assert 0.095 < np.abs(array).max() <= 0.1
        assert array.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)
        assert abs(array.mean()) < 0.02


@pytest.mark.parametrize(("coupled", "block", "value"), [(False, 1, 1.0), (True, 0, 1.0), ("f_from_i", 0, -1.0)])
def test_forget_bias_sets_the_sum_of_that_block_and_nothing_else(coupled: Any, block: int, value: float) -> None:
    plain = recurra.LSTM(3, 5, 2, bidirectional=True, coupled=coupled, seed=0).state_dict()
    shifted = recurra.LSTM(3, 5, 2, bidirectional=True, coupled=coupled, seed=0, forget_bias=1.0).state_dict()
    rows = slice(5 * block, 5 * block + 5)
    for name, array in plain.items():
        changed = shifted[name].copy()
        if name.startswith("bias"):
            assert (changed[rows] == (value if "bias_ih" in name else 0)).all()
            changed[rows] = array[rows]
        assert_same_bits(changed, array)


@ALL_CELLS
def test_results_have_the_documented_shapes_and_dtypes(cell: str) -> None:
    proj = 2 if CELLS[cell].projected else 0
    for directions in (1, 2):
        layer = Problem(cell, 3, 5, 1, 1, proj, 2, directions, dtype="float64").layer()
        first = Problem(cell, 3, 5, 1, 1, proj, 2, directions, dtype="float64").layer(batch_first=True)
        sizes = [proj or 5] + [5] * (CELLS[cell].states - 1)
        for steps, batch in ((4, 2), (1, 1), (4, 0), (0, 2), (0, 0)):
            output, state = layer(data(steps, batch, dtype="float64"))
            assert output.shape == (steps, batch, directions * sizes[0])
            assert [part.shape for part in states(state)] == [(2 * directions, batch, size) for size in sizes]
            assert {output.dtype, *(part.dtype for part in states(state))} == {np.dtype("float64")}
            output, state = first(data(batch, steps, dtype="float64"))
            assert output.shape == (batch, steps, directions * sizes[0])
            assert [part.shape for part in states(state)] == [(2 * directions, batch, size) for size in sizes]
        output, state = layer(data(4, 2, dtype="float64")[:, 0])
        assert output.shape == (4, directions * sizes[0])
        assert [part.shape for part in states(state)] == [(2 * directions, size) for size in sizes]


@ALL_CELLS
def test_an_empty_sequence_returns_a_copy_of_the_initial_state(cell: str) -> None:
    problem = Problem(cell, 3, 5, 0, 2, 2 if CELLS[cell].projected else 0, with_state=True)
    state = problem.state()
    _, final = problem.layer()(problem.x(), state)
    assert_same_bits(list(states(final)), list(states(state)))
    assert not any(np.shares_memory(a, b) for a, b in zip(states(final), states(state), strict=True))


def test_a_call_changes_none_of_its_inputs_and_returns_new_arrays() -> None:
    layer = recurra.LSTM(3, 5, seed=0)
    x, state = data(), (data(1, 2, 5), data(1, 2, 5))
    lengths = np.array([3, 4])
    before = copies((x, state, lengths))
    first = layer(x, state, lengths=lengths)
    kept = copies(first)
    second = layer(x, state, lengths=lengths)
    assert_same_bits(copies((x, state, lengths)), before)
    for array in (first[0], *first[1]):
        array[...] = 0
    assert_same_bits(copies(second), kept)


@pytest.mark.parametrize("lengths", ([3, 0], (3, 0), np.array([3, 0], "uint8"), np.array([3, 9, 0, 9])[::2]))
def test_lengths_may_be_any_flat_integers(lengths: Any) -> None:
    layer = recurra.GRU(3, 5, seed=0)
    output, h = layer(data(), lengths=lengths)
    assert_same_bits(output[:3, :1], layer(data()[:3, :1])[0])
    assert not output[3:, 0].any()
    assert not output[:, 1].any()
    assert not h[0, 1].any()


def test_dropout_drops_nothing_in_inference() -> None:
    plain, dropping = recurra.LSTM(3, 5, 2, seed=0), recurra.LSTM(3, 5, 2, dropout=0.9, seed=0)
    assert_same_bits(plain(data()), dropping(data()))


def test_dtype_may_be_given_in_any_of_numpys_ways() -> None:
    for dtype in ("float64", np.float64, np.dtype("float64"), float):
        assert recurra.RNN(3, 5, dtype=dtype).dtype == np.float64
    assert recurra.RNN(3, 5).dtype == np.float32


class Exported:
    """A CPU array of another library: nothing but DLPack."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.exports = 0

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        self.exports += 1
        return self.array.__dlpack__(**options)


def test_any_dlpack_array_is_taken_as_input_state_lengths_and_parameter() -> None:
    layer = recurra.LSTM(3, 5, seed=0)
    x, state = data(), (data(1, 2, 5), data(1, 2, 5))
    exported = Exported(x)
    result = layer(exported, tuple(map(Exported, state)), lengths=Exported(np.array([2, 4])))
    assert exported.exports == 1
    assert_same_bits(result, layer(x, state, lengths=[2, 4]))
    other = recurra.LSTM(3, 5, seed=1)
    other.load_state_dict({name: Exported(array) for name, array in layer.state_dict().items()})
    assert same_parameters(other, layer)


def test_input_of_plain_rows_is_read_in_place() -> None:
    """NumPy reports its allocations to tracemalloc: none of the size of x, here 8 MB, may appear."""
    layer = recurra.RNN(1000, 1)
    x = np.zeros((500, 4, 1000), "float32")
    for given in (x, Exported(x), x[::-1], x.swapaxes(0, 1)):
        tracemalloc.start()
        output, _ = layer(given)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert output.shape[-1] == 1
        assert peak < 1_000_000


def test_functional_calls_with_params_and_packed_equal_the_layer() -> None:
    layer = recurra.LSTM(3, 5, 2, bidirectional=True, peephole=True, cell_clip=0.2, seed=0)
    params = layer.state_dict()
    packed = functional.pack("lstm_peephole", params, constants={"cell_clip": 0.2})
    want = layer(data(), lengths=[4, 1])
    assert_same_bits(functional.lstm(data(), params, lengths=[4, 1], cell_clip=0.2), want)
    assert_same_bits(functional.lstm(data(), packed, lengths=[4, 1], cell_clip=0.2), want)
    assert_same_bits(functional.run(packed, data(), lengths=[4, 1]), want)
    turned, state = functional.lstm(data().swapaxes(0, 1), packed, lengths=[4, 1], cell_clip=0.2, batch_first=True)
    assert_same_bits((turned.swapaxes(0, 1), state), want)


def test_config_names_the_instruction_set_and_the_threads() -> None:
    info: Any = recurra.config()
    assert info["isa"] in info["isa_available"]
    assert recurra.get_num_threads() >= 1


def test_show_config_prints_the_instruction_set(capsys: pytest.CaptureFixture[str]) -> None:
    recurra.show_config()
    assert str(recurra.config()["isa"]) in capsys.readouterr().out
