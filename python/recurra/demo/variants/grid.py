"""Handwritten digits, pixel by pixel, by a Grid LSTM that has a vector and a memory along rows and along columns.

Needs scikit-learn, which ships the images: pip install scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import recurra
from recurra.demo.variants.digits import GridClassifier, run_models

SUMMARY = "Grid LSTM: handwritten digits, pixel by pixel (scikit-learn's 8 x 8 images)"
HIDDEN, EPOCHS, RATE = 20, 25, 1e-2


def run(path: Path, epochs: int | None) -> int:
    """See `recurra.demo.variants`."""
    print(
        f"A grid of blocks, {HIDDEN} units a dimension, reads 8 x 8 pixels from one corner; LSTM and GRU 64 in a row."
    )
    layer = recurra.GridLSTM(1, HIDDEN, 2, input="every", seed=0)
    return run_models({"Grid LSTM": GridClassifier(layer, 2 * HIDDEN)}, path, epochs or EPOCHS, RATE)
