"""Layers of torch.nn that become recurra's where they stand, and the other way."""

from __future__ import annotations

from typing import Any

import torch

from .._cells import gru_cell, lstm_cell, rnn_cell
from .calls import NOT_PICKLED, CoreModule
from .cells import GRUCell, LSTMCell, RNNCell
from .modules import GRU, LSTM, RNN
from .tensors import check

__all__ = ["convert", "revert"]

_OURS = {getattr(torch.nn, ours.__name__): ours for ours in (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def convert(model: Any) -> Any:
    """Make each RNN, LSTM, GRU and their cells of torch.nn in a model recurra's, in place; returns the model.

        >>> model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.GRU(40, 128))
        >>> type(recurra.torch.convert(model)[1]) is recurra.torch.GRU
        True

    The modules stay the same objects: parameters, hooks, parametrisations, mode, attributes, and whatever refers to
    them. A model that holds none is returned as it is.

    Args:
        model: any torch.nn.Module, such a layer itself too.

    Raises:
        TypeError: `model` is no module; or, by its name, a layer that cannot be swapped: of a class derived from
            torch.nn's, which may compute something else, or with parameters that recurra cannot run. Nothing has been
            changed.
    """
    found = _found(model, torch.nn.RNNBase, torch.nn.RNNCellBase)
    swaps = [(module, _swapped(title, module, _OURS)) for title, module in found if not isinstance(module, CoreModule)]
    for title, module in found:
        for name, parameter in module.named_parameters(recurse=False):
            try:
                check(name, parameter)
            except (TypeError, ValueError) as error:
                raise TypeError(f"{title}: cannot become recurra's: {error}") from None
    for module, kind in swaps:
        module.__class__ = kind
        module._cell, module._constants = _cell_of(module), {}
        module._settle()
    return model


def revert(model: Any) -> Any:
    """Make each of recurra's modules in a model torch.nn's again, in place, for export say; returns the model.

        >>> type(recurra.torch.revert(recurra.torch.GRU(40, 128))) is torch.nn.GRU
        True

    The modules stay the same objects, as with `convert`.

    Args:
        model: any torch.nn.Module, such a layer itself too.

    Raises:
        TypeError: `model` is no module; or, by its name, a layer is of a class derived from recurra's. Nothing has been
            changed.
        ValueError: torch.nn has no layer that computes the same as one, which is named with what torch.nn lacks:
            another cell, cell_clip, zoneout, recurrent_dropout. Nothing has been changed.
    """
    found = _found(model, CoreModule)
    for title, module in found:
        if (reason := module._of_torch()) is not None:
            raise ValueError(f"{title}: torch.nn has no layer with {reason}")
    swaps = [(module, _swapped(title, module, _THEIRS)) for title, module in found]
    for module, kind in swaps:
        own = {"_cell", "_constants", *NOT_PICKLED, "recompute", "recurrent_dropout", "engine", "allow_tf32"}
        own |= {"zoneout", "peephole", "coupled", "cell_clip", "forget_bias", "reset", "update", "layer_norm"}
        own |= {"activation", "recurrent_activation", "output_activation", "clip"}
        for name in own & module.__dict__.keys():
            del module.__dict__[name]
        module.__class__ = kind
    return model


def _found(model: Any, *kinds: type) -> list[tuple[str, Any]]:
    """Modules of these kinds, each once, by what to call them."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    return [(name or "model", module) for name, module in model.named_modules() if isinstance(module, kinds)]


def _swapped(title: str, module: Any, kinds: dict[Any, Any]) -> Any:
    """The class to take the place of a module's own."""
    kind = type(module)
    if kind in kinds:
        return kinds[kind]
    if torch.nn.utils.parametrize.is_parametrized(module) and kind.__bases__[0] in kinds:
        # torch.nn.utils.parametrize has made a class for this module, whose properties are its parametrised tensors.
        members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        return type(kind.__name__, (kinds[kind.__bases__[0]],), members)
    expected = ", ".join(f"{each.__module__.partition('.modules')[0]}.{each.__name__}" for each in kinds)
    raise TypeError(
        f"{title}: expected one of {expected}, got {kind.__module__}.{kind.__qualname__}, derived from them"
    )


def _cell_of(module: Any) -> str:
    if isinstance(module, (LSTM, LSTMCell)):
        return lstm_cell(False, False, bool(getattr(module, "proj_size", 0)))
    if isinstance(module, (GRU, GRUCell)):
        return gru_cell("after", "keep")
    return rnn_cell(module.nonlinearity)
