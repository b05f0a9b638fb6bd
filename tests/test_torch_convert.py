"""recurra.torch: convert and revert, single-step cells, options of modules, and what records or rewrites them."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
from checks import assert_same_bits
from torch_modules import (
    F64,
    FORMS,
    KINDS,
    LENGTHS,
    OWN_KINDS,
    B,
    H,
    I,
    T,
    Tensor,
    assert_close,
    leaves,
    make_input,
    make_state,
    module,
    normal,
    pair,
    rnn_utils,
    tensors,
)

import recurra

torch = pytest.importorskip("torch", reason="the parity extra is not installed: no torch")

import recurra.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch tells that it is slow

CELL_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTMCell", {}),
    "gru": ("GRUCell", {}),
    "rnn_tanh": ("RNNCell", {}),
    "rnn_relu": ("RNNCell", {"nonlinearity": "relu"}),
}


class Model(torch.nn.Module):  # type: ignore[name-defined,misc,unused-ignore]
    """Every recurrent module of torch.nn, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.before = torch.nn.Linear(I, I, dtype=F64)
        self.lstm = torch.nn.LSTM(I, H, 2, dropout=0.3, bidirectional=True, proj_size=2, dtype=F64)
        self.same = self.lstm
        self.inner = torch.nn.ModuleDict({"gru": torch.nn.GRU(4, H, batch_first=True, dtype=F64)})
        self.rnn = torch.nn.RNN(H, H, nonlinearity="relu", dtype=F64)
        self.cells = torch.nn.ModuleList(
            [torch.nn.LSTMCell(H, H, dtype=F64), torch.nn.GRUCell(H, H, dtype=F64), torch.nn.RNNCell(H, H, dtype=F64)]
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.lstm(self.before(x))[0] + self.same(x)[0]
        y = self.rnn(self.inner["gru"](y)[0])[0][-1]
        for cell in self.cells:
            y = leaves(cell(y))[0]
        return y


def recurrent(model: Any) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, (torch.nn.RNNBase, torch.nn.RNNCellBase))]


def training_step(model: Any) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    y = model(make_input(""))
    y.pow(2).sum().backward()
    return [y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def test_convert_and_revert_keep_all_that_a_model_has() -> None:
    model = Model()
    model.rnn.eval()
    model.inner["gru"].weight_hh_l0.requires_grad_(False)
    torch.nn.utils.parametrizations.weight_norm(model.lstm, "weight_hh_l1")
    torch.nn.utils.parametrizations.orthogonal(model.cells[1], "weight_hh")
    seen: list[str] = []
    model.rnn.register_forward_pre_hook(lambda m, args: seen.append("pre"))
    model.rnn.register_forward_hook(lambda m, args, result: seen.append("forward"))
    model.rnn.register_full_backward_hook(lambda m, gi, go: seen.append("backward"))
    model.rnn.register_state_dict_post_hook(lambda m, *args: seen.append("state_dict"))
    model.rnn.note = "mine"
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

    def description() -> Any:
        names = [(name, id(p), p.requires_grad) for name, p in model.named_parameters()]
        return names, [m.training for m in model.modules()], list(model.state_dict()), model.rnn.note

    before, expected, kinds = description(), training_step(model), [type(m) for m in recurrent(model)]
    modules = [id(m) for m in model.modules()]
    seen.clear()
    assert recurra.torch.convert(model) is model
    assert description() == before and [id(m) for m in model.modules()] == modules
    assert all(isinstance(m, recurra.torch.calls.CoreModule) for m in recurrent(model))
    assert model.same is model.lstm and type(model.rnn) is recurra.torch.RNN
    seen.clear()
    assert_close(training_step(model), expected)
    assert seen == ["pre", "forward", "backward"]
    assert recurra.torch.convert(model) is model  # nothing left to do
    optimiser.step()  # on the same parameters
    changed = training_step(model)
    assert not torch.equal(changed[0], expected[0])
    assert recurra.torch.revert(model) is model
    assert description()[0] == before[0] and [type(m).__name__ for m in recurrent(model)] == [k.__name__ for k in kinds]
    assert not any(isinstance(m, recurra.torch.calls.CoreModule) for m in recurrent(model))
    assert_close(training_step(model), changed)


def test_a_layer_itself_is_converted_and_saved() -> None:
    layer = torch.nn.GRU(I, H, 2, dropout=0.2, dtype=F64).eval()
    expected = layer(make_input(""))[0]
    assert recurra.torch.convert(layer) is layer and type(layer) is recurra.torch.GRU
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert_close([copied(make_input(""))[0]], [expected])
    plain = torch.nn.Linear(2, 3)
    assert recurra.torch.convert(plain) is plain and recurra.torch.revert(plain) is plain


class Derived(torch.nn.LSTM):  # type: ignore[name-defined,misc,unused-ignore]
    def forward(self, *args: Any) -> Any:
        return "mine"


def test_what_cannot_be_converted_is_refused_by_name_and_nothing_changes() -> None:
    for bad, message in (
        (Derived(I, H), r"1\.0: expected one of torch\.nn.*Derived"),
        (torch.nn.GRU(I, H, dtype=torch.float16), r"1\.0: .*weight_ih_l0: expected torch.float32 .*float16"),
        (
            torch.nn.LSTMCell(I, H, device="meta"),
            r"1\.0: .*weight_ih: expected memory of the CPU or of an NVIDIA GPU, got meta",
        ),
    ):
        model = torch.nn.Sequential(torch.nn.GRU(I, H), torch.nn.Sequential(bad))
        with pytest.raises(TypeError, match=message):
            recurra.torch.convert(model)
        assert type(model[0]) is torch.nn.GRU and type(model[1][0]) is type(bad)
    for function in (recurra.torch.convert, recurra.torch.revert):
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got dict"):
            function({})


@pytest.mark.parametrize("options", [{"zoneout": 0.1}, {"recurrent_dropout": 0.3}, {"cell_clip": 1.0}], ids=str)
def test_what_torch_has_not_cannot_be_reverted(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    for bad, message in [(module(kind), "cell") for kind in OWN_KINDS] + [
        (module("lstm", **options), f"{name}={value}")
    ]:
        model = torch.nn.Sequential(module("gru"), bad)
        with pytest.raises(ValueError, match=f"1: torch.nn has no layer with {message}"):
            recurra.torch.revert(model)
        assert type(model[0]) is recurra.torch.GRU


# ---- cells


def cell_pair(kind: str, **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    name, more = CELL_KINDS[kind]
    theirs = getattr(torch.nn, name)(I, H, **{"dtype": F64, **more, **options})
    torch.manual_seed(0)
    ours = getattr(recurra.torch, name)(I, H, **{"dtype": F64, **more, **options})
    assert isinstance(ours, type(theirs)) and repr(ours) == repr(theirs)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    return theirs, ours


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("batch", [(), (1,), (B,)], ids=str)
@pytest.mark.parametrize("kind", CELL_KINDS)
def test_a_cell_steps_and_trains_as_torchs(kind: str, batch: tuple[int, ...], with_state: bool, bias: bool) -> None:
    values = []
    for cell in cell_pair(kind, bias=bias):
        x = normal(3, *batch, I).requires_grad_()
        state = [normal(*batch, H, seed=k).requires_grad_() for k in range(2 if kind == "lstm" else 1)]
        h: Any = (tuple(state) if kind == "lstm" else state[0]) if with_state else None
        with torch.no_grad():
            values.append(tensors(cell(x[0], h)))
        for step in x:
            h = cell(step, h)
        inputs = [x, *(state if with_state else []), *cell.parameters()]
        first = torch.autograd.grad(sum(part.pow(2).sum() for part in leaves(h)), inputs, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs)
        values[-1] += [part.detach() for part in (*leaves(h), *first, *second)]
    assert_close(values[1], values[0], 1e-9)


def test_cells_travel_and_refuse() -> None:
    cell = recurra.torch.LSTMCell(I, H, dtype=F64)
    x = normal(B, I)
    expected = tensors(cell(x))
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert_close(tensors(other(x)), expected, 0)
    compiled = torch.compile(cell, backend="aot_eager", fullgraph=True)
    assert_close(tensors(compiled(x)), expected, 0)
    grads = torch.func.vmap(torch.func.grad(lambda x: cell(x)[0].sum()))(x)
    assert_close(
        [grads],
        [torch.autograd.grad(torch.nn.LSTMCell.forward(cell, y := x.clone().requires_grad_())[0].sum(), y)[0]],
        1e-9,
    )
    with torch.autocast("cpu"):
        assert cell.float()(x.bfloat16())[0].dtype == torch.float32
    cell.double()
    for call, error, message in (
        ((x[:, :2],), ValueError, r"input: expected shape \[B, 3\] or \[3\], got \[4, 2\]"),
        ((x, x), TypeError, r"hx: expected a tuple \(h, c\), got Tensor"),
        ((x, (x, x)), ValueError, r"hx h: expected shape \[4, 4\]"),
        ((x.float(),), TypeError, "input: expected torch.float64"),
    ):
        with pytest.raises(error, match=message):
            cell(*call)
    with pytest.raises(ValueError, match="hidden_size"):
        recurra.torch.GRUCell(3, 0)
    with pytest.raises(ValueError, match="nonlinearity"):
        recurra.torch.RNNCell(3, 4, nonlinearity="gelu")


# ---- options of modules


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS | OWN_KINDS)
def test_lengths_are_those_of_the_layer(kind: str, batch_first: bool, grad: bool) -> None:
    name, options = (KINDS | OWN_KINDS)[kind]
    both: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    ours = module(kind, **both)
    layer = getattr(recurra, name)(I, H, dtype="float64", **options, **both)
    layer.load_state_dict(ours.state_dict())
    x, lengths = make_input("batch_first" if batch_first else ""), [3, 0, 5, 2]
    expected = layer(x, lengths=lengths)
    with torch.set_grad_enabled(grad):
        for given in (lengths, torch.tensor(lengths), np.array(lengths, "int32")):
            assert_same_bits([t.detach().numpy() for t in tensors(ours(x, lengths=given))], expected)
    x.requires_grad_()
    y, _ = ours(x, lengths=lengths)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    valid = np.arange(T)[:, None] < np.array(lengths)
    reached = gradient.numpy().any(-1).T if batch_first else gradient.numpy().any(-1)
    assert not reached[~valid].any()
    if getattr(ours, "nonlinearity", None) != "relu":  # of which all units may be closed
        assert reached[valid].all()


def test_lengths_are_a_packed_sequence_and_wrong_ones_are_refused() -> None:
    layer, x = module("lstm", num_layers=3, dropout=0.4), make_input("")
    packed = rnn_utils.pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    layer.eval()
    output, lengths = rnn_utils.pad_packed_sequence(layer(packed)[0])
    assert_close([layer(x, lengths=LENGTHS)[0]], [output], 0)
    assert lengths.tolist() == LENGTHS
    layer.train()
    assert layer(x, lengths=LENGTHS)[0].isfinite().all()
    for given, lengths, error, message in (
        (packed, LENGTHS, ValueError, "lengths: expected None with a PackedSequence"),
        (x, [1, 2], ValueError, r"lengths: expected shape \[4\]"),
        (x, [1, 2, 3, 6], ValueError, r"lengths: expected values in 0\.\.5, got 6"),
        (x, [1.0] * 4, TypeError, "lengths: expected integers"),
        (x[:, 0], [3], ValueError, "lengths: expected none without a batch axis"),
    ):
        with pytest.raises(error, match=message):
            layer(given, lengths=lengths)


@pytest.mark.parametrize("coupled", [False, True, "f_from_i"])
def test_forget_bias_is_that_of_the_layer(coupled: Any) -> None:
    layer = recurra.LSTM(I, H, 2, bidirectional=True, coupled=coupled, forget_bias=2.0)
    ours = recurra.torch.LSTM(I, H, 2, bidirectional=True, coupled=coupled, forget_bias=2.0)
    plain = recurra.torch.LSTM(I, H, 2, bidirectional=True, coupled=coupled)
    for _ in range(2):
        for name, value in layer.state_dict().items():
            if name.startswith("bias_"):
                start = 0 if coupled else H
                np.testing.assert_array_equal(getattr(ours, name).detach()[start : start + H], value[start : start + H])
        torch.manual_seed(1)
        ours.reset_parameters()
    torch.manual_seed(1)
    plain.reset_parameters()
    assert torch.equal(ours.weight_hh_l1_reverse, plain.weight_hh_l1_reverse)
    with pytest.raises(ValueError, match="forget_bias: expected None with bias=False"):
        recurra.torch.LSTM(I, H, bias=False, forget_bias=1.0)
    with pytest.raises(TypeError, match="forget_bias"):
        recurra.torch.LSTM(I, H, forget_bias="1")  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(half: Any, form: str) -> None:
    layer = module("lstm", dtype=torch.float32, batch_first=form == "batch_first")
    x, hx = make_input(form).to(half), tuple(part.to(half) for part in make_state(layer, form))
    if "packed" in form:
        given = [rnn_utils.pack_padded_sequence(t, torch.tensor(LENGTHS), enforce_sorted=False) for t in (x, x.float())]
    else:
        given = [x, x.float()]
    expected = layer(given[1], tuple(part.float() for part in hx))
    with torch.autocast("cpu", dtype=half):
        found = layer(given[0], hx)
    for a, b in zip(tensors(found), tensors(expected), strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    with pytest.raises(TypeError, match=r"expected torch\.float32"):
        layer(given[0], hx)
    with torch.autocast("cpu", enabled=False), pytest.raises(TypeError, match="input"):
        layer(given[0])
    with torch.autocast("cpu", dtype=half), pytest.raises(TypeError, match="input"):
        layer.double()(given[0])


def test_a_model_trains_under_autocast() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(I, I), recurra.torch.GRU(I, H))
    head = torch.nn.Linear(H, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = head(model(make_input("").float())[0])
        assert y.dtype == torch.bfloat16
    y.float().pow(2).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("used", [0, 1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_hooks_are_called_as_torchs_are(kind: str, dropout: float, used: int, form: str) -> None:
    """On results that no loss uses they are not."""
    found = []
    for layer in pair(kind, num_layers=2, dropout=dropout, batch_first=form == "batch_first"):
        x = make_input(form).requires_grad_()
        seen: dict[int, Tensor] = {}
        given = x
        if "packed" in form:
            order = {"packed": LENGTHS, "packed_sorted": sorted(LENGTHS, reverse=True)}[form]
            given = rnn_utils.pack_padded_sequence(x, torch.tensor(order), enforce_sorted="sorted" in form)
        torch.manual_seed(4)
        output, final = layer(given)
        parts = [output.data if isinstance(output, rnn_utils.PackedSequence) else output, *leaves(final)]
        for number, part in enumerate(parts):
            part.register_hook(lambda g, number=number, seen=seen: seen.setdefault(number, g.clamp(-1, 1)))
        parts[min(used, len(parts) - 1)].pow(2).sum().backward()
        found.append([*(seen.get(n, torch.zeros(())) for n in range(3)), x.grad])
    assert_close(found[1], found[0])


def test_an_output_may_be_changed_in_place() -> None:
    values = []
    for layer in pair("gru"):
        x = make_input("").requires_grad_()
        y, h = layer(x)
        y.relu_()
        (y.sum() + h.add_(1).pow(2).sum()).backward()
        values.append([y.detach(), h.detach(), x.grad])
    assert_close(values[1], values[0])


# ---- what records or rewrites modules


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn_tanh"])
def test_traces_and_exports_record_torchs_layer(kind: str) -> None:
    layer = module(kind, num_layers=2, bidirectional=True).eval()
    x, other = make_input(""), normal(T, B, I, seed=5)
    for form in (torch.jit.trace(layer, (x,)), torch.export.export(layer, (x,)).module()):
        assert_close(tensors(form(other)), tensors(layer(other)))
    layer.weight_hh_l0.data.mul_(2)
    traced = torch.jit.trace(layer, (x,))
    assert_close(tensors(traced(other)), tensors(layer(other)))
    cell = recurra.torch.GRUCell(I, H, dtype=F64)
    assert_close([torch.jit.trace(cell, (x[0],))(other[0])], [cell(other[0])])
    assert_close([torch.export.export(cell, (x[0],)).module()(other[0])], [cell(other[0])])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_onnx_export() -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the parity extra is not installed: no onnxruntime")
    pytest.importorskip("onnx", reason="the parity extra is not installed: no onnx")
    layer, x = module("gru", dtype=torch.float32).eval(), make_input("").float()
    torch.onnx.export(layer, (x,), file := io.BytesIO(), dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    y = session.run(None, {session.get_inputs()[0].name: (2 * x).numpy()})[0]
    np.testing.assert_allclose(y, layer(2 * x)[0].detach().numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", OWN_KINDS)
def test_what_torch_has_not_is_not_recorded(kind: str) -> None:
    layer, cell = module(kind), module(kind)._cell
    with pytest.raises(RuntimeError, match=rf"torch\.jit\.trace.*{cell}"):
        torch.jit.trace(layer, (make_input(""),))
    with pytest.raises(Exception, match=rf"torch\.export.*{cell}"):
        torch.export.export(layer, (make_input(""),))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_and_quantisation_say_what_to_do() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(I, I), recurra.torch.GRU(I, H)).eval()
    with pytest.raises(RuntimeError, match=r"recurra\.torch\.revert"):
        torch.jit.script(model)
    assert type(model[1]) is recurra.torch.GRU
    quantize_dynamic = torch.ao.quantization.quantize_dynamic
    with pytest.warns(UserWarning, match=r"recurra\.torch\.revert"):
        quantize_dynamic(model, {torch.nn.GRU})
    recurra.torch.revert(model)
    x = make_input("").float()
    assert_close(tensors(torch.jit.script(model)(x)), tensors(model(x)), 1e-5)
    quantised = quantize_dynamic(model, {torch.nn.GRU})
    assert "quantized" in type(quantised[1]).__module__


def test_tools_find_the_layers_by_type() -> None:
    """Initialisation as it is written in the wild."""
    layer = recurra.torch.LSTM(I, H, num_layers=2)

    def initialise(m: Any) -> None:
        if isinstance(m, torch.nn.LSTM):
            for weights in m.all_weights:
                for weight in weights:
                    torch.nn.init.constant_(weight, 0.25)

    layer.apply(initialise)
    assert all((p == 0.25).all() for p in layer.parameters())
    assert all((p == 0.25).all() for p in layer._flat_weights) and layer.mode == "LSTM"
    assert make_state(layer, "")[0].shape == (2, B, H)
