"""
The compiled engine. recurra._arrays has checked and normalised everything, but for what call and step take; what comes here all the same and does not fit is refused.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
from . import cuda
__all__: list[str] = ['Graph', 'GraphNetwork', 'GraphTape', 'Linear', 'Marks', 'Match', 'Model', 'ModelStream', 'Network', 'StepInPlace', 'Stream', 'Tape', 'activations', 'cells', 'config', 'cuda', 'drop_between', 'fingerprint', 'get_num_threads', 'graph_cell', 'limit_memory', 'limits', 'release_memory', 'set_num_threads', 'together']
class Stream:
    """
    The running state of some sequences.
    """
    def get_state(self, states: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Writes the states into arrays [L, B, width].
        """
    def reset(self, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, states: collections.abc.Sequence[numpy.ndarray] | None = None) -> None:
        """
        Sets all rows, or the given ones, to zero or to states [L, rows, width]; or all to [L, 1, width].
        """
    def run(self, x: numpy.ndarray, out: numpy.ndarray) -> None:
        """
        Steps x [T, B, I] to out [T, B, O].
        """
    def set_state(self, states: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Reads the states from arrays [L, B, width].
        """
    def step(self, otherwise: typing.Any) -> typing.Any:
        """
        A function (x, out=None) for one step; it hands arrays that it cannot use as they are to `otherwise`.
        """
class Marks:
    """
    What befalls steps of a call.
    """
    def __init__(self, resets: numpy.ndarray | None, mask: numpy.ndarray | None, reset_state: collections.abc.Sequence[numpy.ndarray] | None, repeat: bool) -> None:
        """
        Booleans [T, B] and the state [L * D, B, width] of resets; None: no resets, all steps valid, zeros. repeat: whether masked steps have the last output, else zeros.
        """
    @property
    def mask(self) -> numpy.ndarray | None:
        ...
    @property
    def repeat(self) -> bool:
        ...
    @property
    def reset_state(self) -> list[numpy.ndarray] | None:
        ...
    @property
    def resets(self) -> numpy.ndarray | None:
        ...
class Tape:
    """
    What a forward pass leaves for backward.
    """
    def backward(self, dy: numpy.ndarray | None, d_final: collections.abc.Sequence[numpy.ndarray | None], dx: numpy.ndarray | None, d_initial: collections.abc.Sequence[numpy.ndarray] | None, params: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray | None]], add: bool, d_reset: collections.abc.Sequence[numpy.ndarray] | None = None, d_cells: numpy.ndarray | None = None, clip: typing.SupportsFloat | typing.SupportsIndex = ...) -> None:
        """
        Writes dx, d_initial and params (nested as in Network), or adds to params; adds to d_reset, the gradient of the state that rows are reset to; each may be None.
        """
    @property
    def nbytes(self) -> int:
        ...
class Linear:
    """
    A packed affine map of rows; immutable.
    """
    def __init__(self, weight: numpy.ndarray, bias: numpy.ndarray | None) -> None:
        """
        weight [outputs, inputs].
        """
    def backward(self, x: numpy.ndarray, dy: numpy.ndarray, dx: numpy.ndarray | None, d_weight: numpy.ndarray, d_bias: numpy.ndarray | None) -> None:
        """
        Writes dx unless it is None, adds to d_weight and d_bias.
        """
    def forward(self, x: numpy.ndarray, y: numpy.ndarray) -> None:
        """
        Writes y [rows, outputs]; all C-contiguous.
        """
class Match:
    """
    A match-LSTM between two sequences of states, one direction; immutable.
    """
    def __init__(self, dtype: str, size: typing.SupportsInt | typing.SupportsIndex, units: typing.SupportsInt | typing.SupportsIndex, weight_state: numpy.ndarray, weight_score: numpy.ndarray, lstm: collections.abc.Sequence[numpy.ndarray | None]) -> None:
        """
        lstm: weight_ih, weight_hh, bias_ih, bias_hh, None for an absent bias.
        """
    def backward(self, arrays: collections.abc.Sequence[numpy.ndarray], record: numpy.ndarray | None, word_counts: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, reverse: bool, gradients: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        arrays as of forward; gradients: dy, d_values, d_keys, d_chains, d_joined, d_gates, d_weight, zeros at first.
        """
    def forward(self, arrays: collections.abc.Sequence[numpy.ndarray], record: numpy.ndarray | None, word_counts: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, reverse: bool) -> None:
        """
        arrays: values [M+1, B, H], keys [M+1, B, A], queries [T, B, A], joined [T, B, 2H], y [T, B, H], alpha [T, B, M+1]. Writes y, alpha, the first halves of joined and, unless it is None, record.
        """
    def record_size(self, steps: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Numbers of a record.
        """
class StepInPlace:
    """
    One step of one row, from unpacked weights at their addresses.
    """
    def __init__(self, cell: str, dtype: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, output_size: typing.SupportsInt | typing.SupportsIndex, layers: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, constants: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex]) -> None:
        ...
    def run(self, x: typing.SupportsInt | typing.SupportsIndex, params: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], initial: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] | None, y: typing.SupportsInt | typing.SupportsIndex, final_states: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        """
        All are addresses of contiguous numbers; params one after another as in Network, 0 for an absent bias.
        """
class Network:
    """
    Packed weights of a stack of layers; immutable.
    """
    def __init__(self, cell: str, dtype: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, output_size: typing.SupportsInt | typing.SupportsIndex, layers: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, params: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray | None]], constants: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], precision: str, kept: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], regularization: typing.Annotated[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], "FixedSize(6)"], reverse: bool = False, heads: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        """
        params[layer * directions + direction] in the order of the cell's table, None for an absent bias.
        """
    def call(self, x: typing.Any, out: typing.Any, batch_first: bool, resets: typing.Any = None, mask: typing.Any = None, repeat: bool = True) -> typing.Any:
        """
        (output, final state) from a zero state; None, and nothing done, if the arrays are not plain enough to use as they are.
        """
    def forward(self, x: numpy.ndarray, h0: collections.abc.Sequence[numpy.ndarray] | None, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, out: numpy.ndarray, hn: collections.abc.Sequence[numpy.ndarray], marks: Marks | None = None, cells: numpy.ndarray | None = None) -> None:
        """
        Runs x [T, B, I]; writes out [T, B, D * O], the final states hn [L * D, B, width] and, unless it is None, the last layer's second state of every step, cells [T, B, D * H].
        """
    def get_parameter(self, layer: typing.SupportsInt | typing.SupportsIndex, number: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None:
        """
        Writes params[layer][number] as it was given; no matrix in reduced precision.
        """
    def record(self, x: numpy.ndarray, h0: collections.abc.Sequence[numpy.ndarray] | None, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, out: numpy.ndarray, hn: collections.abc.Sequence[numpy.ndarray], recompute: bool, seed: typing.SupportsInt | typing.SupportsIndex | None, marks: Marks | None = None, cells: numpy.ndarray | None = None) -> Tape:
        """
        As forward, and returns a tape.
        """
    def stream(self, batch: typing.SupportsInt | typing.SupportsIndex, unbatched: bool, threads: typing.SupportsInt | typing.SupportsIndex, head: Linear | None) -> Stream:
        """
        head: of every step's output, a Linear of the same dtype, or None.
        """
    @property
    def weight_bytes(self) -> int:
        ...
class ModelStream:
    """
    The running state of some sequences on their way through a model.
    """
    def frames(self, output: typing.SupportsInt | typing.SupportsIndex, steps: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        How many come out of the next so many steps.
        """
    def get_recurrent(self, node: typing.SupportsInt | typing.SupportsIndex, states: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Writes the states of a recurrent node.
        """
    def get_state(self, number: typing.SupportsInt | typing.SupportsIndex, array: numpy.ndarray) -> None:
        """
        Writes one of them.
        """
    def reset(self, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None) -> None:
        """
        All rows, or the given ones, to where they began.
        """
    def reset_recurrent(self, node: typing.SupportsInt | typing.SupportsIndex, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, states: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Sets those of some rows, as of Stream.
        """
    def run(self, steps: typing.SupportsInt | typing.SupportsIndex, inputs: collections.abc.Sequence[numpy.ndarray], outputs: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Steps inputs [T, B, size] to outputs.
        """
    def set_recurrent(self, node: typing.SupportsInt | typing.SupportsIndex, states: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Reads them.
        """
    def set_state(self, number: typing.SupportsInt | typing.SupportsIndex, array: numpy.ndarray) -> None:
        """
        Reads it.
        """
    def states(self) -> list:
        """
        Name, shape and whether it is int64, of all states but those of recurrent nodes.
        """
    def step(self, otherwise: typing.Any) -> typing.Any:
        """
        As of Stream; None from it: a stride waits for more steps.
        """
class Model:
    """
    Layers in a chain or a small graph; immutable.
    """
    def __init__(self, dtype: str, structure: str, networks: collections.abc.Mapping[str, Network], linears: collections.abc.Mapping[str, Linear], tensors: collections.abc.Mapping[str, numpy.ndarray]) -> None:
        """
        structure: JSON; packed layers by node, whose weights are shared; other parameters as "node.parameter".
        """
    def forward(self, inputs: collections.abc.Sequence[numpy.ndarray], outputs: collections.abc.Sequence[numpy.ndarray], lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, resets: numpy.ndarray | None, mask: numpy.ndarray | None, repeat: bool, initial: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray] | None], reset_state: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray] | None], final_states: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray] | None]) -> None:
        """
        Runs inputs [T, B, size], or [T, B] of int64, with T = 1 for those without time, and writes outputs. States by recurrent node, None for some, or none at all.
        """
    def output_steps(self, output: typing.SupportsInt | typing.SupportsIndex, steps: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> int:
        """
        Of an output, for so many of each input.
        """
    def recurrent(self) -> list[str]:
        """
        Names of the recurrent nodes, in the order of states.
        """
    def stream(self, batch: typing.SupportsInt | typing.SupportsIndex, unbatched: bool, threads: typing.SupportsInt | typing.SupportsIndex) -> ModelStream:
        """
        A stream of it.
        """
    @property
    def multiplications(self) -> float:
        """
        About: of one row's step.
        """
class Graph:
    """
    Rows in fronts, their predecessors and inputs; immutable.
    """
    def __init__(self, fronts: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], before: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], source: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], first: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, children: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None) -> None:
        ...
class GraphTape:
    """
    What a forward pass over a graph leaves for backward.
    """
    def backward(self, d_states: collections.abc.Sequence[numpy.ndarray | None], dx: numpy.ndarray | None, d_given: collections.abc.Sequence[numpy.ndarray | None], params: collections.abc.Sequence[numpy.ndarray | None]) -> None:
        """
        Writes dx, d_given and params; dx and any of params may be None.
        """
    @property
    def nbytes(self) -> int:
        ...
class GraphNetwork:
    """
    Packed weights of a cell of graphs; immutable.
    """
    def __init__(self, cell: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, slots: typing.SupportsInt | typing.SupportsIndex, dimensions: collections.abc.Sequence[str], priority: collections.abc.Sequence[bool], residual: collections.abc.Sequence[bool], standard: bool, dtype: str, params: collections.abc.Sequence[numpy.ndarray | None]) -> None:
        ...
    def forward(self, x: numpy.ndarray, graph: Graph, given: collections.abc.Sequence[numpy.ndarray | None], out: collections.abc.Sequence[numpy.ndarray | None], recompute: bool | None) -> GraphTape | None:
        """
        Writes the states of all rows; a tape unless `recompute` is None.
        """
def activations() -> list[str]:
    """
    Names of activation functions; a constant that chooses one is its index here.
    """
def cells() -> dict:
    """
    The table of cells: name -> gates, states, params, constants, projected, unit_range, recurrent_product, has_heads.
    """
def config() -> dict:
    """
    What was chosen on this machine.
    """
def drop_between(x: numpy.ndarray, rate: typing.SupportsFloat | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex, lane: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    In place: what training leaves out of x [T, B, size] on its way from layer `lane` to the next.
    """
def fingerprint(arrays: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], bytes: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> bytes:
    """
    64 bytes that change when the memory at these addresses does.
    """
def get_num_threads() -> int:
    """
    Threads that one call may use.
    """
def graph_cell(cell: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, slots: typing.SupportsInt | typing.SupportsIndex, dimensions: collections.abc.Sequence[str], priority: collections.abc.Sequence[bool], residual: collections.abc.Sequence[bool], standard: bool) -> tuple:
    """
    The states of a cell of graphs, and its parameters: name, shape, whether it may be left out.
    """
def limit_memory(bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    MemoryError where a call, tape, stream or network would take more than that together with all others.
    """
def limits(threads: typing.SupportsInt | typing.SupportsIndex, sizes_kib: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = []) -> dict:
    """
    What this machine can do at best on one thread, and what so many threads read together: GFLOP/s and GB/s. Takes some seconds, or milliseconds where the sizes of the blocks to be read are named: just now.
    """
def release_memory() -> None:
    """
    Gives back to the system the memory that calls and tapes have left for those to come, at most 128 MiB, and with glibc what is free on its heap. No result depends on it; the next large call has new pages to fetch.
    """
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    At least 1; granted up to the CPUs this process may use.
    """
def together(threads: typing.SupportsInt | typing.SupportsIndex) -> dict:
    """
    What so many threads have of each other just now: their multiply-adds at once, in those of one, and the nanoseconds until one sees what another has written. Takes about a millisecond.
    """
