"""Files of Neural Amp Modeler (.nam) whose network is an LSTM: https://github.com/sdatkinson/NeuralAmpModelerCore."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .._options import float_dtype, shown
from ..heads import Linear
from ..layers import LSTM
from ..model import Model
from .json_text import entry, numbers, read, rounded
from .unsupported import UnsupportedModel

if TYPE_CHECKING:
    import os

    from numpy.typing import DTypeLike

__all__ = ["load_nam"]

_SIZES = ("num_layers", "input_size", "hidden_size")


def load_nam(source: str | os.PathLike[str] | dict[str, Any], *, dtype: DTypeLike = "float32") -> Model:
    """The LSTM in a .nam file, of versions 0.5 to 0.7, with the initial state that it has learned.

        >>> sizes = {"input_size": 1, "hidden_size": 3, "num_layers": 1}
        >>> weights = [0.1] * (4 * 3 * (1 + 3) + 4 * 3 + 2 * 3 + 3 + 1)
        >>> file = {"version": "0.5.4", "architecture": "LSTM", "config": sizes, "weights": weights}
        >>> list(recurra.formats.nam.load_nam(file).layers)
        ['recurrent0', 'linear0']

    Values are [T, B, channels], one step a sample. What hosts do around the network is not part of it: they run half a
    second of silence through it first (`stream.run(zeros)`), and may normalise loudness by the file's metadata.

    Args:
        source: path of the file, or what JSON has been read as.
        dtype: float32 or float64, which the file's decimal numbers are rounded to.

    Raises:
        UnsupportedModel: another architecture, such as WaveNet, or another version.
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    kind = float_dtype("dtype", dtype)
    found, where = read(source, "NAM")
    architecture = entry(where, found, "architecture", str, "text")
    if architecture != "LSTM":
        raise UnsupportedModel(f"{where}: architecture: expected 'LSTM', got {shown(architecture)}")
    version = entry(where, found, "version", str, "text")
    if not re.fullmatch(r"0\.[567]\.\d{1,9}", version, re.ASCII):
        raise UnsupportedModel(f"{where}: version: expected 0.5 to 0.7, got {shown(version)}")
    config = entry(where, found, "config", dict, "names and values")
    for name in set(config) - {*_SIZES, "in_channels", "out_channels"}:
        raise UnsupportedModel(f"{where}: config: {shown(name)} = {shown(config[name])} is not known")
    layers, inputs, hidden = (entry(where, config, name, int, "an integer") for name in _SIZES)
    channels = entry(where, config, "in_channels", int, "an integer", 1)
    outputs = entry(where, config, "out_channels", int, "an integer", 1)
    if min(layers, inputs, hidden, outputs) < 1:
        raise ValueError(f"{where}: config: expected sizes of 1 and more, got {shown(config)}")
    if channels != inputs:
        raise UnsupportedModel(f"{where}: in_channels: expected input_size={inputs}, got {channels}")

    weights = entry(where, found, "weights", list, "a list of numbers")
    gates = 4 * hidden
    rest = gates * hidden + gates + 2 * hidden  # of a layer, without what reads its input
    count = gates * inputs + (layers - 1) * gates * hidden + layers * rest + outputs * hidden + outputs
    flat = iter(np.split(numbers(f"{where}: weights", weights, count), _cuts(layers, inputs, hidden, outputs)))
    # A layer's rows are its gates i, f, g, o; columns its input, then h.
    parts: dict[str, Any] = {"h_0": np.empty((layers, hidden)), "c_0": np.empty((layers, hidden))}
    for layer in range(layers):
        width = inputs if layer == 0 else hidden
        both = next(flat).reshape(gates, width + hidden)
        parts[f"weight_ih_l{layer}"], parts[f"weight_hh_l{layer}"] = both[:, :width], both[:, width:]
        parts[f"bias_ih_l{layer}"], parts[f"bias_hh_l{layer}"] = next(flat), np.zeros(gates)
        parts["h_0"][layer], parts["c_0"][layer] = next(flat), next(flat)
    lstm = LSTM(inputs, hidden, layers, initial_state=True, dtype=kind)
    lstm.load_state_dict(rounded(where, kind, **parts))
    head = Linear(hidden, outputs, dtype=kind)
    head.load_state_dict(rounded(where, kind, weight=next(flat).reshape(outputs, hidden), bias=next(flat)))
    return Model([lstm, head])


def _cuts(layers: int, inputs: int, hidden: int, outputs: int) -> list[int]:
    """Where each part of the weights ends, but for the last."""
    sizes = []
    for layer in range(layers):
        width = inputs if layer == 0 else hidden
        sizes += [4 * hidden * (width + hidden), 4 * hidden, hidden, hidden]
    return np.cumsum([*sizes, outputs * hidden]).tolist()  # type: ignore[no-any-return]
