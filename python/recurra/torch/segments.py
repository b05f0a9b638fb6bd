"""Resets and masks on a GPU, by `_segments`. Rows are gathered and put back by torch's indexing, so that gradients need
nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._marks import repeats
from .._segments import segments_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._arrays import Array
    from .marks import Marks

__all__ = ["run"]

Tensor = Any  # torch.Tensor, whose types are not there to check where torch is not


def run(
    run_rows: Callable[..., list[Tensor]],
    x: Tensor,
    state: Sequence[Tensor],
    lengths: Array | Tensor | None,
    marks: Marks,
    cells: bool,
    backwards: Sequence[bool],
) -> list[Tensor]:
    """[y, *final states] and, if asked, cells, of x [T, B, I], by run_rows(x, state, lengths, parts), which knows no
    marks, but of which sequences its rows are parts.

    Args:
        state: initial states, if any, then those that resets lead to, if any.
        backwards: of each direction, whether it runs from the last step to the first.
    """
    steps, rows, _ = x.shape
    resets, mask = (None if each is None else each.cpu().numpy() for each in (marks.resets, marks.mask))
    if isinstance(lengths, torch.Tensor):
        lengths = lengths.cpu().numpy()
    segments = segments_of(steps, rows, lengths, resets, mask, repeats(marks.masked_output), backwards)

    def on_device(indices: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(indices)).to(x.device)

    initial, fresh = marks.split(state)
    begins = None
    if initial or fresh:
        origins = [on_device(each) for each in segments.begins]
        begins = []
        for given in zip(*filter(None, (initial, fresh)), strict=True):
            zeros = given[0].new_zeros(given[0].shape)
            both = torch.cat([given[0] if initial else zeros, given[-1] if fresh else zeros], 1)
            begins.append(_lanes(both, origins))
    y, *final = run_rows(x.flatten(0, 1)[on_device(segments.place)], begins or [], segments.sizes, segments.parts)
    of_steps = [final.pop()] if cells else []
    ends, places = ([on_device(each) for each in indices] for indices in (segments.ends, segments.outputs))
    sequences = []
    for number, whole in enumerate([y, *of_steps]):
        parts = whole.chunk(len(backwards), -1)
        before = [part.new_zeros(part.shape[1:]) for part in parts]
        if begins is not None:
            before = list(begins[number][-len(backwards) :])
        pools = [
            torch.cat([part.flatten(0, 1), first, part.new_zeros((1, part.shape[-1]))])
            for part, first in zip(parts, before, strict=True)
        ]
        sequences.append(torch.cat([pool[place] for pool, place in zip(pools, places, strict=True)], -1))
    return [sequences[0], *(_lanes(part, ends) for part in final), *sequences[1:]]


def _lanes(part: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Some rows of a state [L*D, rows, width]: others for each direction."""
    by_direction = part.unflatten(0, (-1, len(rows)))
    return torch.stack([by_direction[:, d, each] for d, each in enumerate(rows)], 1).flatten(0, 1)
