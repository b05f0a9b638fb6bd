"""Who is speaking? A small GRU on real recordings: batched with ``lengths=``, then streamed frame by frame.

Needs NumPy only. ``convert_vowels.py`` made the data, ``train_vowels.py`` the weights.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import recurra

DATA = Path(__file__).parent / "data"
ATTRIBUTION = (
    "Data: Kudo, M., Toyama, J., & Shimbo, M. (1999). Japanese Vowels [Dataset]. UCI Machine Learning Repository.\n"
    "https://doi.org/10.24432/C5NS47, licensed CC BY 4.0; values unchanged, stored as packed integers."
)
FRAME_MS = 6.4  # the recordings' frame shift: how often a real-time loop would have to step
SHOWN = 301  # the utterance of the test split shown frame by frame: a short one during which the guess changes
MIN_ACCURACY = 0.96

Floats = npt.NDArray[np.float32]


class Split(NamedTuple):
    """One split: ``frames`` float32 [sum of lengths, 12], ``lengths`` and ``speakers`` (1 to 9) int64 [N]."""

    frames: Floats
    lengths: npt.NDArray[np.int64]
    speakers: npt.NDArray[np.int64]


def pack(frames: Floats) -> npt.NDArray[np.uint8]:
    """Frames [N, 12] of decimals with six digits as bytes [3, N, 12], which compress to 0.63 of the float32 numbers.

    They are the low, middle and high bytes of the steps from each frame to the next, in millionths.
    """
    steps = np.diff(np.rint(frames.astype(np.float64) * 1e6), axis=0, prepend=0).astype("<i4")
    return np.moveaxis(steps.view(np.uint8).reshape(*frames.shape, 4), -1, 0)[:3]


def unpack(packed: npt.NDArray[np.uint8]) -> Floats:
    """The frames, to the bit."""
    low, middle, high = packed
    steps = low + 256 * middle.astype(np.int64) + 65536 * high.view(np.int8).astype(np.int64)
    return np.asarray(steps.cumsum(0) / 1e6, np.float32)


def load_split(split: str) -> Split:
    """Load the official ``"train"`` (270 utterances) or ``"test"`` (370) split."""
    with np.load(DATA / "vowels.npz") as file:
        frames, lengths, speakers = (file[f"{split}_{part}"] for part in Split._fields)
    return Split(unpack(frames), lengths.astype(np.int64), speakers.astype(np.int64))


def load_weights() -> dict[str, Floats]:
    """Of the trained classifier, and the mean and deviation of its inputs; the file has them in float16."""
    with np.load(DATA / "vowels_gru64.npz") as file:
        return {name: array.astype(np.float32) for name, array in file.items()}


def pad(frames: Floats, lengths: npt.NDArray[np.int64]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Batch [N, longest, 12], zero after each utterance's end, and the mask [N, longest] of the valid steps."""
    valid = np.arange(lengths.max()) < lengths[:, None]
    batch = np.zeros((*valid.shape, frames.shape[1]), frames.dtype)
    batch[valid] = frames
    return batch, valid


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True), np.float32)


def stream_all(layer: recurra.GRU, frames: Floats, lengths: npt.NDArray[np.int64]) -> tuple[Floats, list[int]]:
    """Stream every utterance: outputs [sum of lengths, H], and the nanoseconds of each step as Python sees them."""
    outputs = np.empty((len(frames), layer.hidden_size), np.float32)
    steps = iter(list(zip(frames, outputs, strict=True)))
    stream, clock, times = layer.stream(), time.perf_counter_ns, []
    for length in lengths:
        stream.reset()
        for _ in range(length):
            x, y = next(steps)
            start = clock()
            stream.step(x, out=y)
            times.append(clock() - start)
    return outputs, times


def run() -> int:
    """Print the demo. Returns 0, or 1 when the accuracy is below 96 % or streaming and batch differ in a single bit."""
    frames, lengths, speakers = load_split("test")
    weights = load_weights()
    layer = recurra.GRU(12, 64, batch_first=True)
    layer.load_state_dict({name: value for name, value in weights.items() if name.endswith("_l0")})
    frames = (frames - weights["mean"]) / weights["std"]

    def head(pooled: Floats) -> Floats:
        return softmax(pooled @ weights["head_weight"].T + weights["head_bias"])

    print(f"Who is speaking? Nine men say the vowels /ae/; {layer} hears 12 numbers every {FRAME_MS} ms.")

    print(f"\n1. {len(lengths)} whole utterances, {lengths.min()} to {lengths.max()} frames, in one call with lengths=")
    batch, valid = pad(frames, lengths)
    output, _ = layer(batch, lengths=lengths)
    pooled = np.where(valid[:, :, None], output, -np.inf).max(1)
    right = head(pooled).argmax(-1) + 1 == speakers
    his = [speakers == s for s in range(1, 10)]
    print("   speaker " + "".join(f"{s:>7}" for s in range(1, 10)))
    print("   correct " + "".join(f"{f'{right[who].sum()}/{who.sum()}':>7}" for who in his))
    print(f"   accuracy {right.mean():.1%} ({right.sum()} of {len(right)} speakers found)")

    print("\n2. One utterance as it is spoken: the guess after each stream.step(frame)")
    stream, best = layer.stream(), np.full(64, -np.inf, np.float32)
    for t, frame in enumerate(frames[lengths[:SHOWN].sum() :][: lengths[SHOWN]], 1):
        best = np.maximum(best, stream.step(frame))
        chance = head(best)
        print(f"   frame {t:2}  speaker {chance.argmax() + 1}  {chance.max():4.0%}  {'#' * round(30 * chance.max())}")
    print(f"   it was speaker {speakers[SHOWN]}")

    streamed, times = stream_all(layer, frames, lengths)
    median = float(np.median(times)) / 1e3
    print(f"\n3. All {len(times)} frames streamed: median {median:.2f} us a step (a frame lasts {FRAME_MS} ms)")
    # Compared as bytes: == would take -0.0 for 0.0 and refuse NaN.
    same = streamed.tobytes() == output[valid].tobytes()
    print(f"   streaming and batch agree: {'identical bits' if same else 'NO, BITS DIFFER'} in {streamed.size} outputs")

    print(f"\n{ATTRIBUTION}")
    if right.mean() < MIN_ACCURACY:
        print(f"FAILED: an accuracy of at least {MIN_ACCURACY:.0%} is expected, got {right.mean():.1%}")
        return 1
    return 0 if same else 1
