"""What a training loop needs around `layer.forward` and `tape.backward`, in NumPy or CuPy.

    >>> layer = recurra.GRU(1, 4, seed=0)
    >>> params = layer.state_dict()
    >>> optimizer = training.Adam(params, lr=0.03)
    >>> x = np.eye(4, dtype="float32")[[0, 1, 2, 3, 0]].sum(1)[:, None, None]
    >>> targets = np.array([[0], [1], [2], [3], [0]])
    >>> for epoch in range(300):
    ...     y, state, tape = layer.forward(x)
    ...     loss, dy = training.softmax_cross_entropy(y, targets)
    ...     gradients = tape.backward(dy).params
    ...     _ = training.clip_grad_norm(gradients, 1.0)
    ...     optimizer.step(gradients)  # in place
    ...     layer.load_state_dict(params)
    >>> bool((y.argmax(-1) == targets).all())
    True

On a GPU it is the same loop over arrays of CuPy, for which parameters are copied there once:

    layer = recurra.GRU(1, 4, device="cuda")
    params = {name: cupy.asarray(array) for name, array in layer.state_dict().items()}

There everything is put on CuPy's current stream, losses and norms are arrays of no axes, and nobody waits for them;
only `load_state_dict` waits, until it has copied the parameters, without their coming to the CPU. So no number is
looked at: what is not finite goes on, and `check_finite`, which waits, says where it arose. (torch has losses and
optimisers for its own tensors.)

Wrong arguments raise a TypeError or ValueError that names the argument, what was expected and what came. Numbers that
are not finite raise a FloatingPointError that says where they arose. In both cases nothing has been changed.
"""

from __future__ import annotations

from .fit import History, fit
from .losses import check_finite, last_step, max_over_time, mean_squared_error, softmax_cross_entropy, step_mask
from .optimisers import SGD, Adam, clip_grad_norm, clip_grad_value
from .truncated import Window, tbptt, windows

__all__ = [
    "SGD",
    "Adam",
    "History",
    "Window",
    "check_finite",
    "clip_grad_norm",
    "clip_grad_value",
    "fit",
    "last_step",
    "max_over_time",
    "mean_squared_error",
    "softmax_cross_entropy",
    "step_mask",
    "tbptt",
    "windows",
]
