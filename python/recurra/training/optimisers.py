"""Stochastic gradient descent, Adam, and clipping: all in place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import as_array, check
from ._checks import floats, number, positive, require_finite

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._arrays import Array, Input

    Grads = Mapping[str, Array] | Iterable[Mapping[str, Array]]


class _Optimizer:
    """The parameters, checked; for each of them some moments, zero at first, and scratch memory that all share."""

    def __init__(self, params: Mapping[str, Array], lr: float, moments: int) -> None:
        self.lr = lr
        self._params = dict(_writeable("params", params))
        arrays = self._params.values()
        sizes = {dtype: max(a.size for a in arrays if a.dtype == dtype) for dtype in {a.dtype for a in arrays}}
        scratch = {dtype: np.empty(size, dtype) for dtype, size in sizes.items()}
        self._buffers = {
            name: [scratch[a.dtype][: a.size].reshape(a.shape), *(np.zeros_like(a) for _ in range(moments))]
            for name, a in self._params.items()
        }

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
            grads: the parameters' names, all of them, to gradients of the same shapes and dtypes.

        Raises:
            TypeError, ValueError: other names, shapes or dtypes; nothing was updated.
            FloatingPointError: a gradient, which is named, is not finite; nothing was updated.
        """
        checked = self._checked(grads)
        self._begin()
        for name, param in self._params.items():
            self._update(param, checked[name], *self._buffers[name])

    def _begin(self) -> None:
        """Once a step, before any `_update`."""

    def _update(self, param: Array, grad: Array, scratch: Array, *moments: Array) -> None:
        raise NotImplementedError

    def _checked(self, grads: Mapping[str, Input]) -> dict[str, Array]:
        params = self._params
        if not isinstance(grads, Mapping):
            raise TypeError(f"grads: expected a mapping of names to arrays, got {type(grads).__name__}")
        if set(grads) != set(params):
            missing, unexpected = sorted(set(params) - set(grads)), sorted(set(grads) - set(params))
            raise ValueError(f"grads: expected all parameters' names, missing {missing}, unexpected {unexpected}")
        checked = {name: check(f"grads {name}", grads[name], p.dtype, p.shape) for name, p in params.items()}
        require_finite((f"grads {name}", grad) for name, grad in checked.items())
        return checked


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum, as torch.optim.SGD:

        v = momentum * v + g
        p = p - lr * v

    (B. Polyak 1964, USSR Comp. Math. 4(5); in the form of I. Sutskever et al. 2013, ICML, with lr outside of v.)

    Args:
        params: names to writeable float32 or float64 arrays, which `step` writes; `layer.state_dict()`, say.
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
        np.multiply(grad, self.lr, out=scratch)
        param -= scratch


class Adam(_Optimizer):
    """Adam with bias correction, as torch.optim.Adam:

        m = beta1 * m + (1 - beta1) * g           v = beta2 * v + (1 - beta2) * g * g
        p = p - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)                 t = 1, 2, ...

    (D. Kingma, J. Ba 2015, ICLR, algorithm 1.)

    Args:
        params: names to writeable float32 or float64 arrays, which `step` writes; `layer.state_dict()`, say.
        lr: learning rate, at least 0; an attribute that may be set. Default 1e-3.
        betas: (beta1, beta2), each in 0 <= beta < 1. Default (0.9, 0.999).
        eps: above 0. Default 1e-8.
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

    def _begin(self) -> None:
        self._t += 1
        root = math.sqrt(1 - self._beta2**self._t)  # taken out of the denominator, which saves a pass over the values
        self._rate, self._floor = self.lr * root / (1 - self._beta1**self._t), self._eps * root

    def _update(self, param: Array, grad: Array, scratch: Array, *moments: Array) -> None:
        mean, square = moments
        np.multiply(grad, 1 - self._beta1, out=scratch)
        mean *= self._beta1
        mean += scratch
        np.multiply(grad, grad, out=scratch)
        scratch *= 1 - self._beta2
        square *= self._beta2
        square += scratch
        np.sqrt(square, out=scratch)
        scratch += self._floor
        np.divide(mean, scratch, out=scratch)
        scratch *= self._rate
        param -= scratch


def clip_grad_norm(grads: Grads, max_norm: float) -> float:
    """Scale gradients in place so that their common Euclidean norm is at most `max_norm`; returns the norm before.

        norm = sqrt(sum of all g^2) in float64,    g = g * min(1, max_norm / (norm + 1e-6))

    (R. Pascanu, T. Mikolov, Y. Bengio 2013, ICML; torch.nn.utils.clip_grad_norm_.)

    Args:
        grads: names to writeable float32 or float64 arrays, or several such mappings that share the norm.
        max_norm: above 0; infinity only measures.

    Raises:
        FloatingPointError: the norm is not finite; names the first gradient to blame. Nothing was changed.
    """
    limit, arrays, total = positive("max_norm", max_norm), _writeable_grads(grads), 0.0
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


def clip_grad_value(grads: Grads, value: float) -> None:
    """Clamp every gradient to -value..value, in place.

    Args:
        grads: names to writeable float32 or float64 arrays, or several such mappings.
        value: above 0.

    Raises:
        FloatingPointError: a gradient, which is named, is not finite; nothing was changed.
    """
    limit, arrays = positive("value", value), _writeable_grads(grads)
    require_finite(arrays)
    for _, array in arrays:
        np.clip(array, -limit, limit, out=array)


def _writeable(title: str, arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    if not isinstance(arrays, Mapping):
        raise TypeError(f"{title}: expected a mapping of names to arrays, got {type(arrays).__name__}")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{title} {name}: expected a NumPy array, got {type(array).__name__}")
        if not floats(f"{title} {name}", array).flags.writeable:
            raise ValueError(f"{title} {name}: expected a writeable array, got a read-only one")
        yield name, as_array(name, array)


def _writeable_grads(grads: Grads) -> list[tuple[str, Array]]:
    """The gradients by the names that errors call them."""
    if isinstance(grads, Mapping):
        return [(f"grads {name}", array) for name, array in _writeable("grads", grads)]
    if not hasattr(grads, "__iter__"):
        raise TypeError(f"grads: expected a mapping or several of them, got {type(grads).__name__}")
    titled = ((f"grads[{k}]", mapping) for k, mapping in enumerate(grads))
    return [(f"{title} {name}", array) for title, mapping in titled for name, array in _writeable(title, mapping)]
