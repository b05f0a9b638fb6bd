"""
The GPU. No library of CUDA is opened before it is needed.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['DLPack', 'Linear', 'Memory', 'Network', 'Plan', 'Stream', 'Timer', 'add_rows', 'cache_folder', 'cached', 'compile', 'device', 'device_count', 'device_of', 'found', 'load_rows', 'make_contiguous', 'precompile', 'put_rows', 'resident_unit', 'set_library_path', 'synchronize', 'take_rows', 'units', 'wait']
class Plan:
    """
    What a call of one shape needs; immutable.
    """
    def explain(self) -> str:
        """
        How the engine walks through time, and why.
        """
    @property
    def backward_workspace_bytes(self) -> int:
        ...
    @property
    def engine(self) -> str:
        ...
    @property
    def tape_bytes(self) -> int:
        ...
    @property
    def workspace_bytes(self) -> int:
        ...
class Stream:
    """
    The running state of some sequences on a GPU.
    """
    def get_state(self, states: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]], stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def reset(self, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, stream: typing.SupportsInt | typing.SupportsIndex, states: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]] | None = None) -> None:
        """
        All rows, or the given ones, to zero or to these states.
        """
    def run(self, plan: Plan, x: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], y: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], workspace: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def set_state(self, states: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]], stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def step(self, x: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], y: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        x [B, I], y [B, O].
        """
class Network:
    """
    Weights of a stack of layers on a GPU.
    """
    def __init__(self, cell: str, dtype: str, input_size: typing.SupportsInt | typing.SupportsIndex, hidden_size: typing.SupportsInt | typing.SupportsIndex, output_size: typing.SupportsInt | typing.SupportsIndex, layers: typing.SupportsInt | typing.SupportsIndex, directions: typing.SupportsInt | typing.SupportsIndex, constants: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], regularization: typing.Annotated[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], "FixedSize(6)"], device: typing.SupportsInt | typing.SupportsIndex, engine: str, allow_tf32: bool, reverse: bool = False, heads: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    def backward(self, plan: Plan, dy: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None, d_final: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None] | None, dx: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None, d_initial: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None] | None, params: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], add: bool, seeded: bool, tape: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, weights: typing.SupportsInt | typing.SupportsIndex = 0, d_cells: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None, clip: typing.SupportsFloat | typing.SupportsIndex = ...) -> None:
        ...
    def forward(self, plan: Plan, x: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], initial: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None] | None, lengths: typing.SupportsInt | typing.SupportsIndex, y: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], final_states: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None] | None, seed: typing.SupportsInt | typing.SupportsIndex | None, tape: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex, weights: typing.SupportsInt | typing.SupportsIndex = 0, cells: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex] | None = None) -> None:
        """
        Arrays are (address, outer stride, row stride, column stride). weights: of `pack`; 0: of `set_parameters`.
        """
    def pack(self, params: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], weights: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        The same, to weight_bytes of the caller's memory.
        """
    def plan(self, steps: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, device_lengths: bool, training: bool, recompute: bool, packed: bool = False, cells: bool = False, segments: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None) -> Plan:
        ...
    def set_parameters(self, params: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Addresses by layer and direction, 0 for an absent bias.
        """
    def stream(self, rows: typing.SupportsInt | typing.SupportsIndex) -> Stream:
        ...
    @property
    def weight_bytes(self) -> int:
        ...
class Linear:
    """
    An affine map of rows on a GPU. Arrays are addresses of contiguous numbers.
    """
    def __init__(self, inputs: typing.SupportsInt | typing.SupportsIndex, outputs: typing.SupportsInt | typing.SupportsIndex, dtype: str, device: typing.SupportsInt | typing.SupportsIndex, engine: str, allow_tf32: bool) -> None:
        ...
    def backward(self, x: typing.SupportsInt | typing.SupportsIndex, dy: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, dx: typing.SupportsInt | typing.SupportsIndex, d_weight: typing.SupportsInt | typing.SupportsIndex, d_bias: typing.SupportsInt | typing.SupportsIndex, add: bool, workspace: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        0 for what is not wanted.
        """
    def forward(self, x: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, y: typing.SupportsInt | typing.SupportsIndex, workspace: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def set_parameters(self, weight: typing.SupportsInt | typing.SupportsIndex, bias: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def workspace_bytes(self, rows: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
class Timer:
    """
    The time between two points of a stream, by events.
    """
    def __init__(self, device: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def start(self, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def stop(self, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def microseconds(self) -> float:
        """
        From start to stop; waits for the latter.
        """
class DLPack:
    """
    The array of a DLPack capsule, which is used up.
    """
    def __init__(self, capsule: typing_extensions.CapsuleType) -> None:
        ...
    @property
    def device(self) -> tuple[int, int]:
        """
        DLPack's device type, and number.
        """
    @property
    def dtype(self) -> str:
        ...
    @property
    def item_size(self) -> int:
        ...
    @property
    def pointer(self) -> int:
        ...
    @property
    def readonly(self) -> bool:
        ...
    @property
    def shape(self) -> tuple:
        ...
    @property
    def strides(self) -> typing.Any:
        """
        In elements; None for a C-contiguous array.
        """
class Memory:
    """
    Memory of a GPU, allocated and freed at once.
    """
    def __init__(self, device: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def copy(self, offset: typing.SupportsInt | typing.SupportsIndex, pointer: typing.SupportsInt | typing.SupportsIndex, bytes: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        From memory of the same GPU, in a stream's order.
        """
    def read(self, offset: typing.SupportsInt | typing.SupportsIndex, to: numpy.ndarray) -> None:
        """
        Into a C-contiguous array, which waits.
        """
    def write(self, offset: typing.SupportsInt | typing.SupportsIndex, array: numpy.ndarray) -> None:
        """
        From a C-contiguous array, which waits.
        """
    @property
    def bytes(self) -> int:
        ...
    @property
    def pointer(self) -> int:
        ...
def add_rows(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, table: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, indices: typing.SupportsInt | typing.SupportsIndex, wide: bool, count: typing.SupportsInt | typing.SupportsIndex, from_: typing.SupportsInt | typing.SupportsIndex, add: bool, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    table[indices[i]] += from[i], in order; unless `add`, the table is zero before.
    """
def cache_folder() -> str:
    """
    Where compiled kernels are kept; empty when they are not.
    """
def cached(source: str, options: collections.abc.Sequence[str], architecture: str) -> bytes:
    """
    The cubin, from the cache on disk or put there.
    """
def compilations() -> int:
    """
    How often this process has compiled.
    """
def compile(source: str, options: collections.abc.Sequence[str], architecture: str) -> tuple[bytes, str]:
    """
    The cubin and the compiler's log. Needs NVRTC and no GPU.
    """
def device(ordinal: typing.SupportsInt | typing.SupportsIndex) -> dict:
    """
    A GPU's name, compute capability and number of multiprocessors.
    """
def device_count() -> int:
    """
    How many GPUs there are; 0 without a driver.
    """
def device_of(pointer: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    The number of the GPU that the memory belongs to, -1 if it is of none.
    """
def found() -> list[dict[str, str]]:
    """
    What there is of driver, nvrtc and cublas: name, path, version, problem; empty where there is none.
    """
def load_rows(dtype: str, device: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Loads the kernels of take_rows, put_rows, add_rows and make_contiguous, which else they do at their first call.
    """
def make_contiguous(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, number_size: typing.SupportsInt | typing.SupportsIndex, shape: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], strides: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], from_: typing.SupportsInt | typing.SupportsIndex, to: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    A copy in C order. Strides are in elements; dtype names the kernels.
    """
def precompile(source: str, options: collections.abc.Sequence[str], device: typing.SupportsInt | typing.SupportsIndex) -> bool:
    """
    Puts what a GPU needs into the cache on disk; returns whether it was there.
    """
def put_rows(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, table: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, indices: typing.SupportsInt | typing.SupportsIndex, wide: bool, count: typing.SupportsInt | typing.SupportsIndex, from_: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    table[indices[i]] = from[i], for different indices; those of no row are left out.
    """
def resident_unit(cell: str, dtype: str, hidden: typing.SupportsInt | typing.SupportsIndex, output: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, backward: bool = False, cluster: typing.SupportsInt | typing.SupportsIndex = 1, grid: bool = False, fragment_rows: typing.SupportsInt | typing.SupportsIndex = 8) -> tuple[str, list[str], int, int, float, list[int]]:
    """
    The kernel of all steps at once, of so many rows a block, or a cluster or grid of them: (source, options, threads, bytes of shared memory, cycles a step by arithmetic, numbers that a product of each phase sums up).
    """
def set_library_path(library: str, path: str) -> None:
    """
    Where "nvrtc" or "cublas" is, unless one is loaded already.
    """
def synchronize(device: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Waits for a stream; not for calls.
    """
def take_rows(dtype: str, device: typing.SupportsInt | typing.SupportsIndex, table: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, columns: typing.SupportsInt | typing.SupportsIndex, indices: typing.SupportsInt | typing.SupportsIndex, wide: bool, count: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    out[i] = table[indices[i]]; indices are int64 if `wide`, else int32.
    """
def units(dtype: str) -> list[tuple[str, str, list[str]]]:
    """
    What is compiled for networks of a dtype: (name, source, options), the name a cell's or another.
    """
def wait(stream: typing.SupportsInt | typing.SupportsIndex, producer: typing.SupportsInt | typing.SupportsIndex, device: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Makes a stream wait for what another has been given so far.
    """
