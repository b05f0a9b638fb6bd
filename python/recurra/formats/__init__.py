"""Models from and for other libraries, and recurra's own file.

Each format has a module of its own, imported when it is used, with `load_...` that makes a `recurra.Model` and, where
there is one, `to_...` that makes something of the other library from it. `load` chooses among them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .unsupported import UnsupportedModel

if TYPE_CHECKING:
    import os

    from ..model import Model

__all__ = ["UnsupportedModel", "load"]

# What a file is: the module of this package and the function in it that read it.
_LOADERS = {
    "recurra": ("own", "load_model"),
    "onnx": ("onnx", "load_onnx"),
    "keras": ("keras", "load_keras"),
    "torch": ("torch", "load_torch"),
    "rtneural": ("rtneural", "load_rtneural"),
    "guitarml": ("guitarml", "load_guitarml"),
    "nam": ("nam", "load_nam"),
}


def __getattr__(name: str) -> Any:
    """A format's module, imported when it is asked for."""
    if name in {*(module for module, _ in _LOADERS.values()), "safetensors"}:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(path: str | os.PathLike[str], **options: Any) -> Model:
    """The model in a file, of recurra or of another library. What kind of file it is, is seen by its content.

        >>> recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 1)]).save("denoiser.safetensors")
        >>> model = recurra.load("denoiser.safetensors")  # or .onnx, .keras, .pt, .json, .nam
        >>> list(model.layers)
        ['recurrent0', 'linear0']

    Nothing in a file is ever executed.

    Args:
        path: of the file.
        **options: of the format's own function, for example `module=` of `recurra.formats.torch.load_torch`.

    Raises:
        UnsupportedModel: the file holds something that cannot be represented, or is of no known format.
        ValueError: the file is damaged.
        ImportError: the format needs a package that is not installed.
        OSError: the file cannot be read.
    """
    from .detect import format_of  # here, so that importing recurra is quick
    from .files import as_path

    file = as_path("path", path)
    module, function = _LOADERS[format_of(file)]
    loader = getattr(import_module(f"{__name__}.{module}"), function)
    model: Model = loader(file, **options)
    return model
