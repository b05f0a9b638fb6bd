"""What would be done with a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._options import flag, integer

if TYPE_CHECKING:
    from ..recurrent import Recurrent
    from .packed import CudaPacked

__all__ = ["explain"]


def explain(layer: Recurrent, steps: int, batch: int, *, training: bool = False) -> str:
    """How a call of a layer on a GPU goes through its steps, and why.

        >>> layer = recurra.LSTM(64, 64, device="cuda", engine="exact-resident")
        >>> recurra.cuda.explain(layer, steps=100, batch=1).split(";")[0]
        'exact, resident: one launch for all steps of a layer'

    Args:
        layer: a layer of sequences that is on a GPU. The plan of such a call is made, and what it needs is compiled.
        steps, batch: the call's T and B.
        training: whether it records a tape; the way backward is told of too.

    Returns:
        One line. Times in it are arithmetic, not measured.

    Raises:
        TypeError: `layer` is none, or not on a GPU; an argument of the wrong type.
        ValueError: `steps` or `batch` is less than 1.
    """
    packed = packed_of(layer)
    steps, batch = integer("steps", steps), integer("batch", batch)
    return packed.plan(steps, batch, training=flag("training", training)).explain()


def packed_of(layer: object) -> CudaPacked:
    """What a layer of sequences on a GPU runs."""
    from .packed import CudaPacked  # which needs what needs this package

    packed = getattr(layer, "_packed", None)
    if not isinstance(packed, CudaPacked):
        where = " on the CPU" if getattr(layer, "device", None) == "cpu" else ""
        raise TypeError(f"layer: expected a layer of sequences on a GPU, got {type(layer).__name__}{where}")
    return packed
