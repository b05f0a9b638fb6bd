"""The oracle of models in files of RTNeural, AIDA-X, NAM and GuitarML: NumPy float64, straight from the JSON, a step
at a time, as those programs run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "": lambda a: a,
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "sigmoid": sigmoid,
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(),
    "elu": lambda a: np.where(a > 0, a, np.exp(np.minimum(a, 0)) - 1),
}


def rtneural(found: dict[str, Any], x: Array) -> Any:
    """Outputs [T, O] of inputs [T, I], with AIDA-X's gains."""
    gains = [10 ** (found.get(name, 0) / 20) for name in ("in_gain", "out_gain")]
    x = np.array(x, "float64").reshape(len(x), -1)
    x[:, 0] *= gains[0]
    y: Any = x
    for layer in found["layers"]:
        y = np.array(_layer(layer, y))
        if layer["type"] not in ("gru", "lstm", "prelu", "batchnorm", "batchnorm2d"):
            y = np.array([FUNCTIONS[layer.get("activation", "")](step) for step in y])
    if found.get("in_skip"):
        y = y + x[:, :1]
    return y * gains[1]


def _layer(layer: dict[str, Any], x: Array) -> Any:
    weights: list[Any] = [np.array(part, "float64") for part in layer["weights"]]
    kind = layer["type"]
    if kind in ("dense", "time-distributed-dense"):
        return x @ weights[0] + (weights[1] if len(weights) > 1 else 0)
    if kind == "conv1d":
        return _conv1d(layer, weights, x)
    if kind == "conv2d":
        return _conv2d(layer, weights, x)
    if kind == "gru":
        return _gru(x, *weights)
    if kind == "lstm":
        return lstm(x, weights[0].T, weights[1].T, weights[2])
    if kind == "prelu":
        return np.where(x >= 0, x, x * weights[0][0])
    if kind in ("batchnorm", "batchnorm2d"):
        gamma, beta, mean, variance = weights if len(weights) == 4 else (1.0, 0.0, *weights)
        channels = x.reshape(len(x), -1, len(mean))  # the same for every feature
        return (gamma * (channels - mean) / np.sqrt(variance + layer["epsilon"]) + beta).reshape(x.shape)
    assert kind == "activation"
    return x


def _conv1d(layer: dict[str, Any], weights: list[Array], x: Array) -> Array:
    kernel, bias = weights  # [k, I / groups, O]
    size, inputs, outputs = kernel.shape
    groups = layer.get("groups", 1)
    y = np.zeros((len(x), outputs)) + bias
    for t in range(len(x)):
        for j in range(size):
            if (s := t - layer["dilation"][-1] * (size - 1 - j)) < 0:
                continue
            for o in range(outputs):
                first = o // (outputs // groups) * inputs
                y[t, o] += x[s, first : first + inputs] @ kernel[j, :, o]
    return y


def _conv2d(layer: dict[str, Any], weights: list[Array], x: Array) -> Array:
    kernel, bias = weights  # [kt, kw, I, O]
    time, reach, inputs, outputs = kernel.shape
    width, stride = layer["num_features_in"], layer["strides"]
    planes = x.reshape(len(x), width, inputs)
    windows = (width - reach) // stride + 1
    if layer["padding"] == "same":
        windows = -(-width // stride)
        total = max(0, (windows - 1) * stride + reach - width)
        planes = np.pad(planes, ((0, 0), (total // 2, total - total // 2), (0, 0)))
    y = np.zeros((len(x), windows, outputs)) + bias
    for t in range(len(x)):
        for j in range(time):
            if (s := t - layer["dilation"] * (time - 1 - j)) >= 0:
                for w in range(windows):
                    y[t, w] += np.einsum("ki,kio->o", planes[s, w * stride : w * stride + reach], kernel[j])
    return y.reshape(len(x), -1)


def _gru(x: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """Keras's with reset_after: columns z, r, candidate."""
    h, out = np.zeros(len(recurrent)), []
    for step in x:
        of_x, of_h = (np.split(part, 3) for part in (step @ kernel + bias[0], h @ recurrent + bias[1]))
        z, r = sigmoid(of_x[0] + of_h[0]), sigmoid(of_x[1] + of_h[1])
        h = z * h + (1 - z) * np.tanh(of_x[2] + r * of_h[2])
        out.append(h)
    return np.array(out)


def lstm(x: Array, w: Array, u: Array, b: Array, h: Any = None, c: Any = None) -> Array:
    """Rows i, f, g, o."""
    h, c = (np.zeros(u.shape[1]) if part is None else part for part in (h, c))
    out = []
    for step in x:
        i, f, g, o = np.split(w @ step + u @ h + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def nam(found: dict[str, Any], x: Array) -> Any:
    """Outputs [T, O] of inputs [T, I]: the weights as NAM/lstm.cpp reads them, one after another."""
    config, weights = found["config"], iter(found["weights"])
    hidden, y = config["hidden_size"], np.array(x, "float64")

    def take(*shape: int) -> Array:
        return np.array([next(weights) for _ in range(int(np.prod(shape)))], "float64").reshape(shape)

    for layer in range(config["num_layers"]):
        inputs = hidden if layer else config["input_size"]
        w, b, h, c = take(4 * hidden, inputs + hidden), take(4 * hidden), take(hidden), take(hidden)
        y = lstm(y, w[:, :inputs], w[:, inputs:], b, h, c)
    outputs = config.get("out_channels", 1)
    weight, bias = take(outputs, hidden), take(outputs)
    assert next(weights, None) is None
    return y @ weight.T + bias


def guitarml(found: dict[str, Any], x: Array) -> Any:
    """Outputs [T, O] of inputs [T, I]: torch's layers, a Linear, and the first inputs added."""
    data, parameters = found["model_data"], {n: np.array(a, "float64") for n, a in found["state_dict"].items()}
    y = np.array(x, "float64")
    for layer in range(data["num_layers"]):
        w, u, b, d = (parameters[f"rec.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        if data["unit_type"] == "LSTM":
            y = lstm(y, w, u, b + d)
        elif data["unit_type"] == "GRU":
            order = [1, 0, 2]  # torch's rows r, z, n
            turned = [a.reshape(3, -1, *a.shape[1:])[order].reshape(a.shape) for a in (w, u, b, d)]
            y = _gru(y, turned[0].T, turned[1].T, np.stack(turned[2:]))
        else:
            h, out = np.zeros(len(u)), []
            for step in y:
                h = np.tanh(w @ step + b + u @ h + d)
                out.append(h)
            y = np.array(out)
    y = y @ parameters["lin.weight"].T + parameters.get("lin.bias", 0)
    return y + x[:, : data["skip"]] if data["skip"] else y
