"""Scan operators whose bodies are cells, against ONNX Runtime; bodies that differ in one thing are refused or right."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from checks import Array

ort = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
onnx = pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")

from onnx_files import check, exported, ours, parsed, runtime  # noqa: E402

import recurra  # noqa: E402
from recurra.formats import UnsupportedModel  # noqa: E402
from recurra.formats.onnx import read_onnx  # noqa: E402

I, H = 3, 4  # noqa: E741

# Bodies of one state. Constants: W* [I, H], R* [H, H], b* [H]; "all" of them stacked; V* as Gemm wants them.
RNNS = {
    "torch": "a = MatMul (x, W)  b0 = MatMul (h, R)  c0 = Add (a, b0)  d = Add (c0, b)  hn = Tanh (d)",
    "gemm": "a = Gemm <transB = 1> (x, Vx, b)  d = Gemm <transB = 1, beta = 0.5> (h, Vh, br)  e = Add (a, d)"
    "  hn = Relu (e)",
    "joined": "xh = Concat <axis = 1> (x, h)  a = MatMul (xh, WR)  d = Add (a, b)  hn = Softsign (d)",
    "scaled": "a = MatMul (x, W)  g = Mul (h, two)  d = MatMul (g, R)  e = Sub (a, d)"
    "  hn = HardSigmoid <alpha = 0.3> (e)",
    "twice": "a = MatMul (x, W)  d = MatMul (h, R)  e = MatMul (d, R2)  f = Add (a, e)"
    "  hn = LeakyRelu <alpha = 0.2> (f)",
    "elementwise": "a = MatMul (x, W)  d = Mul (h, b)  e = Add (d, a)  hn = Elu (e)",
}
BEFORE = (
    "rh = Mul (r, h)  n0 = MatMul (rh, Rn)  n1 = MatMul (x, Wn)  n2 = Add (n0, n1)  n3 = Add (n2, bn)  n = Tanh (n3)"
)
AFTER = (
    "n0 = MatMul (h, Rn)  n1 = Add (n0, br)  n2 = Mul (r, n1)  n3 = MatMul (x, Wn)  n4 = Add (n3, n2)"
    "  n5 = Add (n4, bn)  n = Tanh (n5)"
)
TWO_GATES = (
    "z0 = MatMul (x, Wz)  z1 = MatMul (h, Rz)  z2 = Add (z0, z1)  z3 = Add (z2, bz)  z = Sigmoid (z3)"
    "  r0 = MatMul (x, Wr)  r1 = MatMul (h, Rr)  r2 = Add (r0, r1)  r3 = Add (r2, b)  r = Sigmoid (r3)  "
)
KEEP = "  k = Sub (one, z)  u = Mul (k, n)  v = Mul (z, h)  hn = Add (u, v)"
GRUS = {
    "before": TWO_GATES + BEFORE + KEEP,
    "after": TWO_GATES + AFTER + KEEP,
    "difference": TWO_GATES + AFTER + "  d = Sub (h, n)  u = Mul (d, z)  hn = Add (n, u)",
    "write": TWO_GATES + BEFORE + "  k = Sub (one, z)  u = Mul (k, h)  v = Mul (z, n)  hn = Add (v, u)",
    "write difference": TWO_GATES + AFTER + "  d = Sub (n, h)  u = Mul (z, d)  hn = Add (h, u)",
    "torch": (
        "a = Gemm <transB = 1> (x, Vx3, b3)  c = Gemm <transB = 1> (h, Vh3, c3)"
        "  ar, az, an = Split <axis = -1> (a, parts)  cr, cz, cn = Split <axis = 1> (c, parts)"
        "  r0 = Add (ar, cr)  r = Sigmoid (r0)  z0 = Add (az, cz)  z = Sigmoid (z0)  n0 = Mul (r, cn)"
        "  n1 = Add (an, n0)  n = Tanh (n1)" + KEEP
    ),
    "stacked": (
        "xh = Concat <axis = 1> (x, h)  a = MatMul (xh, WR2)  a1 = Add (a, b2)  g = Sigmoid (a1)"
        "  z = Slice (g, zero, four, axis)  r = Slice (g, four, eight, axis)  rh = Mul (h, r)"
        "  xrh = Concat <axis = 1> (x, rh)  n0 = MatMul (xrh, WR)  n = Softsign (n0)" + KEEP
    ),
}
LSTM = (
    "a = MatMul (x, W4)  rh = MatMul (h, R4)  a1 = Add (a, rh)  a2 = Add (a1, b4)"
    "  i0, f0, g0, o0 = Split <axis = 1> (a2, parts4)"
    "  i = Sigmoid (i0)  f = Sigmoid (f0)  g = Tanh (g0)  o = Sigmoid (o0)"
    "  u = Mul (f, c)  v = Mul (i, g)  cn = Add (u, v)  t = Tanh (cn)  hn = Mul (o, t)"
)
LSTMS = {
    "torch": LSTM,
    "keras": LSTM.replace("i0, f0, g0, o0", "f0, i0, g0, o0").replace("Mul (i, g)", "Mul (g, i)"),
    "joined": (
        "xh = Concat <axis = -1> (h, x)  a = MatMul (xh, RW4)  a1 = Sum (a, b4)  s = Sigmoid (a1)  q = Relu (a1)"
        "  i, f, s0, o = Split <axis = 1> (s, parts4)  q0, q1, g, q2 = Split <axis = 1> (q, parts4)"
        "  v = Mul (i, g)  u = Mul (c, f)  cn = Add (v, u)  t = Softsign (cn)  hn = Mul (t, o)"
    ),
}


def constants() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    names = {
        **{f"W{n}": (I, H) for n in ("", "z", "r", "n")},
        **{f"R{n}": (H, H) for n in ("", "2", "z", "r", "n")},
        **{f"b{n}": (H,) for n in ("", "z", "r", "n", "q")},
        "Vx": (H, I), "Vh": (H, H), "WR": (I + H, H), "WR2": (I + H, 2 * H), "b2": (1, 2 * H), "Vx3": (3 * H, I),
        "Vh3": (3 * H, H), "b3": (3 * H,), "c3": (3 * H,), "W4": (I, 4 * H), "R4": (H, 4 * H), "b4": (4 * H,),
        "RW4": (H + I, 4 * H),
    }  # fmt: skip
    arrays: dict[str, Any] = {n: rng.uniform(-0.7, 0.7, shape).astype("float32") for n, shape in names.items()}
    arrays |= {"one": np.array([1], "float32"), "two": np.array(2, "float32"), "parts": np.array([H] * 3)}
    numbers = {"zero": 0, "four": H, "eight": 2 * H, "axis": 1}
    return arrays | {"parts4": np.array([H] * 4)} | {n: np.array([v]) for n, v in numbers.items()}


def scan(body: str, states: str = "h", attributes: str = "", sequence: str = "float[T,B,3] X") -> Any:
    """A model of one Scan, which returns the new states and the sequence of h."""
    names = states.split()
    given = ", ".join(f"float[B,{H}] {n}" for n in names)
    results = ", ".join(f"float[B,{H}] {n}n" for n in names)
    sizes = ", ".join(f"float[B,{H}] {n}0" for n in names)
    finals = ", ".join(f"float[B,{H}] {n}T" for n in names)
    head = f"{', '.join(f'{n}T' for n in names)}, Y"
    text = (
        f"({sequence}, {sizes}) => ({finals}, float[] Y) {{ {head} = Scan <num_scan_inputs = 1, {attributes}"
        f" body = step ({given}, float[B,3] x) => ({results}, float[B,{H}] y) {{ {body}  y = Identity (hn) }}>"
        f" ({', '.join(f'{n}0' for n in names)}, X) }}"
    )
    used = {name: array for name, array in constants().items() if re.search(rf"\b{name}\b", body)}
    model = parsed(text, 18, **used)
    del model.graph.output[-1].type.tensor_type.shape.dim[:]
    model.graph.output[-1].type.tensor_type.ClearField("shape")
    return model


def feeds(states: str = "h", shape: tuple[int, ...] = (5, 2, I)) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    arrays = {f"{n}0": rng.uniform(-1, 1, (2, H)).astype("float32") for n in states.split()}
    return {"X": rng.standard_normal(shape, dtype="float32"), **arrays}


@pytest.mark.parametrize("name", RNNS)
def test_rnns(name: str) -> None:
    imported = check(scan(RNNS[name]), feeds())
    assert [type(layer) for layer in imported.model.layers.values()] == [recurra.RNN]


@pytest.mark.parametrize("name", GRUS)
def test_grus(name: str) -> None:
    imported = check(scan(GRUS[name]), feeds())
    (layer,) = imported.model.layers.values()
    assert isinstance(layer, recurra.GRU)
    assert layer.reset == ("before" if name in ("before", "write", "stacked") else "after")


@pytest.mark.parametrize("states", ["h c", "c h"])
@pytest.mark.parametrize("name", LSTMS)
def test_lstms(name: str, states: str) -> None:
    imported = check(scan(LSTMS[name], states), feeds(states))
    assert [type(layer) for layer in imported.model.layers.values()] == [recurra.LSTM]


@pytest.mark.parametrize(
    ("attributes", "sequence", "shape"),
    [
        ("scan_input_directions = [1], scan_output_directions = [1],", "float[T,B,3] X", (5, 2, I)),
        ("scan_input_axes = [1], scan_output_axes = [1],", "float[B,T,3] X", (2, 5, I)),
        ("scan_output_axes = [-1],", "float[T,B,3] X", (5, 2, I)),
        ("scan_input_axes = [-2],", "float[B,T,3] X", (2, 5, I)),
    ],
)
def test_axes_and_directions(attributes: str, sequence: str, shape: tuple[int, ...]) -> None:
    check(scan(GRUS["after"], "h", attributes, sequence), feeds("h", shape))


@pytest.mark.parametrize("shape", [(7, 1, I), (1, 1, I), (5, 2, I)])
def test_sizes_that_the_file_fixes(shape: tuple[int, int, int]) -> None:
    model = scan(GRUS["torch"], "h", "", f"float[{shape[0]},{shape[1]},{I}] X")
    body = model.graph.node[0].attribute[-1].g
    for value in (model.graph.input[1], model.graph.output[0], *body.input, *body.output):
        value.type.tensor_type.shape.dim[0].dim_value = shape[1]
    check(model, {"X": feeds("h", shape)["X"], "h0": feeds()["h0"][: shape[1]]})


def test_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each matrix is a number, and a product of features with it could be taken for one by elements."""
    monkeypatch.setitem(globals(), "H", 1)
    for body in (*RNNS.values(), *GRUS.values()):
        check(scan(body), feeds())
    for body in LSTMS.values():
        check(scan(body, "h c"), feeds("h c"))


def test_streams_step_as_the_file_does() -> None:
    given = feeds()
    imported = check(scan(GRUS["torch"]), given)
    stream = imported.model.stream(batch=2)
    stream.state = imported.state(given)
    y = np.stack([stream.step(frame) for frame in given["X"]])
    np.testing.assert_array_equal(y, imported.model(given["X"], imported.state(given)))


def test_initial_states_that_are_constants() -> None:
    model = scan(LSTM, "h c")
    rows = np.repeat(np.random.default_rng(2).uniform(-1, 1, (1, H)).astype("float32"), 2, 0)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rows, "h0"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(0 * rows, "c0"))
    del model.graph.input[1:]
    check(model, {"X": feeds()["X"]})


WRONG = {
    # what differs, in which body, from what to what
    "the reset gate multiplies the input's product": (
        GRUS["after"], "n2 = Mul (r, n1)  n3 = MatMul (x, Wn)  n4 = Add (n3, n2)",
        "n3 = MatMul (x, Wn)  n2 = Add (n1, n3)  n4 = Mul (r, n2)",
    ),
    "two gates multiply the state in the candidate": (
        GRUS["before"], "rh = Mul (r, h)", "q = Mul (r, h) rh = Mul (q, z)",
    ),
    "a gate without an activation": (GRUS["after"], "z = Sigmoid (z3)", "z = Identity (z3)"),
    "two activations of gates": (GRUS["after"], "r = Sigmoid (r3)", "r = HardSigmoid (r3)"),
    "candidate and state swap their factors in one place": (GRUS["after"], "v = Mul (z, h)", "v = Mul (z, n)"),
    "the reset gate where the update gate is wanted": (GRUS["after"], "v = Mul (z, h)", "v = Mul (r, h)"),
    "a state that is added": (GRUS["after"], "hn = Add (u, v)", "w = Add (u, v)  hn = Add (w, h)"),
    "a factor": (GRUS["before"], "hn = Add (u, v)", "w = Add (u, v)  hn = Mul (w, two)"),
    "2 - z": (GRUS["before"], "k = Sub (one, z)", "k = Sub (two, z)"),
    "h is used twice in the candidate": (GRUS["before"], "n3 = Add (n2, bn)", "m = Add (n2, bn)  n3 = Add (m, h)"),
    "features in another order": (
        GRUS["before"], "v = Mul (z, h)",
        "h1, h2 = Split <axis = 1> (h, halves)  hs = Concat <axis = 1> (h2, h1)  v = Mul (z, hs)",
    ),
    "gates read c": (LSTM, "rh = MatMul (h, R4)", "rh = MatMul (c, R4)"),
    "peepholes": (LSTM, "f = Sigmoid (f0)", "p = Mul (c, b)  f1 = Add (f0, p)  f = Sigmoid (f1)"),
    "no activation of the output": (LSTM, "t = Tanh (cn)", "t = Identity (cn)"),
    "the output sees the old c": (LSTM, "t = Tanh (cn)", "t = Tanh (c)"),
    "the output sees more than c": (LSTM, "t = Tanh (cn)", "cb = Add (cn, b)  t = Tanh (cb)"),
    "three activations": (LSTM, "o = Sigmoid (o0)", "o = Softsign (o0)"),
    "a forget gate in the wrong place": (LSTM, "u = Mul (f, c)", "u = Mul (f, h)"),
    "c twice": (LSTM, "cn = Add (u, v)", "w = Add (u, v)  cn = Add (w, c)"),
    "no forget gate": (LSTM, "u = Mul (f, c)", "u = Identity (c)"),
    "an activation behind": (RNNS["torch"], "hn = Tanh (d)", "hq = Tanh (d)  hn = Relu (hq)"),
    "a bias behind": (RNNS["torch"], "hn = Tanh (d)", "hq = Tanh (d)  hn = Add (hq, bq)"),
    "an operator that no cell has": (RNNS["torch"], "hn = Tanh (d)", "hn = Erf (d)"),
    "a product of states": (RNNS["torch"], "b0 = MatMul (h, R)", "hh = Mul (h, h)  b0 = MatMul (hh, R)"),
    "along the batch": (RNNS["torch"], "a = MatMul (x, W)", "x2 = Slice (x, zero, one1, zero)  a = MatMul (x2, W)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_body_that_differs_in_one_thing_is_refused(name: str) -> None:
    body, old, new = WRONG[name]
    assert old in body
    states = "h c" if body is LSTM else "h"
    model = scan(body.replace(old, new), states)
    for missing, array in (("halves", [2, 2]), ("one1", [1])):
        if missing in new:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(array), missing))
    with pytest.raises(UnsupportedModel, match=r"^ONNX: node 'hT' \(Scan\): body: "):
        read_onnx(model)


RIGHT = {
    "a bias more": (GRUS["after"], "n5 = Add (n4, bn)", "n6 = Add (n4, bn)  n5 = Add (n6, bq)"),
    "no bias": (GRUS["after"], "n1 = Add (n0, br)", "n1 = Identity (n0)"),
    "another activation": (GRUS["before"], "n = Tanh (n3)", "n = Relu (n3)"),
    "two weights swapped": (GRUS["before"], "MatMul (x, Wr)", "MatMul (x, Wz)"),
    "gates swapped": (LSTM, "i0, f0, g0, o0", "o0, g0, f0, i0"),
    "a scale": (LSTM, "i = Sigmoid (i0)", "i1 = Mul (two, i0)  i = Sigmoid (i1)"),
    "activations of the states": (LSTM, "g = Tanh (g0)", "g = Softplus (g0)"),
    "the reset gate multiplies a bias alone": (GRUS["after"], "n0 = MatMul (h, Rn)", "n0 = Mul (h, zeros)"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_body_that_differs_in_one_thing_is_right(name: str) -> None:
    body, old, new = RIGHT[name]
    assert old in body
    states = "h c" if body is LSTM else "h"
    models = [scan(text, states) for text in (body, body.replace(old, new))]
    if "zeros" in new:
        models[1].graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(H, "float32"), "zeros"))
    outputs = [check(model, feeds(states)).model(feeds()["X"]) for model in models]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def changed(model: Any, random: np.random.Generator) -> Any:
    """The model, with another operator, another operand or another result in its body."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    body = other.graph.node[0].attribute[-1].g
    names = [name for node in body.node for name in node.output] + [value.name for value in body.input]
    names += [tensor.name for tensor in other.graph.initializer]
    operators = [
        "Sigmoid",
        "Tanh",
        "Relu",
        "MatMul",
        "Add",
        "Mul",
        "Sub",
        "Identity",
        "Neg",
        "Concat",
        "Gemm",
        "Sum",
        "Div",
    ]
    for _ in range(int(random.integers(1, 3))):
        node, name = body.node[int(random.integers(len(body.node)))], names[int(random.integers(len(names)))]
        how = random.integers(5)
        if how == 0:
            node.op_type = operators[int(random.integers(len(operators)))]
        elif how == 1:
            body.output[int(random.integers(len(body.output)))].name = name
        elif how == 2 and len(node.input) == 2:
            node.input[0], node.input[1] = node.input[1], node.input[0]
        else:
            node.input[int(random.integers(len(node.input)))] = name
    return other


def test_bodies_that_were_changed_are_refused_or_right() -> None:
    """Beside ONNX Runtime, where that takes them."""
    random, compared = np.random.default_rng(7), 0
    bodies = [*((body, "h") for body in (*RNNS.values(), *GRUS.values())), *((body, "h c") for body in LSTMS.values())]
    models = [(scan(body, states), states) for body, states in bodies]
    for i in range(400):
        model, states = models[i % len(models)]
        mutant = changed(model, random)
        try:
            imported = read_onnx(mutant)
        except UnsupportedModel:
            continue
        try:
            expected = runtime(mutant, feeds(states))
        except Exception:
            continue
        found = ours(imported, feeds(states))
        for name, array in expected.items():
            np.testing.assert_allclose(
                found[name], array, rtol=0, atol=3e-6 * max(1, np.abs(array).max()), err_msg=str(i)
            )
        compared += 1
    assert compared > 30


def test_what_is_no_plain_recurrence_is_refused_by_name() -> None:
    counter = scan(RNNS["torch"].replace("hn = Tanh (d)", "hn = Tanh (d)  kn = Add (k, one)"), "h k")
    with pytest.raises(UnsupportedModel, match=r"'hT' \(Scan\): body: .* k becomes k \+ 1"):
        read_onnx(counter)
    ends = scan(RNNS["torch"], "h", "scan_output_directions = [1],")
    with pytest.raises(UnsupportedModel, match="scan_output_directions: expected that of the input"):
        read_onnx(ends)
    other = scan(RNNS["torch"])
    other.graph.node[0].attribute[-1].g.node[-1].input[0] = "d"
    with pytest.raises(UnsupportedModel, match="body: expected output 'y' to be the new state"):
        read_onnx(other)
    twice = scan(RNNS["torch"])
    twice.graph.node[0].attribute[-1].g.output[1].name = "hn"
    with pytest.raises(UnsupportedModel, match=r"body: expected outputs of different names, got \['hn', 'hn'\]"):
        read_onnx(twice)
    outside = scan(RNNS["torch"].replace("Add (c0, b)", "Add (c0, speaker)"))
    outside.graph.input.append(onnx.helper.make_tensor_value_info("speaker", 1, ["B", H]))
    with pytest.raises(UnsupportedModel, match=r"node 'd' \(Add\): expected constants, .* got 'speaker'"):
        read_onnx(outside)
    infinite = scan(RNNS["torch"])
    infinite.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((I, H), np.inf, "float32"), "W"))
    with pytest.raises(UnsupportedModel, match=r"node 'a' \(MatMul\): expected a matrix of finite numbers"):
        read_onnx(infinite)


def test_bodies_that_grow_without_end_are_refused() -> None:
    doubling = "".join(f"  d{i + 1} = Concat <axis = 1> (d{i}, d{i})" for i in range(40))
    squares = "".join(f"  s{i + 1} = Mul (s{i}, s{i})" for i in range(40))
    folds = "".join(
        f"  m{i} = MatMul (s{i}, R)  p{i}, q{i} = Split <axis = 1> (m{i}, halves)"
        f"  u{i} = Concat <axis = 1> (q{i}, p{i})  s{i + 1} = Add (m{i}, u{i})"
        for i in range(60)
    )
    for body, result in ((f"d0 = Identity (h) {doubling}", "d40"), (f"s0 = Identity (h) {squares}", "s40")):
        with pytest.raises(UnsupportedModel, match="larger than any cell"):
            read_onnx(scan(f"{body}  hn = Tanh ({result})"))
    chain = scan(f"s0 = MatMul (h, R) {folds}  a = MatMul (x, W)  e = Add (a, s60)  hn = Tanh (e)")
    chain.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 2]), "halves"))
    (layer,) = read_onnx(chain).model.layers.values()
    assert isinstance(layer, recurra.RNN)


def test_a_scan_that_torch_exports() -> None:
    pytest.importorskip("torch", reason="the parity extra is not installed: no torch")
    pytest.importorskip("onnxscript", reason="the parity extra is not installed: no onnxscript")
    scan_of = pytest.importorskip("torch._higher_order_ops.scan", reason="this torch has no scan").scan
    import torch

    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.h = torch.nn.Linear(I, 3 * H), torch.nn.Linear(H, 3 * H)

        def forward(self, X: Any, h0: Any) -> Any:  # noqa: N803  (the names of `feeds`)
            def step(h: Any, x: Any) -> Any:
                xr, xz, xn = self.x(x).chunk(3, -1)
                hr, hz, hn = self.h(h).chunk(3, -1)
                z, n = torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
                h = (1 - z) * n + z * h
                return h, h.clone()

            return scan_of(step, h0, X, dim=0)

    given = feeds()
    arguments = tuple(map(torch.from_numpy, given.values()))
    torch.manual_seed(0)
    file = exported(Loop(), arguments, list(given), {"X": {0: "T", 1: "B"}, "h0": {0: "B"}}, dynamo=True)
    imported = check(file, given)
    assert [type(layer) for layer in imported.model.layers.values()] == [recurra.GRU]
