"""A network on a GPU, called with buffers: what `python -m recurra cuda` and benchmarks try and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from .._cells import CELLS, Regularization, Sizes
from .buffers import Buffer, stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._arrays import Array

LEGACY_STREAM = 0


class Direct:
    """Weights on a GPU. Calls go to the legacy stream.

    Args:
        cell: one of `recurra.cells()`.
        sizes: of the network.
        params: full names to host arrays, of float64 for dtype "float64" and of float32 otherwise.
        constants: all that the cell has, by name.
    """

    def __init__(
        self,
        cell: str,
        sizes: Sizes,
        params: Mapping[str, Array],
        *,
        dtype: str = "float32",
        engine: str = "auto",
        constants: Mapping[str, float] | None = None,
        regularization: Regularization = Regularization(),  # noqa: B008  (immutable)
        allow_tf32: bool = False,
        device: int = 0,
    ) -> None:
        self.cell, self.sizes, self.dtype, self.device = CELLS[cell], sizes, dtype, device
        values = self.cell.constant_values(constants)
        self.network = _core.cuda.Network(
            cell,
            dtype,
            sizes.input,
            sizes.hidden,
            sizes.output,
            sizes.layers,
            sizes.directions,
            list(values.values()),
            list(regularization),
            device,
            engine,
            allow_tf32,
        )
        self.state_widths = [sizes.hidden if width == "hidden" else sizes.output for _, width in self.cell.states]
        given = {name: Buffer.of(array, device=device) for name, array in params.items()}
        self.network.set_parameters(self._addresses(given), LEGACY_STREAM)
        self._given = given  # until the GPU has read them

    def call(
        self,
        steps: int,
        rows: int,
        *,
        lengths: Sequence[int] | None = None,
        device_lengths: bool = False,
        training: bool = False,
        recompute: bool = False,
    ) -> Call:
        """Everything that calls of one shape need."""
        return Call(self, steps, rows, lengths, device_lengths, training, recompute)

    def _addresses(self, buffers: Mapping[str, Buffer]) -> list[list[int]]:
        lanes = self.cell.by_layer(self.sizes, buffers)
        return [[0 if buffer is None else buffer.pointer for buffer in lane] for lane in lanes]


class Call:
    """Buffers of a shape. After `forward`, `y` and `final` hold the results; after `backward`, `dx`, `d_initial` and
    `d_params` do. What is written begins as NaN."""

    def __init__(
        self,
        of: Direct,
        steps: int,
        rows: int,
        lengths: Sequence[int] | None,
        device_lengths: bool,
        training: bool,
        recompute: bool,
    ) -> None:
        self._of = of
        sizes, stack = of.sizes, of.sizes.layers * of.sizes.directions
        on_host = None if lengths is None or device_lengths else np.array(lengths, "int64")
        self.plan = of.network.plan(steps, rows, on_host, device_lengths, training, recompute)
        self._lengths = Buffer.of(np.array(lengths, "int32"), device=of.device) if device_lengths else None
        self.x_shape = (steps, rows, sizes.input)
        self.y_shape = (steps, rows, sizes.directions * sizes.output)
        self.state_shapes = [(stack, rows, width) for width in of.state_widths]
        self.y = self._poisoned(self.y_shape)
        self.final = [self._poisoned(shape) for shape in self.state_shapes]
        self._workspace = self._bytes(self.plan.workspace_bytes)
        self._tape = self._bytes(self.plan.tape_bytes)
        if training:
            self.dx = self._poisoned(self.x_shape)
            self.d_initial = [self._poisoned(shape) for shape in self.state_shapes]
            dtype = "float64" if of.dtype == "float64" else "float32"
            shapes = of.cell.shapes(sizes)
            self.d_params = {name: self._poisoned(shape, dtype) for name, shape in shapes.items()}
            self._addresses = of._addresses(self.d_params)
            self._backward_workspace = self._bytes(self.plan.backward_workspace_bytes)

    def forward(self, x: Buffer, initial: Sequence[Buffer] | None = None, seed: int | None = None) -> None:
        """x and initial states, of the network's dtype."""
        self._of.network.forward(
            self.plan,
            _strided(x),
            None if initial is None else [_strided(state) for state in initial],
            self._lengths.pointer if self._lengths else 0,
            _strided(self.y),
            [_strided(state) for state in self.final],
            seed,
            self._tape.pointer,
            self._workspace.pointer,
            LEGACY_STREAM,
        )

    def backward(self, dy: Buffer, d_final: Sequence[Buffer] | None = None, seeded: bool = False) -> None:
        """After `forward` of a call made for training; seeded: whether that had a seed."""
        self._of.network.backward(
            self.plan,
            _strided(dy),
            None if d_final is None else [_strided(state) for state in d_final],
            _strided(self.dx),
            [_strided(state) for state in self.d_initial],
            self._addresses,
            False,
            seeded,
            self._tape.pointer,
            self._backward_workspace.pointer,
            LEGACY_STREAM,
        )

    def _poisoned(self, shape: tuple[int, ...], dtype: str | None = None) -> Buffer:
        dtype = dtype or self._of.dtype
        host = np.full(shape, 0x7FC0 if dtype == "bfloat16" else np.nan, stored(dtype))
        buffer = Buffer(shape, dtype, self._of.device)
        buffer._memory.write(host)
        return buffer

    def _bytes(self, size: int) -> Buffer:
        return Buffer((size,), "uint8", self._of.device)


def _strided(buffer: Buffer) -> tuple[int, int, int, int]:
    _, rows, columns = buffer.shape
    return buffer.pointer, rows * columns, columns, 1
