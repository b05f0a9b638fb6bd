"""Wrong values of every kind, and for which arguments some of them are right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from checks import Array

Make = Callable[[], Any]
T, B, N, H = 4, 2, 3, 5  # steps, batch, input and hidden size


def f32(*shape: int) -> Array:
    return np.full(shape, 0.5, "float32")


class AngryError(Exception):
    """An exception of the caller's own."""


def hostile(*names: str, **more: Any) -> Make:
    """An object whose special methods raise what nobody expects."""

    def rage(self: Any, *_: Any, **__: Any) -> Any:
        raise AngryError("no")

    return type("Hostile", (), {name: rage for name in names} | more)


class Unruly(Mapping[str, Any]):
    """A mapping that cannot be read."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        raise AngryError("no")

    def __getitem__(self, name: str) -> Any:
        raise AngryError("no")


class Vanishing(Unruly):
    """A mapping that has lost what it has just named."""

    def __iter__(self) -> Iterator[str]:
        return iter(["weight_ih_l0", "w"])


HOST = {"__dlpack_device__": lambda self: (1, 0)}
WRONG: dict[str, Make] = {
    "None": lambda: None,
    "True": lambda: True,
    "False": lambda: False,
    "np.True_": lambda: np.True_,
    "text": lambda: "abc",
    "empty text": str,
    "bytes": lambda: b"abc",
    "-1": lambda: -1,
    "0": lambda: 0,
    "2**40": lambda: 2**40,
    "2**70": lambda: 2**70,
    "10**400": lambda: 10**400,
    "-(2**70)": lambda: -(2**70),
    "1.0": lambda: 1.0,
    "-0.5": lambda: -0.5,
    "1e-60": lambda: 1e-60,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "complex": lambda: 1j,
    "int type": lambda: int,
    "object": object,
    "function": lambda: len,
    "slice": lambda: slice(None),
    "set": lambda: {1, 2},
    "generator": lambda: iter([1, 2]),
    "empty list": list,
    "empty tuple": tuple,
    "empty mapping": dict,
    "list of one": lambda: [1],
    "list of bool and int": lambda: [True, 1],
    "list of floats": lambda: [1.0, 2.0],
    "list of text": lambda: ["a", "b"],
    "list of huge": lambda: [2**70, -(2**70)],
    "0 and 2**40": lambda: [0, 2**40],
    "list of None": lambda: [None, None],
    "rows of bool and int": lambda: [[True, 1], [1, 1]],
    "rows of floats": lambda: [[1.0, 1.0], [1.0, 1.0]],
    "ragged list": lambda: [[1], [1, 2]],
    "pair": lambda: (None, None),
    "pair of 2": lambda: (2.0, 2.0),
    "mapping of text": lambda: {"w": "abc", "cell_clip": "abc"},
    "mapping of numbers": lambda: {1: 2, "w": 0},
    "mapping of huge": lambda: {"cell_clip": 10**400},
    "unruly mapping": Unruly,
    "vanishing mapping": Vanishing,
    "list of unruly mappings": lambda: [Unruly()],
    "0-d": lambda: np.zeros((), "float32"),
    "0-d int": lambda: np.zeros((), "int64"),
    "vector": lambda: f32(7),
    "matrix": lambda: f32(7, 7),
    "3-d": lambda: f32(7, 7, 7),
    "7-d": lambda: f32(*[1] * 7),
    "empty": lambda: f32(0),
    "empty 3-d": lambda: f32(0, 0, 0),
    "two floats": lambda: np.array([2.0, 3.0]),
    "two integers": lambda: np.array([2, 3]),
    "two negative": lambda: np.array([-1, -(2**40)]),
    "two uint64": lambda: np.array([2**64 - 1, 2**63], "uint64"),
    "two booleans": lambda: np.array([True, False]),
    "float16": lambda: f32(T, B, N).astype("float16"),
    "float64": lambda: np.ones((T, B, N)),
    "longdouble": lambda: np.ones((T, B, N), "longdouble"),
    "complex array": lambda: np.ones((T, B, N), "complex64"),
    "other byte order": lambda: np.ones((T, B, N), np.dtype("float32").newbyteorder()),
    "objects": lambda: np.full((T, B, N), None),
    "texts": lambda: np.array(["a", "b"]),
    "dates": lambda: np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
    "structured": lambda: np.zeros(2, "f4,f4"),
    "masked": lambda: np.ma.masked_less(f32(T, B, N), 1),
    "masked integers": lambda: np.ma.masked_less(np.array([1, 2]), 2),
    "matrix object": lambda: np.ones((2, 2), "float16").view(np.matrix),
    "dtype": lambda: "f4,f4,,",
    "structured dtype": lambda: np.dtype("f4,f4"),
    "nameless dlpack": hostile("__dlpack__"),
    "hostile dlpack": hostile("__dlpack__", **HOST),
    "hostile device": hostile("__dlpack_device__", __dlpack__=None),
    "no device": hostile(__dlpack__=None, __dlpack_device__=lambda self: None),
    "strange device": hostile(__dlpack__=None, __dlpack_device__=lambda self: (99, 1)),
    "capsule of nothing": hostile(__dlpack__=lambda self, **_: object(), **HOST),
    "hostile index": hostile("__index__", "__int__", "__float__"),
    "index of text": hostile(__index__=lambda self: "abc"),
    "hostile array": hostile("__array__", "__array_interface__", "__array_struct__"),
    "list of hostile": lambda: [hostile("__array__", "__index__")(), 1],
    "hostile bool": hostile("__bool__", "__len__"),
    "hostile eq": hostile("__eq__", "__hash__"),
    "hostile iter": hostile("__iter__", "__len__", "__getitem__"),
    "hostile attributes": hostile("__getattr__"),
    "hostile detach": hostile("detach"),
    "disguised as an array": hostile(__class__=property(lambda self: np.ndarray)),
}

# Which of them are right: for every parameter of a name, somewhere.
NONE, ZERO = {"None"}, {"0"}
FLAG = {"True", "False", "np.True_"}
COUNT = {"2**40", "2**70", "10**400"}  # as many as there are
CHANCE = {"0", "1.0", "1e-60"}
POSITIVE = {"1.0", "1e-60", "2**40", "2**70"}
SYMBOLS = {"generator", "list of text", "list of huge", "list of None", "pair", "two integers", "two negative"}
SYMBOLS |= {"two uint64", "texts", "0 and 2**40"}
RIGHT: dict[str, set[str]] = {
    **dict.fromkeys(
        ("backward", "batch_first", "bias", "bidirectional", "input_grad", "layer_norm", "recompute"), FLAG
    ),
    **dict.fromkeys(("bidirectional_frequency", "initial_state", "return_cells"), FLAG),
    "proj_bias": {"False"},  # without a projection
    "dcells": NONE,  # of a tape without cells
    **dict.fromkeys(("dropout", "recurrent_dropout", "zoneout"), CHANCE),
    **dict.fromkeys(("batch", "head", "into", "out", "precision", "beams", "first_input", "top_k"), NONE),
    "wanted": {"None", "empty list", "empty tuple"},
    "end": {"None", "0"},
    "temperature": POSITIVE | {"None"},
    **dict.fromkeys(("horizon", "proj_size", "time_axis", "length_penalty", "start"), ZERO),
    **dict.fromkeys(("lr", "momentum"), POSITIVE | {"0"}),
    **dict.fromkeys(("n", "threads", "k1", "batch_size", "epochs", "kernel_size", "dilation"), COUNT),
    **dict.fromkeys(("causal", "log", "progress", "return_state", "weight"), FLAG),
    "p": CHANCE,
    "padding": ZERO | COUNT | {"0 and 2**40"},
    "features": {"generator", "list of one", "two integers", "two uint64"},
    "steps": ZERO | COUNT,
    "patience": COUNT | NONE,
    "drop": FLAG,
    "id": {"0", "empty list", "empty tuple", "list of one"},
    **dict.fromkeys(("max_wait", "timeout"), POSITIVE | {"0", "inf"}),
    "clip_norm": POSITIVE | {"inf", "None"},
    **dict.fromkeys(("inputs", "outputs", "schedule", "validation"), NONE),
    "dy": {"empty mapping"},  # of a model
    "state_dict": {"empty mapping"},  # of what has no parameters
    **dict.fromkeys(("k2", "stride"), COUNT | {"None"}),
    "value": POSITIVE | {"inf", "0", "-1", "-0.5", "-(2**70)", "-inf"},  # that masks a step
    "max_norm": POSITIVE | {"inf"},
    "eps": POSITIVE - {"1e-60"},
    **dict.fromkeys(("cell_clip", "clip"), POSITIVE - {"1e-60"} | {"inf", "None"}),
    "output_activation": NONE,
    **dict.fromkeys(("alpha", "beta"), POSITIVE | {"0", "-1", "-0.5", "-(2**70)", "None"}),
    "constants": {"None", "empty mapping"},
    "grad_clip": POSITIVE - {"1e-60"} | {"inf", "None"},
    "coupled": FLAG,
    "diagonal": FLAG,
    "forget_bias": POSITIVE | {"0", "-1", "-0.5", "-(2**70)", "None"},
    "grads": {"empty mapping", "empty list", "empty tuple"},  # nothing to clip
    "params": {"empty mapping"},  # of an optimiser
    "rng": {"None", "0", "2**40"},
    "seed": {"None", "0", *COUNT, "empty list", "empty tuple", "list of one", "0 and 2**40"},
    "keep": {"empty list", "empty tuple"},
    "lengths": {"None", "two integers", "list of one", "empty list", "empty tuple"},  # as many as `step_mask` is given
    "rows": {"None", "two booleans", "list of one", "empty list", "empty tuple"},
    "mask": {"None", "two booleans"},
    "resets": {"None", "two booleans"},  # of a stream's step
    "reset_state": NONE,
    "masked_output": set(),
    "weights": NONE,
    "indices": {"0-d int", "two integers", "generator", "list of one", "0 and 2**40", "two uint64"},
    "state": {"None", "empty mapping"},
    "dstate": {"None", "pair", "list of None", "empty mapping"},  # beside a dy
    **dict.fromkeys(("dtype", "engine"), NONE),  # of `to`: as before
    "allow_tf32": {"None", "False"},
    "device": set(),
    "direction": set(),
    "name": {"text", "empty text", "dtype"},  # what `check_finite` is to call an array
    **dict.fromkeys(("gate_output", "proj_m", "return_attention", "shared_encoders"), FLAG),
    **dict.fromkeys(("every_layer", "share_spatial", "tied", "tied_depth"), FLAG),
    **dict.fromkeys(("attention_size", "d_c", "d_last", "depth", "dimensions", "input", "leaf_states"), NONE),
    **dict.fromkeys(("before", "children", "sizes", "vocabulary"), NONE),
    **dict.fromkeys(("dims", "input_size"), ZERO),  # with a depth; of trees whose leaves have states
    **dict.fromkeys(("premise_lengths", "hypothesis_lengths"), NONE | {"two integers"}),
    "source": {"None", "two integers", "0 and 2**40"},  # how many rows x has is known later
    "peephole": FLAG | {"None"},
    "priority": {"None", "two booleans", "empty list", "empty tuple", "list of one"},
    "residual": {"None", "two booleans", "empty list", "empty tuple", "list of one"},
    "non_lstm": {"None", "empty mapping"},
    "given": {"None", "pair", "list of None"},
    "d_states": {"pair", "list of None"},
    "unknown": {"None", "0", "2**40"},
    "tokens": SYMBOLS | {"None"},
    "labels": SYMBOLS | FLAG | {"None"},
    "trees": SYMBOLS | {"list of one", "ragged list"},
    "array": {"vector", "matrix", "3-d", "7-d", "empty", "empty 3-d", "two floats", "float64"},
    # Of `windows`, which takes any dtype; of trees with given leaves.
    "x": {"matrix", "matrix object", "None", "vector", "texts", "dates", "structured"}
    | {f"two {kind}" for kind in ("floats", "integers", "negative", "uint64", "booleans")},
    "y": {"3-d", "float64"},  # of poolings
}
