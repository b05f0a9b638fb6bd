"""
The compiled engine. recurra._arrays has checked and normalised everything, but for what call and step take; what comes here all the same and does not fit is refused.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
from . import cuda
__all__: list[str] = ['Graph', 'GraphNetwork', 'GraphTape', 'Linear', 'Match', 'Network', 'StepInPlace', 'Stream', 'Tape', 'cells', 'config', 'cuda', 'fingerprint', 'get_num_threads', 'graph_cell', 'limit_memory', 'limits', 'release_memory', 'set_num_threads', 'together']
class Stream:
    """
    The running state of some sequences.
    """
    def get_state(self, states: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Writes the states into arrays [L, B, width].
        """
    def reset(self, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None) -> None:
        """
        Sets all rows, or the given ones, to zero.
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
class Tape:
    """
    What a forward pass leaves for backward.
    """
    def backward(self, dy: numpy.ndarray | None, d_final: collections.abc.Sequence[numpy.ndarray | None], dx: numpy.ndarray | None, d_initial: collections.abc.Sequence[numpy.ndarray] | None, params: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray | None]], add: bool) -> None:
        """
        Writes dx, d_initial and params (nested as in Network), or adds to params; each may be None.
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
    def __init__(self, cell: str, dtype: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, output_size: typing.SupportsInt | typing.SupportsIndex, layers: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, params: collections.abc.Sequence[collections.abc.Sequence[numpy.ndarray | None]], constants: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], precision: str, kept: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], regularization: typing.Annotated[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], "FixedSize(6)"]) -> None:
        """
        params[layer * directions + direction] in the order of the cell's table, None for an absent bias.
        """
    def call(self, x: typing.Any, out: typing.Any, batch_first: bool) -> typing.Any:
        """
        (output, final state) from a zero state; None, and nothing done, if the arrays are not plain enough to use as they are.
        """
    def forward(self, x: numpy.ndarray, h0: collections.abc.Sequence[numpy.ndarray] | None, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, out: numpy.ndarray, hn: collections.abc.Sequence[numpy.ndarray]) -> None:
        """
        Runs x [T, B, I]; writes out [T, B, D * O] and the final states hn [L * D, B, width].
        """
    def get_parameter(self, layer: typing.SupportsInt | typing.SupportsIndex, number: typing.SupportsInt | typing.SupportsIndex, out: numpy.ndarray) -> None:
        """
        Writes params[layer][number] as it was given; no matrix in reduced precision.
        """
    def record(self, x: numpy.ndarray, h0: collections.abc.Sequence[numpy.ndarray] | None, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, out: numpy.ndarray, hn: collections.abc.Sequence[numpy.ndarray], recompute: bool, seed: typing.SupportsInt | typing.SupportsIndex | None) -> Tape:
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
    def __init__(self, cell: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, slots: typing.SupportsInt | typing.SupportsIndex, dimensions: collections.abc.Sequence[str], priority: collections.abc.Sequence[bool], standard: bool, dtype: str, params: collections.abc.Sequence[numpy.ndarray | None]) -> None:
        ...
    def forward(self, x: numpy.ndarray, graph: Graph, given: collections.abc.Sequence[numpy.ndarray | None], out: collections.abc.Sequence[numpy.ndarray | None], recompute: bool | None) -> GraphTape | None:
        """
        Writes the states of all rows; a tape unless `recompute` is None.
        """
def cells() -> dict:
    """
    The table of cells: name -> gates, states, params, constants, projected, unit_range, recurrent_product.
    """
def config() -> dict:
    """
    What was chosen on this machine.
    """
def fingerprint(arrays: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], bytes: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> bytes:
    """
    64 bytes that change when the memory at these addresses does.
    """
def get_num_threads() -> int:
    """
    Threads that one call may use.
    """
def graph_cell(cell: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, slots: typing.SupportsInt | typing.SupportsIndex, dimensions: collections.abc.Sequence[str], priority: collections.abc.Sequence[bool], standard: bool) -> tuple:
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
