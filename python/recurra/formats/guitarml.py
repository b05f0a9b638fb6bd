"""JSON files of GuitarML's plugins (Proteus, NeuralPi, SmartAmp): CoreAudioML's SimpleRNN, as its trainer saves it.

https://github.com/Alec-Wright/CoreAudioML
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._options import float_dtype, shown
from ..heads import Linear
from ..layers import GRU, LSTM, RNN
from ..model import Add, Model, Node, Select
from .json_text import entry, numbers, read, rounded
from .unsupported import UnsupportedModel

if TYPE_CHECKING:
    import os

    from numpy.typing import DTypeLike

__all__ = ["load_guitarml"]

_UNITS = {"LSTM": (LSTM, 4), "GRU": (GRU, 3), "RNN": (RNN, 1)}
_SIZES = ("input_size", "output_size", "hidden_size", "num_layers")


def load_guitarml(source: str | os.PathLike[str] | dict[str, Any], *, dtype: DTypeLike = "float32") -> Model:
    """The network in a JSON file of GuitarML: an LSTM, GRU or RNN, a Linear, and the input added to what comes out.

        >>> gru, head = recurra.GRU(1, 3), recurra.Linear(3, 1)
        >>> parts = {"rec": gru.state_dict(), "lin": head.state_dict()}
        >>> state = {f"{part}.{name}": a.tolist() for part, names in parts.items() for name, a in names.items()}
        >>> sizes = {"input_size": 1, "output_size": 1, "hidden_size": 3, "num_layers": 1, "skip": 1, "bias_fl": True}
        >>> file = {"model_data": {"model": "SimpleRNN", "unit_type": "GRU", **sizes}, "state_dict": state}
        >>> list(recurra.formats.guitarml.load_guitarml(file).layers)
        ['rec', 'lin', 'out']

    Values are [T, B, input_size], one step a sample; the sound is the first of the inputs, knobs are the others.

    Args:
        source: path of the file, or what JSON has been read as.
        dtype: float32 or float64, which the file's decimal numbers are rounded to.

    Raises:
        UnsupportedModel: another network or unit, or something unknown in it.
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    kind = float_dtype("dtype", dtype)
    found, where = read(source, "GuitarML")
    data = entry(where, found, "model_data", dict, "names and values")
    model = entry(where, data, "model", str, "text")
    if model != "SimpleRNN":
        raise UnsupportedModel(f"{where}: model: expected 'SimpleRNN', got {shown(model)}")
    for name in set(data) - {"model", "unit_type", "skip", "bias_fl", *_SIZES}:
        raise UnsupportedModel(f"{where}: model_data: {shown(name)} = {shown(data[name])} is not known")
    unit = entry(where, data, "unit_type", str, "text")
    if unit not in _UNITS:
        raise UnsupportedModel(f"{where}: unit_type: expected {', '.join(_UNITS)}, got {shown(unit)}")
    inputs, outputs, hidden, layers = (entry(where, data, name, int, "an integer") for name in _SIZES)
    skip = entry(where, data, "skip", int, "how many inputs are added to the outputs")
    with_bias = entry(where, data, "bias_fl", bool, "true or false")
    parameters = dict(entry(where, found, "state_dict", dict, "names and arrays"))
    if min(inputs, outputs, hidden, layers) < 1 or layers > len(parameters):
        raise ValueError(f"{where}: model_data: expected sizes of 1 and more, as of state_dict, got {shown(data)}")
    if skip not in (0, outputs) or skip > inputs:
        raise UnsupportedModel(f"{where}: skip: expected 0 or output_size={outputs}, got {skip} of {inputs} inputs")

    make, gates = _UNITS[unit]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        shapes[f"rec.weight_ih_l{layer}"] = (gates * hidden, hidden if layer else inputs)
        shapes[f"rec.weight_hh_l{layer}"] = (gates * hidden, hidden)
        shapes[f"rec.bias_ih_l{layer}"] = shapes[f"rec.bias_hh_l{layer}"] = (gates * hidden,)
    shapes["lin.weight"] = (outputs, hidden)
    shapes |= {"lin.bias": (outputs,)} if with_bias else {}
    if set(parameters) != set(shapes):
        raise ValueError(f"{where}: state_dict: expected {shown(sorted(shapes))}, got {shown(sorted(parameters))}")
    arrays = {name: numbers(f"{where}: {name}", parameters[name], *shape) for name, shape in shapes.items()}
    arrays = rounded(where, kind, **arrays)
    cell, linear = make(inputs, hidden, layers, dtype=kind), Linear(hidden, outputs, with_bias, dtype=kind)
    for part, prefix in ((cell, "rec."), (linear, "lin.")):
        part.load_state_dict({n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)})
    nodes = [Node(cell, name="rec"), Node(linear, name="lin")]
    if 0 < skip < inputs:
        nodes.append(Node(Select(list(range(skip))), ("x",), "sound"))
    if skip:
        nodes.append(Node(Add(), ("lin", "sound" if skip < inputs else "x"), "out"))
    return Model(nodes)
