"""recurra: fast recurrent networks for deployment.

    >>> import numpy as np
    >>> import recurra
    >>> layer = recurra.LSTM(input_size=12, hidden_size=64, seed=0)
    >>> x = np.random.default_rng(0).standard_normal((100, 8, 12), dtype="float32")  # [T, B, I]
    >>> y, (h, c) = layer(x)  # whole sequences
    >>> y.shape, h.shape
    ((100, 8, 64), (1, 8, 64))
    >>> stream = layer.stream(batch=8)  # or as the data arrive
    >>> bool((stream.step(x[0]) == y[0]).all())
    True

`layer.load_state_dict(torch_lstm.state_dict())` loads trained weights. The examples in other docstrings assume
these two imports and `from recurra import functional, training`.

On the CPU an output depends on the weights, its own sequence's inputs and the dtype, and on nothing else, to the last
bit: not on the batch, the threads, the chunks, or which of the FMA instruction sets ran.
"""

from __future__ import annotations

from . import _core, formats, functional
from ._arrays import machine_memory
from ._cells import CELLS
from ._options import integer
from .activation import Activation
from .deep_supervision import DeepSupervision
from .forest import Forest
from .formats import load
from .frequency_time import FrequencyTimeLSTM
from .generation import Generated, generate
from .grid_lstm import GridLSTM
from .heads import Embedding, Linear
from .initial_state import InitialState
from .layers import GRU, LSTM, RNN, Recurrent
from .leaf_module import LeafModule
from .local_global import LocalGlobalLSTM
from .match import MatchLSTM
from .model import (
    Add,
    AvgPool2d,
    Concatenate,
    Conv1d,
    Conv2d,
    Dropout,
    LayerNorm,
    Mask,
    MaxPool2d,
    Model,
    ModelGradients,
    ModelStream,
    ModelTape,
    Multiply,
    Node,
    Pool,
    Repeat,
    Reshape,
    Reverse,
    Scale,
    Select,
    Softmax,
    Sqrt,
    Value,
)
from .multidimensional import MultidimensionalLSTM
from .pool import StreamPool
from .stream import Stream
from .tape import Gradients, Tape
from .trees import TreeGradients, TreeLSTM, TreeTape
from .variants import SLSTM, SRU, DifferentialRNN, IndRNN, MinGRU, MinLSTM, MultiplicativeLSTM

_core.limit_memory(machine_memory())

__version__ = "0.2.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "SRU",
    "Activation",
    "Add",
    "AvgPool2d",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "DeepSupervision",
    "DifferentialRNN",
    "Dropout",
    "Embedding",
    "Forest",
    "FrequencyTimeLSTM",
    "Generated",
    "Gradients",
    "GridLSTM",
    "IndRNN",
    "InitialState",
    "LayerNorm",
    "LeafModule",
    "Linear",
    "LocalGlobalLSTM",
    "Mask",
    "MatchLSTM",
    "MaxPool2d",
    "MinGRU",
    "MinLSTM",
    "Model",
    "ModelGradients",
    "ModelStream",
    "ModelTape",
    "MultidimensionalLSTM",
    "MultiplicativeLSTM",
    "Multiply",
    "Node",
    "Pool",
    "Recurrent",
    "Repeat",
    "Reshape",
    "Reverse",
    "Scale",
    "Select",
    "Softmax",
    "Sqrt",
    "Stream",
    "StreamPool",
    "Tape",
    "TreeGradients",
    "TreeLSTM",
    "TreeTape",
    "Value",
    "cells",
    "config",
    "formats",
    "functional",
    "generate",
    "get_num_threads",
    "load",
    "release_memory",
    "set_num_threads",
    "show_config",
]


def cells() -> tuple[str, ...]:
    """Names of all compiled cells, as `Recurrent` and `functional.pack` take them.

    >>> recurra.cells()[:4]
    ('rnn_tanh', 'rnn_relu', 'rnn_sigmoid', 'lstm')
    """
    return tuple(CELLS)


def config() -> dict[str, object]:
    """Versions, and what the core found and chose on this machine: instruction set, threads and so on.

    >>> {"recurra", "isa", "threads"} <= recurra.config().keys()
    True
    """
    import numpy

    return {"recurra": __version__, "numpy": numpy.__version__, **_core.config()}


def show_config() -> None:
    """Print `config()`, one entry a line.

    >>> recurra.show_config()  # doctest: +ELLIPSIS
    recurra ...
    """
    lines = config()
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:<{width}}  {value}")


def get_num_threads() -> int:
    """How many threads a call may use.

    >>> recurra.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def release_memory() -> None:
    """Give memory back to the system: what finished calls have left for later ones, at most 128 MiB, and what the C
    library keeps. Layers, streams and tapes keep theirs.

        >>> recurra.release_memory()
    """
    _core.release_memory()


def set_num_threads(n: int) -> None:
    """Let calls, and the packing of large layers, use up to `n` >= 1 threads, but never more than the CPUs that this
    process may use. No result depends on it.

        >>> recurra.set_num_threads(recurra.get_num_threads())
    """
    _core.set_num_threads(min(integer("n", n), 2**31 - 1))
