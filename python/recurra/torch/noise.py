"""What the core leaves out at random, drawn again in NumPy: the same hashes of seed and place as cpp/engine/noise.h."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .._arrays import Array

__all__ = ["ZONEOUT", "hits"]

ZONEOUT = ("zoneout_h", "zoneout_c", "zoneout_third", "zoneout_fourth")  # of the states
KINDS = {kind: 1 + k for k, kind in enumerate(("recurrent_dropout", *ZONEOUT))}

_GOLDEN = 0x9E3779B97F4A7C15


def hits(kind: str, rate: float, seed: int, lane: int, rows: Array, steps: Array, size: int) -> Array:
    """Booleans [N, R, size]: which numbers of a layer and direction, counted by `lane`, are left out, of rows [R] with
    these numbers in steps [N, R] or [N, 1] with these."""
    key = _mix(np.uint64((seed + _GOLDEN * (KINDS[kind] + 1)) % 2**64))
    key = _joined(key, np.uint64(lane))
    key = _joined(_joined(key, rows.astype(np.uint64)), steps.astype(np.uint64))[..., None]
    drawn = _mix(key + np.arange(size, dtype=np.uint64) * np.uint64(_GOLDEN)) >> np.uint64(11)
    return drawn < np.uint64(rate * 2.0**53)


def _joined(key: Array | np.uint64, part: Array | np.uint64) -> Array:
    return _mix(key ^ _mix(part + np.uint64(0x632BE59BD9B4E019)))


def _mix(z: Array | np.uint64) -> Array:
    """The finaliser of SplitMix64 (G. Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ z >> np.uint64(31))
