"""Stochastic gradient descent, Adam, and clipping: all in place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import check_distinct, may_overlap_itself, own_array
from .._options import mapping
from ..cuda.array_libraries import is_cupy
from ._checks import beside, device_of, floats, namespace_of, number, place, positive, require_finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._arrays import Array, Input

    Grads = Mapping[str, Array] | Iterable[Mapping[str, Array]]


class _Optimizer:
    """The parameters, checked; for each of them some moments, zero at first, and scratch memory that all share."""

    def __init__(self, params: Mapping[str, Array], lr: float, moments: int) -> None:
        self.lr = lr
        self._params = {name: array for name, _, array in _writeable("params", params)}
        _require_apart([(f"params {name}", array) for name, array in self._params.items()])
        shared: dict[Any, Any] = {}
        for array in sorted(self._params.values(), key=lambda a: -a.size):
            with device_of(array):
                if _kind(array) not in shared:
                    shared[_kind(array)] = namespace_of(array).empty(array.size, array.dtype)
        self._buffers = {}
        for name, array in self._params.items():
            with device_of(array):
                zeros = [namespace_of(array).zeros_like(array) for _ in range(moments)]
                self._buffers[name] = [shared[_kind(array)][: array.size].reshape(array.shape), *zeros]

    @property
    def lr(self) -> float:
        """The learning rate, at least 0; may be set between steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = number("lr", value)

    def step(self, grads: Mapping[str, Input]) -> None:
        """Update the parameters in place.

        Args:
            grads: the parameters' names, all of them, to gradients of the same shapes and dtypes, where they are.

        Raises:
            TypeError, ValueError: other names, shapes or dtypes; nothing was updated.
            FloatingPointError: a gradient, which is named, is not finite; nothing was updated. On a GPU nobody waits
                to see it, and the parameter becomes NaN.
        """
        checked = self._checked(grads)
        self._begin()
        for name, param in self._params.items():
            with device_of(param):
                self._update(param, checked[name], *self._buffers[name])

    def _begin(self) -> None:
        """Once a step, before any `_update`."""

    def _update(self, param: Array, grad: Array, scratch: Array, *moments: Array) -> None:
        raise NotImplementedError

    def _checked(self, grads: Mapping[str, Input]) -> dict[str, Array]:
        params, given = self._params, mapping("grads", grads)
        if set(given) != set(params):
            missing, unexpected = sorted(set(params) - set(given)), sorted(set(given) - set(params))
            raise ValueError(f"grads: expected all parameters' names, missing {missing}, unexpected {unexpected}")
        checked = {name: beside(f"grads {name}", given[name], p, p.dtype, p.shape) for name, p in params.items()}
        for name, grad in checked.items():
            if not is_cupy(grad):
                self._require_usable(f"grads {name}", grad)
        return checked

    def _require_usable(self, name: str, grad: Array) -> None:
        require_finite([(name, grad)])


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD.

        >>> params = {"w": np.ones(2)}
        >>> training.SGD(params, lr=0.5).step({"w": np.array([1.0, -1.0])})
        >>> params["w"].tolist()
        [0.5, 1.5]

    The step is

        v = momentum * v + g
        p = p - lr * v

    (B. Polyak 1964, USSR Comp. Math. 4(5); in the form of I. Sutskever et al. 2013, ICML, with lr outside of v.)

    Args:
        params: names to writeable float32 or float64 arrays, of NumPy or CuPy, which `step` writes: of
            `layer.state_dict()`, say.
        lr: learning rate, at least 0; an attribute that may be set.
        momentum: at least 0; default none.
    """

    def __init__(self, params: Mapping[str, Array], lr: float, momentum: float = 0.0) -> None:
        self._momentum = number("momentum", momentum)
        super().__init__(params, lr, moments=1 if self._momentum else 0)

    def _update(self, param: Array, grad: Array, scratch: Array, *moments: Array) -> None:
        for velocity in moments:  # one or none
            velocity *= self._momentum
            velocity += grad
            grad = velocity
        namespace_of(param).multiply(grad, self.lr, out=scratch)
        param -= scratch


class Adam(_Optimizer):
    """Adam with bias correction, as torch.optim.Adam.

        >>> layer = recurra.GRU(12, 64)
        >>> params = layer.state_dict()
        >>> optimizer = training.Adam(params, lr=3e-3)
        >>> y, h, tape = layer.forward(np.ones((100, 8, 12), "float32"))
        >>> optimizer.step(tape.backward(np.ones_like(y)).params)
        >>> layer.load_state_dict(params)

    The step is

        m = beta1 * m + (1 - beta1) * g           v = beta2 * v + (1 - beta2) * g * g
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)                 t = 1, 2, ...

    (D. Kingma, J. Ba 2015, ICLR, algorithm 1.)

    Args:
        params: names to writeable float32 or float64 arrays, of NumPy or CuPy, which `step` writes: of
            `layer.state_dict()`, say.
        lr: learning rate, at least 0; an attribute that may be set. Default 1e-3.
        betas: (beta1, beta2), each in 0 <= beta < 1. Default (0.9, 0.999).
        eps: above 0. Default 1e-8.

    A gradient whose square the dtype does not hold (1.8e19 in float32) is refused like one that is not finite: its v
    would be infinite, and the parameter would never move again. Even an exact v would hold it still for 1e5 steps; clip
    such a gradient, or skip it. On a GPU, where nobody waits to see it, the parameter does not move again.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas: expected two numbers, got {betas!r}")
        self._beta1, self._beta2 = (number("betas", beta, below=1) for beta in betas)
        self._eps, self._t = positive("eps", eps), 0
        super().__init__(params, lr, moments=2)
        for dtype in {array.dtype for array in self._params.values()}:
            limits, root = np.finfo(dtype), math.sqrt(1 - self._beta2)  # what `_begin` makes of eps is least at t = 1
            least, most = float(limits.tiny) / root, float(limits.max)
            if not least <= self._eps <= most:
                raise ValueError(f"eps: expected {least:.3g} to {most:.3g}, which {dtype} holds, got {eps}")

    def _require_usable(self, name: str, grad: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.vdot(grad, grad)):  # and so every square
                return
        super()._require_usable(name, grad)
        if (largest := float(np.abs(grad).max())) > math.sqrt(np.finfo(grad.dtype).max):
            raise FloatingPointError(f"{name}: expected values whose squares {grad.dtype} holds, got {largest:.3g}")

    def _begin(self) -> None:
        self._t += 1
        root = math.sqrt(1 - self._beta2**self._t)  # taken out of the denominator, which saves a pass over the values
        self._rate, self._floor = self.lr * root / (1 - self._beta1**self._t), self._eps * root

    def _update(self, param: Array, grad: Array, scratch: Array, *moments: Array) -> None:
        (mean, square), xp = moments, namespace_of(param)
        xp.multiply(grad, 1 - self._beta1, out=scratch)
        mean *= self._beta1
        mean += scratch
        xp.multiply(grad, grad, out=scratch)
        scratch *= 1 - self._beta2
        square *= self._beta2
        square += scratch
        xp.sqrt(square, out=scratch)
        scratch += self._floor
        xp.divide(mean, scratch, out=scratch)
        scratch *= self._rate
        param -= scratch


def clip_grad_norm(grads: Grads, max_norm: float) -> float:
    """Scale gradients in place so that their common Euclidean norm is at most `max_norm`; returns the norm before. An
    array that is given several times counts once.

        >>> gradients = {"w": np.array([3.0, 4.0])}
        >>> training.clip_grad_norm(gradients, max_norm=1.0)
        5.0
        >>> gradients["w"].round(3).tolist()
        [0.6, 0.8]

        norm = sqrt(sum of all g^2) in float64,    g = g * min(1, max_norm / (norm + 1e-6))

    (R. Pascanu, T. Mikolov, Y. Bengio 2013, ICML; torch.nn.utils.clip_grad_norm_.)

    Args:
        grads: names to writeable float32 or float64 arrays of NumPy or CuPy, or several such mappings that share the
            norm.
        max_norm: above 0; infinity only measures.

    Returns:
        A float; on a GPU an array of no axes, which nobody has waited for.

    Raises:
        ValueError: different arrays overlap, or are in different places.
        FloatingPointError: the norm is not finite; names the first gradient to blame. Nothing was changed. On a GPU,
            where nobody waits to see it, gradients become NaN.
    """
    limit, arrays, total = positive("max_norm", max_norm), _writeable_grads(grads), 0.0
    if any(is_cupy(array) for _, array in arrays):
        measured: float = _clip_norm_on_gpu(arrays, limit)
        return measured
    for name, array in arrays:
        with np.errstate(over="ignore", invalid="ignore"):
            total += float(np.square(array, dtype=np.float64).sum())
        if not math.isfinite(total):
            raise FloatingPointError(f"{name}: expected a finite norm, got {total}")
    norm = math.sqrt(total)
    scale = limit / (norm + 1e-6)
    if scale < 1:
        for _, array in arrays:
            array *= scale
    return norm


def _clip_norm_on_gpu(arrays: list[tuple[str, Any]], limit: float) -> Any:
    first = arrays[0][1]
    for name, array in arrays:
        if place(array) != place(first):
            raise ValueError(f"{name}: expected {place(first)}, as {arrays[0][0]}, got {place(array)}")
    xp = namespace_of(first)
    with device_of(first):
        squares = [xp.square(array, dtype=np.float64).sum() for _, array in arrays]
        norm = xp.sqrt(sum(squares[1:], squares[0]))
        scale = xp.minimum(limit / (norm + 1e-6), 1.0)
        for _, array in arrays:
            array *= scale.astype(array.dtype)
    return norm


def clip_grad_value(grads: Grads, value: float) -> None:
    """Clamp every gradient to -value..value, in place.

        >>> gradients = {"w": np.array([-3.0, 0.5])}
        >>> training.clip_grad_value(gradients, 1.0)
        >>> gradients["w"].tolist()
        [-1.0, 0.5]

    Args:
        grads: names to writeable float32 or float64 arrays of NumPy or CuPy, or several such mappings.
        value: above 0.

    Raises:
        FloatingPointError: a gradient, which is named, is not finite; nothing was changed. On a GPU nobody waits to
            see it: NaN stays.
    """
    limit, arrays = positive("value", value), _writeable_grads(grads)
    require_finite((name, array) for name, array in arrays if not is_cupy(array))
    for _, array in arrays:
        with device_of(array):
            namespace_of(array).clip(array, -limit, limit, out=array)


def _writeable(title: str, arrays: Mapping[str, Array]) -> Iterator[tuple[str, str, Array]]:
    """Each array's name, what errors call it, and a plain view of it."""
    for name, given in mapping(title, arrays).items():
        called = f"{title} {name}"
        array = floats(called, given if is_cupy(given) else own_array(called, given))
        if not is_cupy(array) and not array.flags.writeable:
            raise ValueError(f"{called}: expected a writeable array, got a read-only one")
        yield name, called, array


def _writeable_grads(grads: Grads) -> list[tuple[str, Array]]:
    """The gradients, each once, by the names that errors call them."""
    if isinstance(grads, Mapping):
        several = {"grads": grads}
    else:
        try:
            if isinstance(grads, (str, bytes, np.ndarray)):
                raise TypeError("an empty one would pass")
            several = {f"grads[{k}]": one for k, one in enumerate(grads)}
        except Exception as error:  # nothing to iterate over, or whatever the caller's __iter__ raises
            raise TypeError(f"grads: expected a mapping or several of them, got {type(grads).__name__}") from error
    distinct: dict[Any, tuple[str, Array]] = {}
    for title, one in several.items():
        for _, called, array in _writeable(title, one):
            layout = _addresses(called, array).__array_interface__["data"][0], array.shape, array.strides, array.dtype
            distinct.setdefault(layout, (called, array))
    found = list(distinct.values())
    _require_apart(found)
    return found


def _require_apart(arrays: list[tuple[str, Any]]) -> None:
    """ValueError unless every number of these arrays, which are to be written, has its own place."""
    others: dict[str, Array] = {}
    for name, array in arrays:
        where = _addresses(name, array)
        if may_overlap_itself(where):
            raise ValueError(f"{name}: expected elements that do not overlap each other, got strides {array.strides}")
        check_distinct(where, others, name)
        others[name] = where


def _addresses(name: str, array: Any) -> Array:
    """An array of NumPy at the same addresses, which is not to be read."""
    if not is_cupy(array):
        return array  # type: ignore[no-any-return]
    from ..cuda.arrays import view
    from ..cuda.launch import addresses

    return addresses(view(name, array, array.dtype.name, (...,), device=array.device.id))


def _kind(array: Any) -> tuple[str, Any]:
    return place(array), array.dtype
