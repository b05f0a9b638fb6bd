"""Linear and Embedding: values, gradients, bits, refusals."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from checks import CPUS, Array, arrays, assert_close, assert_same_bits, isa_available, run_python
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import _core


def random(*shape: int, dtype: str = "float64", seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def test_a_linear_that_gets_no_memory_for_its_new_parameters_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = recurra.Linear(3, 5, seed=0)
    old, x = layer.state_dict(), np.ones((2, 3), "float32")
    y = layer(x)

    def no_memory(*_: object) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(_core, "Linear", no_memory)
        with pytest.raises(MemoryError, match="out_features=5: no memory"):
            layer.load_state_dict({name: array + 1 for name, array in old.items()})
    assert_same_bits(layer(x), y)
    assert all(np.array_equal(array, old[name]) for name, array in layer.state_dict().items())


@given(
    rows=st.integers(0, 600),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    bias=st.booleans(),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_linear_is_a_matrix_product_and_so_are_its_gradients(
    rows: int, inputs: int, outputs: int, bias: bool, dtype: str
) -> None:
    layer = recurra.Linear(inputs, outputs, bias, dtype=dtype, seed=1)
    x, dy = random(rows, inputs, dtype=dtype), random(rows, outputs, dtype=dtype, seed=2)
    parameters = {name: array.astype(np.float64) for name, array in layer.state_dict().items()}
    weight, wide, gradient = parameters["weight"], x.astype(np.float64), dy.astype(np.float64)
    y, tape = layer.forward(x)
    assert_same_bits(layer(x), y)
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    assert_close(y, (wide @ weight.T + parameters.get("bias", 0)).astype(dtype), tolerance)
    found = tape.backward(dy)
    assert found.x is not None
    assert_close(found.x, (gradient @ weight).astype(dtype), tolerance)
    assert_close(found.params["weight"], (gradient.T @ wide).astype(dtype), tolerance * max(1, rows) ** 0.5)
    assert set(found.params) == set(parameters)
    if bias:
        assert_close(found.params["bias"], gradient.sum(0).astype(dtype), tolerance * max(1, rows) ** 0.5)
    assert tape.backward(dy, input_grad=False).x is None


def test_linear_takes_any_leading_axes_and_strides_and_copies_what_it_keeps() -> None:
    layer, x = recurra.Linear(6, 4, seed=0), random(3, 5, 12, dtype="float32")[:, :, ::2]
    y, tape = layer.forward(x)
    assert_same_bits(y, layer(np.ascontiguousarray(x).reshape(15, 6)).reshape(3, 5, 4))
    want = tape.backward(y)
    x[:] = np.nan
    layer.load_state_dict({name: array + 1 for name, array in layer.state_dict().items()})
    assert_same_bits(arrays(tape.backward(y)), arrays(want))


@pytest.mark.skipif(CPUS < 2, reason="this process may use only one CPU")
def test_linear_has_the_same_bits_in_any_batch_and_on_any_threads(restore_threads: None) -> None:
    layer, x = recurra.Linear(100, 130, seed=0), random(700, 100, dtype="float32")
    found = []
    for threads in (1, CPUS):
        recurra.set_num_threads(threads)
        y, tape = layer.forward(x)
        found.append((y, tape.backward(y)))
    assert_same_bits(arrays(found[1]), arrays(found[0]))
    assert_same_bits(np.stack([layer(row) for row in x[:20]]), found[0][0][:20])


@pytest.mark.skipif(not {"avx2", "avx512"} <= set(isa_available()), reason="needs avx2 and avx512")
def test_linear_has_the_same_bits_on_avx2_and_avx512() -> None:
    script = """
import hashlib
import numpy as np
import recurra
from recurra import _core
layer = recurra.Linear(37, 21, seed=0)
x = np.random.default_rng(0).standard_normal((300, 37), dtype=np.float32)
y, tape = layer.forward(x)
gradients = tape.backward(y)
print(hashlib.sha256(b"".join(a.tobytes() for a in (y, gradients.x, *gradients.params.values()))).hexdigest())
"""
    assert run_python(script, RECURRA_ISA="avx2") == run_python(script, RECURRA_ISA="avx512")


def test_embedding_picks_rows_and_sums_their_gradients() -> None:
    table, indices = recurra.Embedding(7, 3, dtype="float64", seed=0), np.array([[1, 2], [6, 1], [0, 1]])
    y, tape = table.forward(indices)
    assert_same_bits(y, table.state_dict()["weight"][indices])
    assert_same_bits(table(indices), y)
    dy = random(3, 2, 3)
    want = np.zeros((7, 3))
    for at in np.ndindex(3, 2):
        want[indices[at]] += dy[at]
    indices[:] = 0
    assert_close(tape.backward(dy).params["weight"], want, 1e-15)
    assert tape.backward(dy).x is None


@pytest.mark.parametrize("layer", (recurra.Linear(5, 3, seed=0), recurra.Embedding(5, 3, seed=0)))
def test_they_pickle_and_copy(layer: Any) -> None:
    x: Any = random(4, 5, dtype="float32") if isinstance(layer, recurra.Linear) else np.arange(5)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert_same_bits(other(x), layer(x))
        other.load_state_dict({name: array + 1 for name, array in other.state_dict().items()})
        assert not np.array_equal(other(x), layer(x))


HEADS: list[Any] = [recurra.Linear(5, 3, seed=0), recurra.Linear(5, 3, False), recurra.Embedding(5, 3, seed=0)]


@pytest.mark.parametrize("head", HEADS)
def test_they_are_fixed_once_made(head: Any) -> None:
    before = head.state_dict()
    for name in (*vars(head), "other"):
        with pytest.raises(AttributeError, match=f"fixed.*{name}"):
            setattr(head, name, 1)
        with pytest.raises(AttributeError, match=f"fixed.*{name}"):
            delattr(head, name)
    assert_same_bits(head.state_dict(), before)


@pytest.mark.parametrize("head", HEADS)
def test_a_pickle_is_checked_as_a_construction_is(head: Any) -> None:
    kind: Any = type(head)
    state = head.__getstate__()
    configuration, parameters = state["configuration"], state["parameters"]
    changes: list[tuple[Any, type[Exception]]] = [
        (None, TypeError),
        ({}, TypeError),
        ({"configuration": configuration}, TypeError),
        (vars(head), TypeError),
        ({**state, "more": 1}, TypeError),
        ({**state, "configuration": None}, TypeError),
        ({**state, "parameters": None}, TypeError),
        ({**state, "parameters": {}}, ValueError),
        ({**state, "parameters": parameters | {"weight": parameters["weight"][:, 1:]}}, ValueError),
        ({**state, "parameters": parameters | {"weight": parameters["weight"].astype("float64")}}, TypeError),
        ({**state, "parameters": parameters | {"weight": parameters["weight"].tolist()}}, TypeError),
    ]
    for name in configuration:
        wrong = ({**configuration, name: value} for value in (None, -1, 2**70, "int8"))
        changes += [({**state, "configuration": one}, (TypeError, ValueError, MemoryError)) for one in wrong]  # type: ignore[misc]
        changes.append(({**state, "configuration": {n: v for n, v in configuration.items() if n != name}}, TypeError))
    for changed, error in changes:
        other = kind.__new__(kind)
        with pytest.raises(error):
            other.__setstate__(changed)
    same = kind.__new__(kind)
    same.__setstate__(state)
    assert repr(same) == repr(head)
    assert_same_bits(same.state_dict(), parameters)
    assert not any(np.shares_memory(array, parameters[name]) for name, array in same._packed._parameters.items())


LINEAR, TABLE = recurra.Linear(5, 3, seed=0), recurra.Embedding(5, 3, seed=0)
BAD: tuple[tuple[Any, Any, str], ...] = (
    (lambda: recurra.Linear(0, 3), ValueError, "in_features"),
    (lambda: recurra.Linear(3, 2.5), TypeError, "out_features"),  # type: ignore[arg-type]
    (lambda: recurra.Linear(3, 3, 1), TypeError, "bias"),  # type: ignore[arg-type]
    (lambda: recurra.Linear(3, 3, dtype="int8"), TypeError, "dtype"),
    (lambda: LINEAR(random(4, 5)), TypeError, "x: expected float32"),
    (lambda: LINEAR(random(4, 6, dtype="float32")), ValueError, "x"),
    (
        lambda: LINEAR.forward(random(4, 5, dtype="float32"))[1].backward(random(4, 4, dtype="float32")),
        ValueError,
        "dy",
    ),
    (lambda: LINEAR.load_state_dict({"weight": random(3, 5, dtype="float32")}), ValueError, "bias"),
    (lambda: LINEAR.load_state_dict({"weight": random(5, 3), "bias": random(3)}), TypeError, "weight"),
    (lambda: recurra.Embedding(0, 3), ValueError, "num_embeddings"),
    (lambda: recurra.Linear(2**40, 2**40), MemoryError, "in_features=.*out_features="),
    (lambda: recurra.Linear(3, 2**50), MemoryError, "out_features=.*needs"),
    (lambda: recurra.Embedding(2**50, 3), MemoryError, "num_embeddings=.*needs"),
    (lambda: recurra.Linear(3, 3, seed=-1), ValueError, "seed: .*-1"),
    (lambda: recurra.Embedding(3, 3, seed=True), TypeError, "seed: .*True"),
    (lambda: LINEAR.load_state_dict("m.onnx"), TypeError, "state_dict: .*mapping.*str"),  # type: ignore[arg-type]
    (lambda: TABLE.load_state_dict({1: 2, "weight": 3}), TypeError, "state_dict: .*names.*1"),  # type: ignore[dict-item]
    (lambda: TABLE(np.array([5])), ValueError, "indices"),
    (lambda: TABLE(np.array([-1])), ValueError, "indices"),
    (lambda: TABLE(np.array([1.0])), TypeError, "indices"),
)


@pytest.mark.parametrize(("call", "error", "match"), BAD)
def test_wrong_input_is_refused_by_name(call: Any, error: Any, match: str) -> None:
    before = arrays(LINEAR.state_dict())
    with pytest.raises(error, match=match):
        call()
    assert_same_bits(arrays(LINEAR.state_dict()), before)
