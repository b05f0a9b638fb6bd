"""Parameters by torch's names: what they say about a network, and whether they are all there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ._arrays import as_array, detached
from ._cells import Cell, Sizes
from ._options import float_dtype, mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np

T = TypeVar("T")


def inferred(cell: Cell, params: Mapping[str, Any], gpu: int | None, direction: str) -> tuple[Sizes, np.dtype[Any]]:
    """What names and shapes say about the network; whether they all agree `checked_parameters` finds out."""
    needed = ["weight_ih_l0"] + ["weight_hh_l0"] * cell.recurrent_product
    for name in needed:
        if name not in params:
            raise ValueError(f"params: expected {name} among the names, got {_listed(params)}")
    found = [_shape_and_dtype(f"params {name}", detached(params[name]), gpu) for name in needed]
    weight_ih, dtype = found[0]
    weight_hh = found[-1][0]
    gates = len(cell.gates)
    if len(weight_ih) != 2 or 0 in weight_ih or weight_ih[0] % gates:
        expected = f"shape [{gates}*H, I] for {cell.name!r}"
        raise ValueError(f"params weight_ih_l0: expected {expected}, got {list(weight_ih)}")
    hidden = weight_ih[0] // gates
    if len(weight_hh) != 2 or 0 in weight_hh:
        raise ValueError(f"params weight_hh_l0: expected a matrix, got shape {list(weight_hh)}")
    names, layers = set(params), 1
    while f"weight_ih_l{layers}" in names or f"weight_hh_l{layers}" in names:
        layers += 1
    if direction == "reverse" and "weight_ih_l0_reverse" in params:
        raise ValueError("direction: expected 'bidirectional' with parameters of two directions, got 'reverse'")
    sizes = Sizes(
        input=weight_ih[1],
        hidden=hidden,
        output=weight_hh[1] if cell.projected else hidden,
        layers=layers,
        directions=2 if "weight_ih_l0_reverse" in params or direction == "bidirectional" else 1,
        bias=any(f"{name}_l0" in params for name, *_, is_bias in cell.params if is_bias and name != "bias_hr"),
        reverse=direction == "reverse",
        initial_state="h_0" in params,
        proj_bias=cell.projected and "bias_hr_l0" in params,
        heads=hidden // weight_hh[1] if cell.has_heads and hidden % weight_hh[1] == 0 else 1,
    )
    return sizes, float_dtype("params weight_ih_l0", dtype)


def _shape_and_dtype(name: str, value: Any, gpu: int | None) -> tuple[tuple[int, ...], np.dtype[Any] | str]:
    if gpu is not None:
        from .cuda.arrays import on_gpu, view

        if on_gpu(value):
            array = view(name, value, ("float32", "float64"), ("any", "any"), device=gpu)
            return array.shape, array.dtype
    host = as_array(name, value)
    return host.shape, host.dtype


def checked_parameters(
    title: str,
    params: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str, Any, tuple[int, ...]], T],
) -> dict[str, T]:
    """Exactly the parameters in `shapes`, as they are read; one ValueError lists everything that does not fit."""
    params = mapping(title, params)
    found, problems = {}, []
    if missing := [name for name in shapes if name not in params]:
        problems.append(f"missing: {_listed(missing)}")
    if unexpected := [name for name in params if name not in shapes]:
        problems.append(f"unexpected: {_listed(unexpected)}")
    for name, shape in shapes.items():
        if name in params:
            try:
                found[name] = read(name, detached(params[name]), shape)
            except (TypeError, ValueError) as error:
                problems.append(str(error))
    if problems:
        raise ValueError(f"{title}: expected other parameters:\n  " + "\n  ".join(problems))
    return found


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
