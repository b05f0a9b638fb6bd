"""Models: layers in a chain or a small graph, run by one call of the core."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._arrays import as_array, vector
from .._fixed import Fixed
from .._marks import PREVIOUS
from .._options import check_names, flag, float_dtype, integer, items, mapping, noise_seed, shown
from ..recurrent import Recurrent
from . import call
from .arguments import checked_call, checked_inputs, row_axis
from .description import described_inputs, described_nodes, require_entries
from .operation import Node, Value
from .placed import Placed, first_value, given_values, listed, named_function, place
from .stream import ModelStream
from .structure import has_parameters, made, parameter_shapes, structure_of
from .tape import recorded

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from .._arrays import Array, Input
    from ..packed import State

__all__ = ["Model"]


class Model(Fixed):
    """Layers one behind the other, or as a graph without cycles.

        >>> model = recurra.Model([recurra.Conv1d(12, 32, 5, causal=True), "relu", recurra.GRU(32, 64)])
        >>> list(model.layers)
        ['conv1d0', 'activation0', 'recurrent0']

    Args:
        layers: recurrent layers, `Linear`, `Embedding`, activations or their names, operations of `recurra.model`;
            each is fed by the one before it, or where it is a `Node` by those that it names. Their own batch_first
            does not count.
        inputs: names and shapes of the model's inputs, one in this order for each array of a call; default one, "x",
            a sequence as the first layer takes it.
        outputs: names of the nodes whose values a call returns; default the last one.
        batch_first: axis order of sequences in calls: [B, T, ...] in place of [T, B, ...].

    Raises:
        TypeError, ValueError: something is no layer, a name is unknown or used twice, shapes do not go together,
            dtypes differ.
    """

    layers: dict[str, Any]
    inputs: dict[str, Value]
    outputs: tuple[str, ...]
    batch_first: bool
    dtype: np.dtype[Any]
    _nodes: tuple[Placed, ...]
    _values: dict[str, Value]
    _output_values: dict[str, Value]
    _recurrent: dict[str, Recurrent]
    _plain: tuple[Value, Value] | None
    _compiled: tuple[list[Any], _core.Model] | None  # with what its layers had packed then
    _alone: dict[str, tuple[Any, _core.Model]]  # the same of single operations, for training

    def __init__(
        self,
        layers: Iterable[Any],
        *,
        inputs: Mapping[str, Value] | None = None,
        outputs: Iterable[str] | None = None,
        batch_first: bool = False,
    ) -> None:
        nodes = [layer if isinstance(layer, Node) else Node(layer) for layer in items("layers", layers, " of layers")]
        if not nodes:
            raise ValueError("layers: expected at least one, got none")
        nodes = [n._replace(layer=named_function(n.layer)) if isinstance(n.layer, str) else n for n in nodes]
        given = {"x": first_value(nodes[0].layer)} if inputs is None else given_values(inputs)
        values = dict(given)
        placed: list[Placed] = []
        for node in nodes:
            placed.append(place(node, placed, given, values))
        names = (placed[-1].name,) if outputs is None else tuple(items("outputs", outputs, " of names"))
        if not names:
            raise ValueError("outputs: expected at least one name, got none")
        for name in names:
            if not isinstance(name, str) or name not in values:
                raise ValueError(f"outputs: expected names of nodes, {listed(values)}, got {shown(name)}")
        if len(set(names)) < len(names):
            raise ValueError(f"outputs: expected each name once, got {shown(list(names))}")
        dtypes = {np.dtype(node.layer.dtype) for node in placed if has_parameters(node.layer)}
        if len(dtypes) > 1:
            raise ValueError(f"layers: expected all of one dtype, got {sorted(map(str, dtypes))}")
        self.__dict__.update(
            layers={node.name: node.layer for node in placed},
            inputs=given,
            outputs=names,
            batch_first=flag("batch_first", batch_first),
            dtype=dtypes.pop() if dtypes else np.dtype("float32"),
            _nodes=tuple(placed),
            _values=values,
            _output_values={name: values[name] for name in names},
            _plain=call.plain_values([*given.values()], [values[name] for name in names]),
            _recurrent={node.name: node.layer for node in placed if isinstance(node.layer, Recurrent)},
            _compiled=None,
            _alone={},
        )

    @property
    def structure(self) -> dict[str, Any]:
        """Inputs, nodes and outputs as JSON holds them, without parameters; what a model file has in its metadata.

        >>> recurra.Model([recurra.GRU(3, 5)]).structure["inputs"]
        [{'name': 'x', 'features': [3], 'time': True, 'integer': False}]
        """
        return {
            "inputs": [
                {"name": n, "features": list(v.features), "time": v.time, "integer": v.integer}
                for n, v in self.inputs.items()
            ],
            "nodes": [{"name": n.name, "inputs": list(n.inputs), **structure_of(n.layer)} for n in self._nodes],
            "outputs": list(self.outputs),
            "dtype": str(self.dtype),
            "batch_first": self.batch_first,
        }

    @classmethod
    def from_structure(cls, structure: Mapping[str, Any], parameters: Mapping[str, Input]) -> Model:
        """The model of such a `structure` and `state_dict`.

            >>> model = recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)])
            >>> again = recurra.Model.from_structure(model.structure, model.state_dict())

        Raises:
            TypeError, ValueError: they do not describe one.
        """
        require_entries("structure", structure, {"inputs", "nodes", "outputs", "dtype", "batch_first"})
        dtype, nodes = str(float_dtype("dtype", structure["dtype"])), []
        for name, sources, attributes, own in described_nodes(structure["nodes"], mapping("parameters", parameters)):
            layer = made(attributes, dtype, own)
            if structure_of(layer) != attributes:
                raise ValueError(f"node {name!r}: expected {shown(structure_of(layer))}, got {shown(attributes)}")
            nodes.append(Node(layer, sources, name))
        outputs = structure["outputs"]
        if not isinstance(outputs, list) or not outputs or not all(isinstance(name, str) for name in outputs):
            raise ValueError(f"outputs: expected a list of names, got {shown(outputs)}")
        inputs = described_inputs(structure["inputs"])
        return cls(nodes, inputs=inputs, outputs=outputs, batch_first=structure["batch_first"])

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters, named "node.parameter".

        >>> list(recurra.Model([recurra.GRU(3, 5, bias=False), recurra.Linear(5, 2)]).state_dict())
        ['recurrent0.weight_ih_l0', 'recurrent0.weight_hh_l0', 'linear0.weight', 'linear0.bias']
        """
        return {
            f"{node.name}.{name}": array
            for node in self._nodes
            if has_parameters(node.layer)
            for name, array in node.layer.state_dict().items()
        }

    def to_keras(self) -> Any:
        """A functional Keras 3 model that gives the same: see `recurra.formats.keras.to_keras`."""
        from ..formats.keras import to_keras

        return to_keras(self)

    def load_state_dict(self, state_dict: Mapping[str, Input]) -> None:
        """Replace all parameters of all layers, by copies of arrays of the same names, shapes and dtype. A layer that
        several nodes share wants the same numbers under each name.

            >>> model, trained = (recurra.Model([recurra.GRU(3, 5, seed=seed)]) for seed in (0, 1))
            >>> model.load_state_dict(trained.state_dict())

        Raises:
            TypeError, ValueError: something does not fit; nothing is changed.
        """
        given = mapping("state_dict", state_dict)
        nodes = [node for node in self._nodes if has_parameters(node.layer)]
        names = {f"{node.name}.{name}": name for node in nodes for name in parameter_shapes(node.layer)}
        check_names("state_dict", given, names)
        before = [(node.layer, dict(node.layer.__dict__)) for node in nodes]
        loaded: dict[int, str] = {}  # layers to the first node of each
        try:
            for node in nodes:
                first, own = loaded.setdefault(id(node.layer), node.name), _own(node.name, given)
                if first == node.name:
                    node.layer.load_state_dict(own)
                for name, array in node.layer.state_dict().items() if first != node.name else ():
                    if not np.array_equal(array, as_array(name, own[name]), equal_nan=True):
                        raise ValueError(f"{name}: expected the numbers of {first!r}, whose layer it shares")
        except BaseException as error:
            for layer, attributes in before:
                layer.__dict__.update(attributes)
            if isinstance(error, (TypeError, ValueError)):
                raise type(error)(f"state_dict: node {node.name!r}: {error}") from None
            raise

    @property
    def parameter_count(self) -> int:
        """Number of values in all parameters.

        >>> recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)]).parameter_count
        162
        """
        layers = {id(layer): layer for layer in self.layers.values()}
        return sum(math.prod(shape) for layer in layers.values() for shape in parameter_shapes(layer).values())

    def summary(self) -> str:
        """A table of the layers: shape of what comes out, parameters, multiply-adds in products with weights for each
        step of the input, bytes of the parameters.

            >>> print(recurra.Model([recurra.Conv1d(12, 32, 5, 2), "relu", recurra.GRU(32, 64)]).summary())
            layer        kind    output        parameters  multiply-adds   bytes
            --------------------------------------------------------------------
            conv1d0      Conv1d  [T/2, B, 32]       1,952            960   7,808
            activation0  relu    [T/2, B, 32]           0              0       0
            recurrent0   GRU     [T/2, B, 64]      18,816          9,216  75,264
            --------------------------------------------------------------------
            total                                  20,768         10,176  83,072
        """
        from .summary import table  # here, so that importing recurra is quick

        return table(self)

    def predict(self, x: Any, lengths: Sequence[int] | Input | None = None, batch_size: int = 256) -> Any:
        """Outputs of a call for many rows, which are run a batch at a time: the same bits in less memory.

            >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Pool("last"), recurra.Linear(64, 9)])
            >>> model.predict(np.zeros((100, 1000, 12), "float32")).shape
            (1000, 9)

        Args:
            x, lengths: as of a call, with a batch axis.
            batch_size: rows of a batch, at most.

        Returns:
            The output; of a model with several a dict by name.

        Raises:
            TypeError, ValueError: as a call.
        """
        size = integer("batch_size", batch_size)
        inputs, batch = checked_inputs(self, x)
        if not batch:
            raise ValueError("x: expected a batch axis, got none")
        valid = None if lengths is None else vector("lengths", lengths, batch[0])
        parts: dict[str, list[Array]] = {name: [] for name in self.outputs}
        for start in range(0, max(1, batch[0]), size):
            rows = slice(start, start + size)
            taken = {
                name: array[:, rows] if row_axis(self, self.inputs[name]) else array[rows]
                for name, array in inputs.items()
            }
            y = self(taken, lengths=None if valid is None else valid[rows])
            for name, part in (y if len(parts) > 1 else {self.outputs[0]: y}).items():
                parts[name].append(part)
        made = {name: np.concatenate(each, row_axis(self, self._values[name])) for name, each in parts.items()}
        return made if len(made) > 1 else made[self.outputs[0]]

    def forward(
        self,
        x: Any,
        state: Mapping[str, State] | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        resets: Input | None = None,
        reset_state: Mapping[str, State] | None = None,
        mask: Input | None = None,
        masked_output: str = PREVIOUS,
        recompute: bool = False,
        rng: int | np.random.Generator | None = None,
        return_state: bool = False,
    ) -> tuple[Any, ...]:
        """Run whole sequences for training: as a call, with a tape to go back over.

            >>> model = recurra.Model([recurra.Conv1d(12, 32, 5, causal=True), "relu", recurra.GRU(32, 64)])
            >>> y, tape = model.forward(np.ones((100, 8, 12), "float32"), lengths=[100, 7, 0, 31, 100, 64, 2, 99])
            >>> gradients = tape.backward(np.ones_like(y))
            >>> gradients.params["conv1d0.weight"].shape
            (32, 12, 5)

        Without rng the outputs have the bits of a call. What went through it is copied, or kept.

        Args:
            x, state, lengths, resets, reset_state, mask, masked_output, return_state: as of a call.
            recompute: whether recurrent layers keep their states alone, as a layer's forward.
            rng: what `Dropout`, and dropout and zoneout of recurrent layers, draw from: a Generator, or a seed in
                0..2**64-1. Default None: nothing is left out.

        Returns:
            (output, tape), with return_state (output, state, tape): the first two as of a call, and a
            `recurra.ModelTape`.

        Raises:
            TypeError, ValueError: as a call; ValueError also for a quantized layer.
        """
        call = checked_call(self, x, state, lengths, resets, reset_state, mask, masked_output)
        seed = noise_seed(rng)
        draws = None if seed is None else np.random.default_rng(seed)
        tape = recorded(self, call, draws, flag("recompute", recompute))
        if not flag("return_state", return_state):
            return tape.output, tape
        return tape.output, tape.state, tape

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, which `recurra.load` and the C++ library read: to the same bits.

            >>> recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)]).save("model.safetensors")
            >>> recurra.load("model.safetensors").parameter_count
            162

        The file is a safetensors file with the structure in its metadata; docs/formats.md describes it. It replaces one
        of the same name all at once, when it is complete.

        Args:
            path: of the file; its usual ending is .safetensors.

        Raises:
            TypeError: `path` is no path.
            ValueError: a number that JSON does not have, an infinity, is among the attributes of a layer.
            OSError: the file cannot be written.
        """
        from ..formats.own import save_model

        save_model(self, path)

    def to_c(self, folder: str | os.PathLike[str], name: str = "model") -> tuple[Path, Path]:
        """C99 for microcontrollers, `name`.h and `name`.c, with the bits of a stream: see `recurra.export.to_c`.

        >>> recurra.Model([recurra.GRU(1, 16), recurra.Linear(16, 1)]).to_c(".", "amplifier")
        (PosixPath('amplifier.h'), PosixPath('amplifier.c'))
        """
        from ..export import to_c

        return to_c(self, folder, name)

    def to_cpp(self, folder: str | os.PathLike[str], name: str = "model") -> Path:
        """A C++17 header for desktops, `name`.hpp, with the bits of a stream: see `recurra.export.to_cpp`.

        >>> recurra.Model([recurra.GRU(1, 16), recurra.Linear(16, 1)]).to_cpp(".", "amplifier")
        PosixPath('amplifier.hpp')
        """
        from ..export import to_cpp

        return to_cpp(self, folder, name)

    def to_torch(self) -> Any:
        """A torch.nn.Module that computes the same: see `recurra.formats.torch.to_torch`."""
        from ..formats.torch import to_torch

        return to_torch(self)

    def to_onnx(self, path: str | os.PathLike[str] | None = None, *, opset: int = 17, states: bool = False) -> Any:
        """The model as an onnx.ModelProto, and as a file where there is a path: `recurra.formats.onnx.to_onnx`.

        Args:
            path: of the file; default none.
            opset: of ONNX, 13 to 22.
            states: whether initial states are inputs, "node_h_in", and final ones outputs, "node_h_out".

        Raises:
            UnsupportedModel: a layer has no counterpart in ONNX.
            ImportError: the package onnx is not installed.
            OSError: the file cannot be written.
        """
        from ..formats.onnx import to_onnx

        return to_onnx(self, path, opset=opset, states=states)

    def __call__(
        self,
        x: Any,
        state: Mapping[str, Any] | None = None,
        *,
        lengths: Sequence[int] | Input | None = None,
        resets: Input | None = None,
        reset_state: Mapping[str, Any] | None = None,
        mask: Input | None = None,
        masked_output: str = PREVIOUS,
        return_state: bool = False,
    ) -> Any:
        """Run whole sequences, in one call of the core. Any number of threads may do so at once.

            >>> model = recurra.Model([recurra.GRU(12, 64), recurra.Linear(64, 9), recurra.Softmax()])
            >>> model(np.zeros((100, 8, 12), "float32")).shape
            (100, 8, 9)

        Args:
            x: [T, B, *features], with batch_first [B, T, *features], or [T, *features] for one sequence without a batch
                axis; [B, *features] or [*features] for an input without time. Of the model's dtype, or any integers
                where an embedding reads them. Several inputs: a tuple in their order, or a dict by name.
            state: initial states of recurrent nodes, by name, each as of the layer's call; of others zeros, or what has
                been learned.
            lengths: valid steps of each sequence, B integers in 0..T, of all inputs with time. Outputs past what a row
                then has (see `output_lengths`) are zero.
            resets: booleans, [T, B] or as x without features: before such a step recurrent nodes start afresh, and no
                convolution reaches back over it. Refused by nodes that mix steps otherwise.
            reset_state: what states become at a reset, as `state`, or without the batch axis for all rows.
            mask: booleans, likewise: steps that are False are left out by recurrent nodes and pools, as in a layer's
                call. Convolutions and poolings over time refuse it.
            masked_output: of recurrent nodes at masked steps, "previous" or "zero", as of a layer's call.
            return_state: also return the final states, a dict of recurrent nodes' names.

        Returns:
            The output, [T, B, *features] like x, or [B, *features] if it has no time; of several outputs a dict by
            name. With return_state (output, state).

        Raises:
            TypeError: wrong dtype or kind of object.
            ValueError: wrong shape, length, name or integer; a node that cannot do what is asked, which it names.
        """
        without = state is reset_state is None and lengths is None and resets is mask is None
        if (
            without
            and masked_output is PREVIOUS
            and return_state is False
            and (y := call.run_plain(self, x)) is not None
        ):
            return y
        options: dict[str, Any] = {"lengths": lengths, "resets": resets, "reset_state": reset_state, "mask": mask}
        return call.run(self, x, state, **options, masked_output=masked_output, return_state=return_state)

    def stream(self, batch: int | None = None, *, threads: int = 1) -> ModelStream:
        """A stream through this model, its state where sequences begin: see `recurra.ModelStream`.

            >>> stream = recurra.Model([recurra.GRU(3, 5), recurra.Linear(5, 2)]).stream()
            >>> stream.step(np.zeros(3, "float32")).shape
            (2,)

        Args:
            batch: None for one sequence without a batch axis, or the number of sequences that advance together.
            threads: how many threads a step may use for wide recurrent layers.
        """
        return ModelStream(self, batch, threads)

    def output_lengths(self, lengths: Sequence[int] | Input) -> Array:
        """How many steps the first output has for rows of so many.

            >>> model = recurra.Model([recurra.Conv1d(12, 32, 5, stride=2, causal=True)])
            >>> model.output_lengths([100, 7])
            array([50,  4])

        Args:
            lengths: integers, 0 or more.

        Raises:
            TypeError, ValueError: they are something else, or the output has no time.
        """
        name, value = next(iter(self._output_values.items()))
        if not value.time:
            raise ValueError(f"output_lengths: expected an output with time, got {name!r}")
        counts = vector("lengths", lengths, None).tolist()
        if min(counts, default=0) < 0 or max(counts, default=0) >= 1 << 40:
            raise ValueError(f"lengths: expected 0..2**40-1, got {min(counts)}..{max(counts)}")
        core = self._core()
        return np.array([core.output_steps(0, [count] * len(self.inputs)) for count in counts], np.int64)

    def _core(self) -> _core.Model:
        """The compiled model, of the parameters that the layers have now."""
        parts, kept = call.parts_of(self.layers.values()), self._compiled
        if kept is None or not all(map(operator.is_, parts, kept[0])):
            kept = (parts, call.compiled(self.structure, self.layers))
            self.__dict__["_compiled"] = kept
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_compiled": None, "_alone": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"Model({list(self.layers.values())})"


def _own(name: str, parameters: Mapping[str, Input]) -> dict[str, Input]:
    """Those of a node."""
    return {key[len(name) + 1 :]: array for key, array in parameters.items() if key.startswith(f"{name}.")}
