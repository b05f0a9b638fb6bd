"""What a module of PyTorch may come from: itself, its parameters, files of both."""

from __future__ import annotations

import ast
import copy
import os
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import safetensors
from ..archive import read_parts
from ..unsupported import UnsupportedModel
from .check import check as check_model
from .load import follow

if TYPE_CHECKING:
    from ...model import Model

__all__ = ["load_torch"]

# In TorchScript: what runs while it is read, what reaches other files, and operators that are not torch's own.
_MORE_THAN_COMPUTES = re.compile(rb"\b(__setstate__|from_file|torch\.save)\b|\bops\.(?!prim\.|aten\.)\w+")


def load_torch(
    source: Any,
    *,
    module: torch.nn.Module | None = None,
    example: Any = None,
    check: bool = True,
) -> Model:
    """The `recurra.Model` that computes what a module of PyTorch computes in evaluation.

        >>> layers = torch.nn.Linear(12, 32), torch.nn.ReLU(), torch.nn.Linear(32, 9)
        >>> model = recurra.formats.torch.load_torch(torch.nn.Sequential(*layers))
        >>> model.parameter_count
        713

    The module's own forward is run once, with tensors that carry no numbers and record what is done to them; so it may
    be written as one likes, as long as nothing it does depends on numbers or on the sizes of batch and time. What each
    axis is follows from that: a model takes [T, B, ...], or [B, T, ...] where the module's first sequence has the batch
    before time ([batch, features, time] counts as such). Recurrent layers that the module starts from arguments start
    from `state=` of the model's call, and final states that it returns beside an output are what `return_state=True`
    gives; lengths that sequences are packed by are the model's `lengths`. Inputs that have a default keep it.

    Args:
        source: a torch.nn.Module, scripted and traced ones too; an ExportedProgram, if batch and time are dynamic in
            it, which recurrent layers do not let them be; a state_dict; the path of a file of TorchScript, or with
            `module` of a state_dict (.pt, .pth, .safetensors), which is read without executing anything in it.
        module: what parameters belong to, if the source is parameters. It is not changed. Names may have any prefix.
        example: an input of the module, or a tuple of all of them, where something about its axes cannot be told from
            the module alone; optional ones are given by giving them here, and what is no tensor stays as it is.
        check: whether both are run on random numbers at the end, which have to agree to 1e-4.

    Raises:
        UnsupportedModel: the module does something that no layer or operation of recurra does, named with the place
            where; or both differ, and where first.
        TypeError, ValueError: the source is nothing of this kind, or parameters do not fit the module.
    """
    found = _module(source, module)
    given = None if example is None else example if isinstance(example, tuple) else (example,)
    if any(each.device.type != "cpu" for each in (*found.parameters(), *found.buffers())):
        raise ValueError("source: expected a module on the CPU, got one elsewhere; move it there with .cpu()")
    try:
        followed = follow(found, given)
        if check:
            check_model(found, followed)
    except (ValueError, TypeError, MemoryError, ImportError):
        raise
    except Exception as error:
        if not isinstance(found, torch.jit.ScriptModule):
            raise
        first = str(error).strip().partition("\n")[0][:200]  # of a damaged file it is anything
        raise UnsupportedModel(f"torch: a damaged script: {type(error).__name__}: {first}") from error
    return followed.model


def _module(source: Any, module: Any) -> Any:
    """The module that a source is, or holds, or has the parameters of."""
    if module is not None and not isinstance(module, torch.nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    if isinstance(source, (str, os.PathLike)):
        source = _read(Path(source))
    if isinstance(source, torch.export.ExportedProgram):
        source = source.module(check_guards=False)  # which compare sizes
    source = getattr(source, "_orig_mod", source)  # of torch.compile
    if isinstance(source, torch.nn.Module):
        if module is not None:
            raise ValueError("module: expected None, for the source is a module itself")
        return source
    if not isinstance(source, Mapping):
        raise TypeError(f"source: expected a torch.nn.Module, a state_dict or a path, got {type(source).__name__}")
    if module is None:
        raise ValueError("module: expected the torch.nn.Module that these parameters belong to, got None")
    return _with_parameters(module, source)


def _read(path: Path) -> Any:
    """A module or a state_dict."""
    with path.open("rb") as file:
        start = file.read(4)
    if path.suffix == ".safetensors":
        return {name: torch.from_numpy(np.array(array)) for name, array in safetensors.read(path)[1].items()}
    if start == b"PK\x03\x04" and _is_script(path):
        try:
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call,unused-ignore]
        except Exception as error:  # of zip, pickle and TorchScript's parser alike
            first = str(error).strip().partition("\n")[0][:200]
            raise UnsupportedModel(f"torch: {path}: a damaged file of TorchScript: {first}") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip and torch alike
        raise UnsupportedModel(
            f"torch: {path}: holds more than parameters, and reading that would execute it; save the module's "
            f"state_dict() instead ({type(error).__name__})"
        ) from error
    return found


def _is_script(path: Path) -> bool:
    """Whether an archive is one of TorchScript; code that does more than compute is refused unread."""
    try:
        parts = read_parts(path, lambda name: name.endswith((".py", ".pkl")))
        if not any(name.endswith("/constants.pkl") for name in parts):
            return False
        for name, content in parts.items():
            if content is not None and name.endswith(".py"):
                _check_code(name, content)
            elif content is not None and name.endswith(".pkl"):
                _check_pickle(content)
    except ValueError as error:
        raise UnsupportedModel(f"torch: {path}: {error}") from None
    return True


def _check_code(name: str, code: bytes) -> None:
    """TorchScript has the grammar of Python, and PyTorch crashes on some of what has not, `x[]` for one; and where a
    function returns an empty list whose type it does not say, as `annotate(List[int], [])` does."""
    if found := _MORE_THAN_COMPUTES.search(code):
        raise ValueError(f"{name}: has {found.group().decode()}, which does more than compute")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in texts
            tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.List) and not node.value.elts:
                raise ValueError(f"an empty list without a type in line {node.lineno}")
    except Exception as error:  # of syntax, null bytes, depth
        raise ValueError(f"{name}: a damaged file of TorchScript: {str(error) or type(error).__name__}") from None


def _check_pickle(data: bytes) -> None:
    """TorchScript makes room for all that a pickle announces before it looks whether it is there."""
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name.endswith("BINPUT") and argument is not None and argument >= len(data):
                raise ValueError(f"a pickle of {len(data)} bytes numbers an object {argument}")
    except Exception as error:  # of what an opcode's argument is parsed by
        raise ValueError(f"a damaged archive: {error}") from None


def _with_parameters(module: torch.nn.Module, found: Mapping[str, Any]) -> torch.nn.Module:
    """A copy of a module with these parameters, whose names may have anything in front."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found.get(key), Mapping):
            found = found[key]
    state = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    wanted = list(module.state_dict())
    prefixes = {name[: -len(wanted[0])] for name in state if name.endswith(wanted[0])} if wanted else {""}
    fitting = [p for p in prefixes if all(p + name in state for name in wanted)]
    if len(fitting) > 1 and "" in fitting:
        fitting = [""]
    if len(fitting) != 1:
        missing = [name for name in wanted if name not in state]
        if len(fitting) > 1:
            raise ValueError(f"source: parameters fit with each of the prefixes {sorted(fitting)}; give one alone")
        raise ValueError(f"source: expected the module's parameters, missing {missing[:8]}, got {list(state)[:8]}")
    for each in module.modules():  # old weight_norm leaves what it has computed last, which cannot be copied
        for hook in each._forward_pre_hooks.values():
            if type(hook).__name__ in ("WeightNorm", "SpectralNorm"):
                with torch.no_grad():
                    hook(each, ())
    made = copy.deepcopy(module)
    own = {name.removeprefix(fitting[0]): v for name, v in state.items() if name.startswith(fitting[0])}
    try:
        made.load_state_dict(own if fitting[0] == "" else {name: own[name] for name in wanted}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"source: {error}") from None
    return made
