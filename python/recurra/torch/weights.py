"""A module's parameters as the core wants them. A call uses the values they have at that moment, however they got them.

one step of one row, without gradients: read where PyTorch keeps them, nothing is packed (`OneStep`);
any other call: packed at the first one, and again when a fingerprint of their values is another (`Weights`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import _core, functional
from .._arrays import contiguous
from .._cells import CELLS, Regularization, Sizes, present
from .._options import FLOAT_DTYPES
from .tensors import as_array

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["OneStep", "Weights"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not

# Packed weights of a module of more bytes go when a backward is over: on them hang as many for going back, and the next
# call will most likely find other values. Smaller ones stay, for the sake of the workspace that they hand on.
_LARGE = 4 << 20

_KINDS = (torch.Tensor, torch.nn.Parameter)


class _Entry(NamedTuple):
    fingerprint: bytes
    packed: functional.Packed


class Weights:
    """Packed parameters of a module: of all its layers in one, or of each, but never both."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}

    def packed(
        self,
        layer: int,
        cell: str,
        constants: Mapping[str, float],
        rates: Regularization,
        direction: str,
        names: Sequence[str],
        tensors: Sequence[Tensor],
    ) -> functional.Packed:
        """These parameters of a layer, or of all for -1, packed anew if a value has changed.

        Version counters and addresses would tell sooner, but neither changes when p.data.mul_() (as in target networks
        and moving averages), NumPy or another process writes to the memory.
        """
        arrays = {name: contiguous(as_array(tensor)) for name, tensor in zip(names, tensors, strict=True)}
        # Before packing: what is written meanwhile then differs from it at the next call.
        fingerprint = _core.fingerprint([a.ctypes.data for a in arrays.values()], [a.nbytes for a in arrays.values()])
        for other in list(self._entries):  # a copy: other threads may be here too
            if (other < 0) != (layer < 0):
                self._entries.pop(other, None)
        entry = self._entries.get(layer)
        found = None if entry is None else entry.packed
        if found is not None and (found.regularization != rates or not _fits(found, arrays)):
            found = None
        if entry is None or found is None or entry.fingerprint != fingerprint:
            if found is None:
                found = functional.pack(cell, arrays, constants, None, rates, direction=direction)
            else:
                found = found.with_parameters(arrays)  # which keeps the workspace
            self._entries[layer] = _Entry(fingerprint, found)
        return found

    def went_back(self) -> None:
        """A tape has been used up."""
        if sum(entry.packed.network.weight_bytes for entry in list(self._entries.values())) > _LARGE:
            self._entries.clear()


def _fits(packed: functional.Packed, arrays: Mapping[str, Any]) -> bool:
    return all(array.dtype == packed.dtype and array.shape == packed.shapes[name] for name, array in arrays.items())


class OneStep:
    """One step of one row through a module, without gradients: ready made, because checks would take longer than it."""

    def __init__(self, cell: str, constants: Mapping[str, float], sizes: Sizes, dtype: Any) -> None:
        spec, self.dtype = CELLS[cell], dtype
        lanes, count = sizes.layers * sizes.directions, len(spec.params)
        self._shapes = tuple(spec.shapes(sizes).values())
        there = [i for i, (name, *_, is_bias) in enumerate(spec.params) if present(name, is_bias, sizes)]
        self._places = [lane * count + i for lane in range(lanes) for i in there]
        self._addresses = lanes * count  # the core's list has absent biases too
        numpy_dtype = next(name for name in FLOAT_DTYPES.values() if f"torch.{name}" == str(dtype))
        values = list(spec.constant_values(constants, numpy_dtype, sizes.directions).values())
        self._run = _core.StepInPlace(
            cell, numpy_dtype, sizes.input, sizes.hidden, sizes.output, sizes.layers, sizes.directions, values
        ).run
        self._releases = sum(rows * (columns[0] if columns else 1) for rows, *columns in self._shapes) > 400_000

    def __call__(
        self,
        x: Tensor,
        state: Sequence[Tensor] | None,
        params: Sequence[Tensor],
        shapes: tuple[Any, Any, list[Any]],
    ) -> list[Tensor] | None:
        """[y, *final states], or None, and nothing done, where a tensor is not as plain as can be.

        Args:
            shapes: of x, of y (None: it is not wanted), of each state.
        """
        x_shape, y_shape, state_shapes = shapes
        dtype = self.dtype
        if not _is_plain(x, dtype, x_shape):
            return None
        for param, shape in zip(params, self._shapes, strict=True):
            if not _is_plain(param, dtype, shape):
                return None
        if state is not None:
            for part, shape in zip(state, state_shapes, strict=True):
                if not _is_plain(part, dtype, shape):
                    return None
        final = [x.new_empty(shape) for shape in state_shapes]
        y = final[0] if y_shape is None else x.new_empty(y_shape)
        if type(y) is not torch.Tensor:
            return None
        if self._releases:  # the GIL: another thread may give a parameter other memory, and these keep the old
            x, params = x.detach(), [param.detach() for param in params]
            state = None if state is None else [part.detach() for part in state]
        start, given = x.data_ptr(), [param.data_ptr() for param in params]
        initial = None if state is None else [part.data_ptr() for part in state]
        if not (start and all(given) and all(initial or ())):  # none behind it: see `tensors.check`
            return None
        addresses = [0] * self._addresses
        for place, address in zip(self._places, given, strict=True):
            addresses[place] = address
        self._run(start, addresses, initial, y.data_ptr(), [part.data_ptr() for part in final])
        return [y, *final]


def _is_plain(tensor: Any, dtype: Any, shape: Any) -> bool:
    """Whether its numbers lie in memory as it says, one after another."""
    return (
        type(tensor) in _KINDS
        and tensor.layout is torch.strided
        and tensor.dtype is dtype
        and tensor.is_cpu
        and tensor.shape == shape
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )
