"""Tensors that record what a module does to them, while its own forward runs."""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import PackedSequence

from ...model import Value
from .graph import Graph
from .view import Misread, Refusal, Size, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FUNCTIONS", "MODULES", "Lengths", "Recording", "Traced", "function", "leaves", "recorded", "traced", "undo"]

# Handlers by the name of torch's function or method, without underscores around it; those of torch.nn.functional whose
# arguments are in another order than ATen's have "F." in front.
FUNCTIONS: dict[str, Callable[..., Any]] = {}

# Handlers of whole modules by their class.
MODULES: dict[type, Callable[..., Any]] = {}

_HARMLESS = frozenset(("dtype", "device", "layout", "is_cuda", "requires_grad", "grad_fn", "is_nested", "is_sparse"))
_WITH_LENGTHS = frozenset(("_pack_padded_sequence", "_pad_packed_sequence", "lstm", "gru", "rnn_tanh", "rnn_relu"))
_OF_LENGTHS = frozenset(
    (
        "int",
        "index",
        "item",
        "len",
        "numel",
        "dim",
        "shape",
        "size",
        "tolist",
        "cpu",
        "to",
        "long",
        "clone",
        "detach",
        "contiguous",
        "type",
        "sort",
        "getitem",
        "index_select",
        "empty_like",
        "scatter",
        "add",
        "sub",
        "mul",
        "div",
        "floordiv",
        "floor_divide",
        "true_divide",
        "clamp",
        "clamp_min",
        "rsub",
        "radd",
        "rmul",
        "ceil",
        "floor",
        "view",
        "reshape",
        "flatten",
        "squeeze",
        "select",
    )
)
_HARMLESS |= {"is_mkldnn", "is_quantized", "is_meta", "is_cpu", "is_mps", "is_leaf", "names", "grad"}


_one_at_a_time = threading.Lock()  # whoever changes torch.nn.Module


def function(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a handler: of the recording, then the arguments of the function."""

    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS.update(dict.fromkeys(names, handler))
        return handler

    return register


class Derived(int):
    """A number of features that may depend on one that nothing has said yet."""

    def _compared(self, other: object) -> None:
        if isinstance(other, int) and int(other) != int(self):
            raise Mismatch(f"the module compares {int(self)} features with {int(other)}")

    def __eq__(self, other: object) -> bool:
        self._compared(other)
        return int(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: int) -> bool:
        self._compared(other)
        return int(self) < int(other)

    def __le__(self, other: int) -> bool:
        self._compared(other)
        return int(self) <= int(other)

    def __gt__(self, other: int) -> bool:
        return not self <= other

    def __ge__(self, other: int) -> bool:
        return not self < other

    def __hash__(self) -> int:
        return hash(int(self))


class Unknown(Derived):
    """A number of features that nothing has said yet; a number that it has to equal does."""

    name: tuple[str, str]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int) and int(other) != int(self):
            raise Found(self.name, int(other))
        return int(self) == other

    def __hash__(self) -> int:
        return hash(int(self))


class Found(Exception):  # noqa: N818
    """The size of an axis of an input, by its name and letter."""

    def __init__(self, name: tuple[str, str], size: int) -> None:
        super().__init__(name, size)
        self.name, self.size = name, size


class Mismatch(Refusal):
    """A number of features does not fit; another width of the input may."""


class Traced(torch.Tensor):
    """A tensor without numbers: where they will be in the model."""

    seen: View
    recording: Recording
    alike: list[weakref.ref[Traced]]  # tensors that share its memory

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function of torch that gets such a tensor comes here."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            name = func.__self__.__name__
            if name in _HARMLESS:
                return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call,unused-ignore]
        if isinstance(func, torch._ops.OpOverload):
            name = name.partition(".")[0]
        recording = _recording((args, kwargs))
        return recording.call(name, getattr(func, "__module__", None), args, kwargs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind(0))

    def __deepcopy__(self, memo: Any) -> Traced:
        return self


class Lengths(Traced):
    """The lengths of the sequences, or what has been computed from them alone."""


class Recording:
    """What a module has done so far.

    Attributes:
        graph: the nodes that stand for it.
        dtype: of all parameters.
        holes: numbers that stand for sizes nobody knows yet, and whose sizes they are.
        given: inputs, by the identity of their tensors; those that have been used so far; and how many calls that took.
        packed: whether sequences have been packed by lengths.
        seen: results of submodules by their path.
        stepped: recurrent nodes that stand for cells, whose output is their state too.
    """

    def __init__(self, holes: dict[int, tuple[str, str]], dtype: torch.dtype) -> None:
        self.graph, self.holes, self.dtype = Graph(), holes, dtype
        self.given: dict[int, str] = {}
        self.used: set[str] = set()
        self.calls, self.packed = 0, False
        self.seen: dict[str, dict[tuple[Any, ...], View]] = {}
        self.stepped: set[str] = set()

    def call(self, name: str, module: str | None, args: Any, kwargs: Any) -> Any:
        """Record a call of a function of torch."""
        self.graph.operation = name
        key = name if name in FUNCTIONS else undo(name)
        handler = FUNCTIONS.get(f"F.{key}") if module == "torch.nn.functional" else None
        handler = handler or FUNCTIONS.get(key)
        self.calls += 1
        if key.endswith("_cell") and isinstance(args[0], Traced):  # what it can be does not hang on the states
            self._use(args[:1])
            self._require_step(args[0].seen)
        self._use((args, kwargs))
        if key not in _WITH_LENGTHS and any(isinstance(each, Lengths) for each in _flat((args, kwargs))):
            return self._of_lengths(key, args, kwargs)
        if handler is None:
            raise Refusal("it has no counterpart")
        result = handler(self, *args, **kwargs)
        if not args or not isinstance(args[0], Traced):
            return result
        in_place = kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        if in_place and isinstance(result, Traced) and name != "__invert__":
            return self._changed(args[0], result)
        for each in _flat(result):
            if isinstance(each, Traced) and each.seen.value == args[0].seen.value and key != "clone":
                self._shares(each, args[0])
        return result

    def _use(self, values: Any) -> None:
        self.used |= {self.given[id(each)] for each in _flat(values) if id(each) in self.given}

    def _require_step(self, view: View) -> None:
        """That it is features of one step, of a batch or a row."""
        last = len(view.axes) - 1
        if self.graph.values[view.value].integer or last not in (0, 1) or not view.is_features(last):
            raise Misread("reads something else as the features of a step")

    def _shares(self, one: Traced, other: Traced) -> None:
        """Both see the same memory."""
        if one is not other:
            one.alike = other.alike
            other.alike.append(weakref.ref(one))

    def _changed(self, tensor: Traced, result: Traced) -> Traced:
        """A tensor after what was done to it in place: whoever holds it sees that."""
        if any(each() is not None and each() is not tensor for each in tensor.alike):
            raise Refusal("changes in place what another tensor is a part of")
        tensor.seen = result.seen
        return tensor

    def _of_lengths(self, name: str, args: Any, kwargs: Any) -> Any:
        """Whatever is computed from lengths is lengths; whether they are the right ones, the check at the end says."""
        tensors = [each for each in _flat((args, kwargs)) if isinstance(each, Traced)]
        data = [each for each in tensors if not isinstance(each, Lengths)]
        if name in ("zeros", "ones", "full"):  # as many rows as are left, at the first step
            return getattr(torch, name)(*_as_rows(args), **kwargs)
        if data:
            if name in ("index_select", "getitem", "index") and len(data) == 1:  # rows, sorted by length or back
                return data[0]
            raise Refusal("computes with lengths and other values together")
        one = tensors[0]
        if name not in _OF_LENGTHS:
            raise Refusal("computes with lengths")
        if name in ("int", "index", "item", "len", "numel"):
            return int(one.seen.size(0)) if name == "int" else Size(one.seen.size(0))
        if name in ("dim", "shape", "size", "tolist"):
            if name == "tolist":
                return one
            return FUNCTIONS[name](self, *args, **kwargs)
        return (one, one) if name == "sort" else one

    def require(self, what: str, actual: int, expected: int) -> None:
        """A number of features as the module wants it; what the module's input lacks of it becomes known."""
        if int(actual) == int(expected):
            return
        for hole, name in self.holes.items():
            for open_size, known in ((int(actual), int(expected)), (int(expected), int(actual))):
                rest, over = divmod(open_size, hole)
                if not over and rest and known % rest == 0:
                    raise Found(name, known // rest)
        raise Mismatch(f"expected {expected} {what}, got {actual}")

    def tensor(self, view: View, kind: type[Traced] = Traced) -> Any:
        """What stands for a view."""
        value = self.graph.values.get(view.value)
        dtype = torch.int64 if value is not None and value.integer else self.dtype
        made = torch.empty(0, dtype=dtype).as_subclass(kind)
        made.seen, made.recording, made.alike = view, self, []
        made.alike.append(weakref.ref(made))
        return made

    def value(self, name: str, features: tuple[int, ...], view: View) -> Any:
        """A new value, planned before, under the axes of `view`, whose last one holds its features."""
        return self.tensor(view.with_value(name, (*view.axes[:-1], tuple(f for f in features if f > 1))))


def _as_rows(value: Any) -> Any:
    """With the number of rows in place of what has been computed from lengths."""
    if isinstance(value, (tuple, list)):
        return type(value)(map(_as_rows, value))
    return int(value.seen.size(0)) if isinstance(value, Lengths) else value


def undo(name: str) -> str:
    """A function's name without what marks it as a method of Python's, or as one in place."""
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        return name[1:] if name[:1] == "i" and name[1:] in FUNCTIONS else name
    return name.removesuffix("_")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What is in a nested result, and where."""
    if isinstance(value, (tuple, list)) and not isinstance(value, PackedSequence):
        for place, each in enumerate(value):
            yield from leaves(each, (*path, place))
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*path, key))
    else:
        yield path, value


def traced(value: Any) -> bool:
    """Whether it, or something in it, is a tensor of a recording."""
    return any(isinstance(each, Traced) for each in _flat(value))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


def _recording(value: Any) -> Recording:
    return next(each.recording for each in _flat(value) if isinstance(each, Traced))


@contextmanager
def recorded(recording: Recording, root: torch.nn.Module) -> Iterator[None]:
    """While this lasts, calls of modules of `root` with tensors of a recording are followed."""
    names = {id(module): name for name, module in root.named_modules()}
    _one_at_a_time.acquire()
    plain = torch.nn.Module.__call__

    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        if id(module) not in names or not traced((args, kwargs)):
            return plain(module, *args, **kwargs)
        before, graph = recording.graph.place, recording.graph
        graph.place, graph.operation = names[id(module)] or before, type(module).__name__
        handler = MODULES.get(kind_of(module))
        if handler is not None:
            _run_hooks(module, args)
            result = handler(recording, module, *args, **kwargs)
        else:
            result = plain(module, *args, **kwargs)
        recording.seen[graph.place] = {
            path: each.seen
            for path, each in leaves(result)
            if isinstance(each, Traced) and not isinstance(each, Lengths)
        }
        graph.place = before
        return result

    torch.nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.nn.Module.__call__ = plain  # type: ignore[method-assign]
        _one_at_a_time.release()


def _run_hooks(module: Any, args: Any) -> None:
    """Those that compute a parameter anew; others may do anything."""
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if type(hook).__name__ not in ("WeightNorm", "SpectralNorm"):
            raise Refusal(f"has a hook, {hook}")
        hook(module, args)


def kind_of(module: torch.nn.Module) -> type:
    """Its class, before parametrisations."""
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return torch.jit.ScriptModule
    return kind.__bases__[0] if torch.nn.utils.parametrize.is_parametrized(module) else kind


def input_value(features: tuple[int, ...], time: bool, integer: bool) -> Value:
    """An input of the model; a step of one number has one feature, a step of an integer has none."""
    return Value(features or (() if integer else (1,)), time, integer)
