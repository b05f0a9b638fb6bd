"""Turn the Japanese Vowels text files into the one small array file the demo loads.

The PyPI packages aeon and sktime carry the recordings unchanged (original values, original lengths)::

    pip download --no-deps aeon==1.6.0
    python -m recurra.demo.convert_vowels aeon-1.6.0-py3-none-any.whl

writes ``data/vowels.npz``: for each split, ``{split}_frames`` uint8 [3, sum of lengths, 12] (utterances one after
another, packed by ``vowels.pack``), ``{split}_lengths`` uint8 [N] and ``{split}_speakers`` uint8 [N] (1 to 9), and
``attribution``, a string.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recurra.demo.vowels import ATTRIBUTION, DATA, pack, unpack

# From the data set's own description; a packaged copy that was padded, shuffled or cut fails one of these.
UTTERANCES = {"train": [30] * 9, "test": [31, 35, 88, 44, 29, 24, 40, 50, 29]}
FRAMES = {"train": 4274, "test": 5687}


def parse(text: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Frames [sum of lengths, 12], lengths [N] and speakers [N] of a ``.ts`` file.

    A line is one utterance: twelve comma-separated series joined by colons, then the speaker.
    """
    utterances, speakers = [], []
    for line in text.splitlines():
        if not line or line[0] in "#@":
            continue
        *series, speaker = line.split(":")
        # Equal lengths of the twelve series are checked by NumPy: it refuses ragged rows.
        utterances.append(np.array([s.split(",") for s in series], dtype=np.float64).T)
        speakers.append(int(speaker))
    frames = np.concatenate(utterances).astype(np.float32, order="C")  # each frame contiguous, as a stream takes it
    return frames, np.array([len(u) for u in utterances], np.uint8), np.array(speakers, np.uint8)


def main() -> None:
    """Convert, check and write; raises ``ValueError`` when the source is not the official data set."""
    parser = argparse.ArgumentParser(description="Convert the Japanese Vowels files of an aeon or sktime wheel.")
    parser.add_argument("wheel", type=Path)
    arrays: dict[str, Any] = {}
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        for split in ("train", "test"):
            (name,) = (n for n in wheel.namelist() if n.endswith(f"/JapaneseVowels_{split.upper()}.ts"))
            frames, lengths, speakers = parse(wheel.read(name).decode())
            counts = np.bincount(speakers)[1:].tolist()
            if frames.shape != (FRAMES[split], 12) or counts != UTTERANCES[split] or sorted(speakers) != list(speakers):
                raise ValueError(f"{name} is not the official split: frames {frames.shape}, utterances {counts}")
            packed = pack(frames)
            if unpack(packed).tobytes() != frames.tobytes():
                raise ValueError(f"{name} has numbers of more than six digits behind the point")
            arrays |= {f"{split}_frames": packed, f"{split}_lengths": lengths, f"{split}_speakers": speakers}
    lengths = np.concatenate([arrays["train_lengths"], arrays["test_lengths"]])
    if (lengths.min(), lengths.max()) != (7, 29):
        raise ValueError(f"lengths {lengths.min()} to {lengths.max()}, expected 7 to 29")
    np.savez_compressed(DATA / "vowels.npz", attribution=np.array(ATTRIBUTION), **arrays)


if __name__ == "__main__":
    main()
