"""The module of torch.nn or recurra.torch that is a recurrent layer."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from ... import torch as modules
from ..._cells import (
    DIFFERENTIAL_ORDERS,
    differential_cell,
    gru_cell,
    indrnn_cell,
    lstm_cell,
    min_gru_cell,
    min_lstm_cell,
    multiplicative_lstm_cell,
    rnn_cell,
    slstm_cell,
    sru_cell,
)
from ...activation import CORE_NAMES, FUNCTIONS, Activation

if TYPE_CHECKING:
    from ...recurrent import Recurrent

__all__ = ["recurrent_module"]


def recurrent_module(layer: Recurrent, batch_first: bool) -> Any:
    """The module, with the layer's parameters.

    Raises:
        ValueError: there is none; the text says what is missing.
    """
    if layer.precision is not None or layer.device != "cpu":
        raise ValueError(f"expected a layer in full precision on the CPU, got {layer}")
    name, options = _choice(layer.cell, dict(layer.constants or {}))
    shape: dict[str, Any] = {n: getattr(layer, n) for n in ("input_size", "hidden_size", "num_layers", "bias")}
    shape |= {"batch_first": batch_first, "bidirectional": layer.bidirectional, **options}
    shape["dropout"] = layer.dropout if layer.num_layers > 1 else 0.0
    shape |= {"proj_size": layer.proj_size} if layer.proj_size else {}
    own: dict[str, Any] = {"initial_state": layer.initial_state, "zoneout": layer.zoneout, "proj_bias": layer.proj_bias}
    own |= {"recurrent_dropout": layer.recurrent_dropout}
    own = {option: value for option, value in own.items() if value}
    own |= {"heads": layer.heads} if layer.heads > 1 else {}
    own |= {"direction": "reverse"} if layer.direction == "reverse" else {}
    plain = layer.cell in ("lstm", "lstm_projected", "gru", "rnn_tanh", "rnn_relu") and not own
    library: Any = torch.nn if plain and not layer.constants else modules
    dtype = torch.float64 if str(layer.dtype) == "float64" else torch.float32
    module = getattr(library, name)(**shape, **own, dtype=dtype)
    module.load_state_dict({n: torch.from_numpy(array) for n, array in layer.state_dict().items()})
    return module


def _choice(cell: str, constants: dict[str, float]) -> tuple[str, dict[str, Any]]:
    """The class that has a cell, and its options for that and for constants."""
    if cell.endswith("_general"):
        return _general(cell.removesuffix("_general"), constants)
    name, options = _named().get(cell, (None, {}))
    if name is None:
        raise ValueError(f"no module has the cell {cell!r}")
    rest = dict(constants)
    if name == "LSTM" and "cell_clip" in rest:
        options = {**options, "cell_clip": rest.pop("cell_clip")}
    if rest:
        raise ValueError(f"no module has the constants {sorted(rest)} of the cell {cell!r}")
    return name, options


def _named() -> dict[str, tuple[str, dict[str, Any]]]:
    """Cells to the class and options that have them."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for coupled, peephole, projected in itertools.product(
        (False, "i_from_f", "f_from_i"), (False, True), (False, True)
    ):
        found[lstm_cell(coupled, peephole, projected)] = "LSTM", {"coupled": coupled, "peephole": peephole}
    found |= {cell: (name, {k: v for k, v in options.items() if v}) for cell, (name, options) in found.items()}
    for reset, update in itertools.product(("after", "before"), ("keep", "write")):
        changed = {"reset": reset, "update": update} if (reset, update) != ("after", "keep") else {}
        found[gru_cell(reset, update)] = "GRU", changed
    found |= {"lstm_layer_norm": ("LSTM", {"layer_norm": True}), "gru_layer_norm": ("GRU", {"layer_norm": True})}
    found |= {rnn_cell(f): ("RNN", {"nonlinearity": f}) for f in ("tanh", "relu", "sigmoid")}
    found |= {indrnn_cell(f): ("IndRNN", {"nonlinearity": f}) for f in ("relu", "tanh")}
    found |= {sru_cell(f): ("SRU", {"nonlinearity": f}) for f in ("identity", "tanh")}
    found |= {slstm_cell(f): ("SLSTM", {"forget": f}) for f in ("sigmoid", "exp")}
    found |= {min_gru_cell(c): ("MinGRU", {"candidate": c}) for c in ("linear", "positive")}
    found |= {min_lstm_cell(c): ("MinLSTM", {"candidate": c}) for c in ("linear", "positive")}
    found |= {differential_cell(o, True): ("DifferentialRNN", {"orders": o}) for o in DIFFERENTIAL_ORDERS}
    for form, bias_at in (("standard", "candidate"), ("paper", "candidate"), ("paper", "output")):
        options = {"form": form, "bias_at": bias_at}
        found[multiplicative_lstm_cell(form, bias_at)] = "MultiplicativeLSTM", options
    return found


def _general(cell: str, constants: dict[str, float]) -> tuple[str, dict[str, Any]]:
    """The same for a cell whose activations are constants."""
    options = {"clip": constants["clip"]} if "clip" in constants else {}
    if cell == "rnn":
        return "RNN", {"nonlinearity": _activations(constants, "f", "sigmoid"), **options}
    name, own = _choice(cell, {n: v for n, v in constants.items() if n == "cell_clip"})
    options |= own | {"recurrent_activation": _activations(constants, "f", "sigmoid")}
    options["activation"] = _activations(constants, "g", "tanh")
    if name == "LSTM":
        options["output_activation"] = _activations(constants, "h", "tanh")
    return name, options


def _activations(constants: dict[str, float], letter: str, default: str) -> Any:
    """One activation, or those of both directions where the second has others."""
    one = _activation(constants, letter, "", Activation(default))
    other = _activation(constants, letter, "_reverse", one)
    return one if one == other else (one, other)


def _activation(constants: dict[str, float], letter: str, end: str, default: Activation) -> Activation:
    if f"{letter}{end}" not in constants:
        return default
    core = CORE_NAMES[int(constants[f"{letter}{end}"])]
    values = {n: constants.get(f"{letter}_{n}{end}", 0.0) for n in ("alpha", "beta")}
    for name, function in FUNCTIONS.items():
        fixed = {n: getattr(function, n) for n in values if n not in function.parameters}
        if function.core == core and all(values[n] == value for n, value in fixed.items()):
            return Activation(name, **{n: values[n] for n in function.parameters})
    raise ValueError(f"no activation is {core} with {values}")
