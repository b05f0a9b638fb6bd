"""Keras's calls of layers one after the other: which tensors go into each, and which masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .builder import UNSURE, Source, Tensor, Undecided
from .layers import LAYERS, Call
from .source import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .builder import Builder
    from .source import Layer

__all__ = ["inputs_of", "run"]


class _MaskOf(NamedTuple):
    """What one of Keras's operations on masks gives."""

    source: Source | None  # None: all steps are there
    neutral: bool = False  # of zeros_like: it adds nothing to an `or`


def run(b: Builder, model: Layer, inputs: Sequence[Any]) -> list[Any]:
    """The output tensors of a model for its inputs."""
    if model.kind == "Sequential":
        tensors = list(inputs)
        for layer in model.parts.values():
            if layer.kind != "InputLayer":
                tensors = apply(b, layer, tensors, {})
                if len(tensors) != 1:
                    raise ValueError(f"{layer}: expected one output in a Sequential, got {len(tensors)}")
        return tensors
    found = _Calls(b.version, model)
    names = [name for name, *_ in _histories(model.config.get("input_layers"), model)]
    if len(names) != len(inputs):
        raise ValueError(f"{model}: expected {len(names)} inputs, got {len(inputs)}")
    found.update({(name, 0): [tensor] for name, tensor in zip(names, inputs, strict=True)})
    waiting = [(part, i, call) for part in model.parts.values() for i, call in enumerate(part.calls)]
    waiting = [each for each in waiting if each[0].kind != "InputLayer"]
    while waiting:
        later = []
        for layer, number, call in waiting:
            arguments = _arguments(layer, call, found)
            if arguments is None:
                later.append((layer, number, call))
            else:
                found[layer.name, number] = apply(b, layer, *arguments)
        if len(later) == len(waiting):
            raise ValueError(f"{model}: expected calls that follow from its inputs, got {waiting[0][0]} in a circle")
        waiting = later
    outputs = []
    for name, number, index in _histories(model.config.get("output_layers"), model):
        outputs.append(found.tensor(name, number, index, True))
        if outputs[-1] is None:
            raise ValueError(f"{model}: expected outputs of its layers, got {name!r}")
    return outputs


def inputs_of(b: Builder, model: Layer) -> list[Undecided]:
    """The inputs of the outermost model."""
    if model.kind == "Sequential":
        first = next(iter(model.parts.values()), None)
        if first is None:
            raise ValueError(f"{model}: expected layers, got none")
        while first.kind in MODELS and first.parts and _batch_shape(first) is None:
            first = next(iter(first.parts.values()))
        shape = _batch_shape(first) or model.config.get("build_input_shape")
        name = first.name if first.kind == "InputLayer" else "x"
        return [b.input(name, _dims(model, shape))]
    layers = {layer.name: layer for layer in model.parts.values()}
    names = [name for name, *_ in _histories(model.config.get("input_layers"), model)]
    if missing := [name for name in names if name not in layers]:
        raise ValueError(f"{model}: expected inputs that are layers of it, got {missing}")
    return [b.input(name, _dims(layers[name], _batch_shape(layers[name]))) for name in names]


def _batch_shape(layer: Layer) -> Any:
    if layer.config.get("sparse") or layer.config.get("ragged"):
        raise layer.refuse("sparse, ragged: expected a dense input")
    return layer.config.get("batch_shape", layer.config.get("batch_input_shape"))


def _dims(layer: Layer, shape: Any) -> tuple[int | None, ...]:
    """A shape without the batch."""
    if not isinstance(shape, (list, tuple)) or not shape:
        raise ValueError(f"{layer}: expected the shape of its input, got {shape!r}")
    for size in shape:
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"{layer}: expected a shape of sizes, got {shape!r}")
    return tuple(shape[1:])


def _histories(tree: Any, model: Layer, depth: int = 0) -> Iterator[tuple[str, int, int]]:
    """The tensors that stand for a model's inputs or outputs, which may be one, a list or a dict."""
    if isinstance(tree, list) and len(tree) == 3 and isinstance(tree[0], str):
        yield _history(tree, model)
    elif isinstance(tree, list) and depth < 8:
        for each in tree:
            yield from _histories(each, model, depth + 1)
    elif isinstance(tree, dict) and depth < 8:
        for key in sorted(tree):
            yield from _histories(tree[key], model, depth + 1)
    else:
        raise ValueError(f"{model}: expected names of layers, got {str(tree)[:80]}")


def _history(value: Any, layer: Layer) -> tuple[str, int, int]:
    name, *numbers = value if isinstance(value, list) and len(value) == 3 else (None,)
    if not isinstance(name, str) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise ValueError(f"{layer}: expected a layer, a call and an output, got {str(value)[:80]}")
    return name, numbers[0], numbers[1]


# ------------------------------------------------------------------------------------------------------------ calls


class _Calls(dict[tuple[str, int], list[Any]]):
    """Outputs of a model's calls, by layer and number of the call."""

    def __init__(self, version: int, model: Layer) -> None:
        self.version = version
        self.layers = {layer.name: layer for layer in model.parts.values()}

    def tensor(self, name: str, number: int, index: int, output: bool = False) -> Any:
        """An output of a call, if that has been made, as other calls or the model's outputs name it."""
        layer = self.layers.get(name)
        if layer is not None and self._counts_making(layer, output):
            number = max(number - 1, 0)
        outputs = self.get((name, number))
        if outputs is None:
            return None
        if index >= len(outputs):
            raise ValueError(f"expected an output of {name!r} below {len(outputs)}, got {index}")
        return outputs[index]

    def _counts_making(self, layer: Layer, output: bool) -> bool:
        """Whether call 0 of a nested model is that which made it, which no file holds."""
        if layer.kind not in MODELS or (self.version == 3 and (not output or layer.kind == "Sequential")):
            return False
        first = next(iter(layer.parts.values()), None)
        return layer.kind != "Sequential" or (first is not None and first.kind == "InputLayer")


class _Missing(Exception):  # noqa: N818
    """A tensor has not been made yet."""


def _arguments(layer: Layer, call: Any, found: _Calls) -> tuple[list[Any], dict[str, Any]] | None:
    """Tensors and constants in the order of a call's arguments, and its options; None if it is too early."""

    def get(value: Any) -> Any:
        made = found.tensor(*_history(value, layer))
        if made is None:
            raise _Missing
        return made

    def revived(value: Any, depth: int = 0) -> Any:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            return get(value["config"]["keras_history"])
        if isinstance(value, (list, tuple)) and depth < 8:
            return [revived(each, depth + 1) for each in value]
        return value

    try:
        if isinstance(call, dict):
            options = {name: revived(value) for name, value in dict(call.get("kwargs", {})).items()}
            return _flat(revived(call.get("args", []))), options
        if not isinstance(call, list):
            raise ValueError(f"{layer}: expected a call, got {str(call)[:80]}")
        if call and isinstance(call[0], str):  # a call on one tensor alone, as Keras 2 has it at times
            call = [call]
        options = {}
        tensors = []
        for each in call:  # Keras 2: [layer, call, output, options]
            if not isinstance(each, list) or len(each) not in (3, 4):
                raise ValueError(f"{layer}: expected a call, got {str(each)[:80]}")
            tensors.append(get(each[:3]))
            options |= each[3] if len(each) == 4 and isinstance(each[3], dict) else {}
        return tensors, {name: _old_option(value, get) for name, value in options.items()}
    except _Missing:
        return None


def _old_option(value: Any, get: Any) -> Any:
    """An option of a call in Keras 2, where tensors are [layer, call, output]."""
    if isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str):
        return get(value[:3])
    if isinstance(value, list):
        return [_old_option(each, get) for each in value]
    return value


def _flat(tree: Any) -> list[Any]:
    return [leaf for each in tree for leaf in _flat(each)] if isinstance(tree, list) else [tree]


def apply(b: Builder, layer: Layer, arguments: list[Any], options: dict[str, Any]) -> list[Any]:
    """The tensors that come out of a call of a layer."""
    if (made := _mask_operation(layer, arguments)) is not None:
        return [made]
    if any(isinstance(each, _MaskOf) for each in arguments):
        raise layer.refuse("it computes with a mask")
    if layer.kind in MODELS:
        given = {n: v for n, v in options.items() if v is not None and n not in ("training", "mask")}
        if given:
            raise layer.refuse(f"{sorted(given)[0]}: expected a call on tensors alone")
        return run(b, layer, arguments)
    if layer.kind not in LAYERS:
        raise layer.refuse("there is no such layer here")
    mask = options.get("mask")
    masks = [each for each in _flat(mask if isinstance(mask, list) else [mask]) if each is not None]
    if any(not isinstance(each, _MaskOf) for each in masks):
        raise layer.refuse("mask: expected one that a layer before it made, got a tensor")
    if options.get("training") not in (None, False, 0):
        raise layer.refuse(f"training: expected False, got {options['training']!r}")
    states = _flat(options.get("initial_state")) if options.get("initial_state") is not None else []
    for name, value in options.items():
        if name not in ("mask", "training", "initial_state") and value is not None:
            raise layer.refuse(f"{name}: expected a call without it")
    tensors = [b.settled(each, layer, layer.kind == "Embedding") if _is_tensor(each) else each for each in arguments]
    states = [b.settled(each, layer) if _is_tensor(each) else each for each in states]
    # Written out as none, though tensors with and without one came together before: then Keras found none.
    none = "mask" in options and mask is None and _is_tensor(tensors[0]) and tensors[0].mask is UNSURE
    call = Call(layer, tensors, states, masks[0].source if masks else None, bool(masks) or none)
    if layer.operation:  # masks stop there
        tensors = [call._replace(tensors=[each]).unmasked if isinstance(each, Tensor) else each for each in tensors]
        call = call._replace(tensors=tensors)
    return LAYERS[layer.kind](b, call)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (Tensor, Undecided))


# ------------------------------------------------------------------------------------------------------------ masks


def _mask_operation(layer: Layer, arguments: list[Any]) -> _MaskOf | None:
    """What a functional model computes of its masks, which Keras 3 writes out as operations."""
    first: Any = arguments[0] if arguments else None
    if layer.kind == "NotEqual" and len(arguments) == 2 and _is_tensor(first):
        value = arguments[1]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _MaskOf(Source(first.name, float(value)))
    if layer.kind in ("ZerosLike", "OnesLike") and len(arguments) in (1, 2):
        return _MaskOf(None, layer.kind == "ZerosLike")
    if not arguments or not all(isinstance(each, _MaskOf) for each in arguments):
        return None
    if layer.kind in ("Any", "ExpandDims", "Squeeze") and len(arguments) == 1:
        return first  # type: ignore[no-any-return]
    if layer.kind in ("LogicalOr", "Concatenate"):
        others = {each for each in arguments if not each.neutral}
        if _MaskOf(None) in others:
            return _MaskOf(None)
        if len(others) == 1:
            only: _MaskOf = others.pop()
            return only
        raise layer.refuse("it joins masks of different origin")
    return None
