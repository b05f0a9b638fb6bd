"""A Keras model, frame by frame: built, saved, loaded without Keras, and streamed.

    python examples/keras_to_stream.py

Needs Keras and h5py (`pip install keras h5py torch`; KERAS_BACKEND=tensorflow or jax does as well). Only the first half
does: `recurra.load` reads the file's configuration and weights by h5py alone, so what streams needs no Keras.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import recurra

os.environ.setdefault("KERAS_BACKEND", "torch")
BANDS = 20


def denoiser() -> Any:
    """A mask for each band of a frame. Its convolution is causal: what reaches ahead could not be streamed."""
    import keras

    x = keras.Input((None, BANDS))
    y = keras.layers.Conv1D(32, 3, padding="causal", activation="relu")(x)
    y = keras.layers.GRU(32, return_sequences=True)(y)
    y = keras.layers.Dense(BANDS, activation="sigmoid")(y)
    return keras.Model(x, keras.layers.Multiply()([x, y]))


def main() -> None:
    keras_model = denoiser()  # where yours is trained
    frames = np.random.default_rng(0).standard_normal((1, 200, BANDS), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "denoiser.keras"
        keras_model.save(path)
        model = recurra.load(path)
    print(model.summary())

    whole = model(frames)
    print(f"largest difference from Keras {np.abs(whole - keras_model.predict(frames, verbose=0)).max():.1e}")

    stream, out = model.stream(), np.empty((200, BANDS), np.float32)
    for frame, y in zip(frames[0], out, strict=True):
        stream.step(frame, out=y)
    print(f"the stream has the bits of the whole call: {np.array_equal(out, whole[0])}")


if __name__ == "__main__":
    main()
