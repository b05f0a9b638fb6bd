"""A stand-in for CuPy where it cannot run: what recurra uses of it, over the memory of a GPU that is that of the host.

As CuPy's its arrays refuse what would wait for the GPU unnoticed, whatever else is an array, and one of another device
than the current one. What waits openly, `get`, is counted.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from checks import Array
from cuda_arrays import Memory, _Addresses

__version__ = "14.0"
waits = 0  # for the GPU
_current = [0]


class Device:
    """A GPU, current inside of a `with` statement."""

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> Device:
        _current.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        _current.pop()


cuda = types.SimpleNamespace(Device=Device, get_current_stream=lambda device: types.SimpleNamespace(ptr=0))


class ndarray:  # noqa: N801
    def __init__(self, host: Array, memory: Any, device: int) -> None:
        self._host, self._memory, self._device = host, memory, device

    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    size = property(lambda self: self._host.size)
    ndim = property(lambda self: self._host.ndim)
    itemsize = property(lambda self: self._host.itemsize)
    device = property(lambda self: Device(self._device))

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._host.ctypes.data if self.size else 0, device_id=self._device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._host.__array_interface__, "version": 3, "stream": 1}

    def get(self) -> Array:
        global waits
        waits += 1
        return self._host.copy()

    def __array__(self, *_: object, **__: object) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> ndarray:
        return _result(self._host[_index(key)], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[_index(key)] = _host(value)

    def __invert__(self) -> ndarray:
        return _call(np.invert, self)  # type: ignore[no-any-return]

    __hash__ = None  # type: ignore[assignment]


def _waiting(name: str) -> Callable[..., Any]:
    """CuPy would wait here; in check_finite that is meant."""

    def method(self: ndarray, *arguments: Any) -> Any:
        assert _may_wait, f"{name} of an array waits for the GPU"
        global waits
        waits += 1
        return getattr(self._host, name)(*arguments)

    return method


_may_wait = False


@contextlib.contextmanager
def waiting_allowed() -> Iterator[None]:
    global _may_wait
    _may_wait = True
    try:
        yield
    finally:
        _may_wait = False


for _name in ("__bool__", "__float__", "__int__", "__index__", "__iter__", "item", "tolist"):
    setattr(ndarray, _name, _waiting(_name))


def _host(value: Any) -> Any:
    """What stands for an argument; arrays of the host, and of other devices, are refused as CuPy does."""
    if isinstance(value, ndarray):
        assert value._device == _current[-1], "an array of another device than the current one"
        return value._host
    if isinstance(value, (list, tuple)):
        return type(value)(map(_host, value))
    assert not isinstance(value, (np.ndarray, np.generic)), "Unsupported type numpy.ndarray"
    return value


def _index(key: Any) -> Any:
    for part in key if isinstance(key, tuple) else (key,):
        assert not (isinstance(part, ndarray) and part.dtype == bool), "a mask has to be counted, which waits"
    return _host(key)


def _new(host: Any) -> ndarray:
    """An array in a GPU's memory with these values."""
    values = np.asarray(host)
    memory = Memory(values.nbytes, _current[-1])
    place: Array = np.empty(values.shape, values.dtype)
    if values.size:
        about = _Addresses(memory.pointer, values.shape, values.dtype)
        about.__array_interface__["typestr"] = values.dtype.str
        place = np.asarray(about)
        place[...] = values
    return ndarray(place, memory, _current[-1])


def _result(host: Any, *arguments: Any) -> ndarray:
    for argument in arguments:
        if isinstance(argument, ndarray) and isinstance(host, np.ndarray) and np.may_share_memory(host, argument._host):
            return ndarray(host, argument._memory, argument._device)
    return _new(host)


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    out = options.pop("out", None)
    hosts = {name: _host(value) for name, value in options.items()}
    if out is not None:
        with np.errstate(all="ignore"):
            function(*map(_host, arguments), out=_host(out), **hosts)
        return out
    with np.errstate(all="ignore"):
        result = function(*map(_host, arguments), **hosts)
    return None if result is None else _result(result, *arguments)


def _function(name: str) -> Callable[..., Any]:
    return lambda *arguments, **options: _call(getattr(np, name), *arguments, **options)


_FUNCTIONS = (
    "arange",
    "clip",
    "concatenate",
    "copyto",
    "count_nonzero",
    "divide",
    "empty",
    "exp",
    "isfinite",
    "log",
    "minimum",
    "moveaxis",
    "multiply",
    "ones",
    "sqrt",
    "square",
    "where",
    "zeros",
    "zeros_like",
)
globals().update({name: _function(name) for name in _FUNCTIONS})


def asarray(value: Any, dtype: Any = None) -> ndarray:
    """From the host, or as it is; CuPy takes NumPy's arrays here."""
    if not isinstance(value, ndarray):
        return _new(np.asarray(value, dtype))
    same = dtype is None or value.dtype == dtype
    return value if same else _new(_host(value).astype(dtype))


def ascontiguousarray(value: ndarray) -> ndarray:
    return _call(np.ascontiguousarray, value)  # type: ignore[no-any-return]


def _method(name: str) -> Callable[..., Any]:
    return lambda self, *arguments, **options: _call(
        lambda host, *others, **named: getattr(host, name)(*others, **named), self, *arguments, **options
    )


for _name in ("all", "argmax", "astype", "clip", "copy", "max", "mean", "ravel", "reshape", "sum", "swapaxes"):
    setattr(ndarray, _name, _method(_name))


def _operator(name: str, function: Callable[..., Any], swapped: bool) -> Callable[..., Any]:
    def method(self: ndarray, other: Any) -> Any:
        if not isinstance(other, (ndarray, int, float)):
            return NotImplemented
        return _call(function, *((other, self) if swapped else (self, other)))

    return method


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: _call(function, self, other, out=self)


_OPERATORS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "lt": np.less,
    "eq": np.equal,
}
for _name, _ufunc in _OPERATORS.items():
    setattr(ndarray, f"__{_name}__", _operator(_name, _ufunc, swapped=False))
    if _name not in ("lt", "eq"):
        setattr(ndarray, f"__r{_name}__", _operator(_name, _ufunc, swapped=True))
        setattr(ndarray, f"__i{_name}__", _in_place(_ufunc))
