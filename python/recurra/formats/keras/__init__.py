"""Models of Keras 2 and 3: `.keras` and `.h5` files and live models in, live Keras 3 models out.

Reading a file needs h5py and nothing else of Keras, and runs nothing that a file holds.
"""

from .export import to_keras
from .load import load_keras

__all__ = ["load_keras", "to_keras"]
