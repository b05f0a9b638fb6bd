"""Files of RTNeural, AIDA-X, NAM and GuitarML against their oracle, which computes from the JSON itself; and models as
JSON of RTNeural against the oracle of models."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import audio_reference
import numpy as np
import pytest
from audio_reference import Array
from checks import assert_same_bits

import recurra
from recurra import Node
from recurra.formats import UnsupportedModel
from recurra.formats.guitarml import load_guitarml
from recurra.formats.nam import load_nam
from recurra.formats.rtneural import load_rtneural, to_rtneural

T = 23
SHAPES = {"gru": 3, "lstm": 4}


class Files:
    """Small random files; sizes from the generator too."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def array(self, *shape: int, scale: float = 0.6) -> Any:
        return (scale * self.random.standard_normal(shape)).tolist()

    def size(self, least: int = 1, most: int = 6) -> int:
        return int(self.random.integers(least, most + 1))

    def function(self) -> str:
        return str(self.random.choice(["", "tanh", "relu", "sigmoid", "softmax", "elu"]))

    def layer(self, kind: str, width: int) -> tuple[dict[str, Any], int]:
        """A layer of this kind behind so many features, and how many it gives."""
        out = width if kind in ("prelu", "batchnorm", "activation") else self.size()
        layer: dict[str, Any] = {"type": kind, "activation": "", "shape": [None, None, out], "weights": []}
        if kind in ("dense", "time-distributed-dense"):
            layer["activation"] = self.function()
            layer["weights"] = [self.array(width, out)] + ([self.array(out)] if self.random.random() < 0.7 else [])
        elif kind == "conv1d":
            groups = int(self.random.choice([g for g in (1, 2, 3) if width % g == 0]))
            out = groups * self.size(1, 3)
            kernel = self.size()
            layer |= {"shape": [None, None, out], "activation": self.function(), "groups": groups}
            layer |= {"kernel_size": [kernel], "dilation": [self.size(1, 3)]}
            layer["weights"] = [self.array(kernel, width // groups, out), self.array(out)]
        elif kind in SHAPES:
            gates = SHAPES[kind] * out
            bias = self.array(2, gates) if kind == "gru" else self.array(gates)
            layer |= {"activation": "tanh", "weights": [self.array(width, gates), self.array(out, gates), bias]}
        elif kind == "prelu":
            layer["weights"] = [self.array(1, int(self.random.choice([1, width])))]
        elif kind == "batchnorm":
            layer |= {"epsilon": 0.01, "weights": self.normalization(width)}
        elif kind == "activation":
            layer["activation"] = self.function() or "tanh"
        return layer, out

    def normalization(self, channels: int) -> list[Any]:
        affine = [self.array(channels), self.array(channels)] if self.random.random() < 0.5 else []
        return [*affine, self.array(channels), self.random.uniform(0.5, 2, channels).tolist()]

    def chain(self, count: int) -> dict[str, Any]:
        kinds = ["dense", "time-distributed-dense", "conv1d", "gru", "lstm", "prelu", "batchnorm", "activation"]
        width = self.size()
        found: dict[str, Any] = {"in_shape": [None, None, width], "layers": []}
        for kind in self.random.choice(kinds, count):
            layer, width = self.layer(str(kind), width)
            found["layers"].append(layer)
        return found

    def planes(self, count: int) -> dict[str, Any]:
        """Convolutions over time and features, with what may stand between and behind them."""
        channels, width = self.size(1, 3), self.size(4, 9)
        found: dict[str, Any] = {"in_shape": [None, 50, width, channels], "layers": []}
        for i in range(count):
            time, reach, outputs, stride = self.size(1, 3), self.size(1, 3), self.size(1, 3), self.size(1, 2)
            padding = "same" if width < 4 else str(self.random.choice(["same", "valid"]))
            windows = -(-width // stride) if padding == "same" else (width - reach) // stride + 1
            layer = {
                **{"type": "conv2d", "activation": self.function(), "shape": [None, 50, windows, outputs]},
                **{"kernel_size_time": time, "kernel_size_feature": [reach], "dilation": self.size(1, 2)},
                **{"strides": stride, "num_filters_in": channels, "num_features_in": width, "padding": padding},
                **{
                    "num_filters_out": outputs,
                    "weights": [self.array(time, reach, channels, outputs), self.array(outputs)],
                },
            }
            channels, width = outputs, windows
            sizes = {"num_filters_in": channels, "num_features_in": width, "shape": [None, 50, width, channels]}
            found["layers"].append(layer)
            between = self.size(0, 3)
            if between == 1:
                norm = {"type": "batchnorm2d", "epsilon": 0.1, "weights": self.normalization(channels)}
                found["layers"].append({"activation": "", **sizes, **norm})
            elif between == 2:
                found["layers"].append(self.layer("prelu", channels * width)[0])
            elif between == 3 and i == count - 1:
                for kind in ("batchnorm", str(self.random.choice(["dense", "conv1d", "gru", "lstm"]))):
                    layer, size = self.layer(kind, channels * width)
                    found["layers"].append(layer)
                    channels, width = 1, size
        return found


def inputs(model: recurra.Model, seed: int) -> Array:
    (value,) = model.inputs.values()
    return np.random.default_rng(seed).standard_normal((T, *value.features), "float32")


def outputs(model: recurra.Model, x: Array) -> Array:
    """Of a call, whose bits a stream has, too."""
    y: Array = model(x)
    stream = model.stream()
    assert_same_bits(np.array([stream.step(step) for step in x]), y)
    return y.reshape(T, -1)


def assert_close(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)


def rtneural_file(seed: int) -> dict[str, Any]:
    files = Files(seed)
    found = files.planes(1 + seed % 3) if seed % 4 == 3 else files.chain(1 + seed % 5)
    if seed % 5 == 0:
        found |= {"in_gain": 3.5, "out_gain": -6, "samplerate": "48000"}
        if len(found["in_shape"]) == 3 and found["layers"][-1]["shape"][-1] == 1:
            found["in_skip"] = 1
    return found


@pytest.mark.parametrize("seed", range(80))
def test_rtneural_files_compute_what_rtneural_does(seed: int) -> None:
    found = rtneural_file(seed)
    model = load_rtneural(found)
    x = inputs(model, seed)
    assert_close(outputs(model, x), audio_reference.rtneural(found, x))


@pytest.mark.parametrize("seed", range(80))
def test_rtneural_files_come_back(seed: int, tmp_path: Path) -> None:
    found = rtneural_file(seed)
    model = load_rtneural(found)
    x = inputs(model, seed)
    written = to_rtneural(model, tmp_path / "model.json")
    assert json.loads((tmp_path / "model.json").read_text()) == written
    assert_close(audio_reference.rtneural(written, x), audio_reference.rtneural(found, x))
    again = recurra.load(tmp_path / "model.json")
    assert again.inputs == model.inputs
    assert_close(outputs(again, x), outputs(model, x))


@pytest.mark.parametrize("knobs", [0, 2])
@pytest.mark.parametrize("gain", [False, True])
def test_aida_x_files_come_back_with_what_stands_around_the_network(gain: bool, knobs: int) -> None:
    files = Files(7)
    lstm, dense = files.layer("lstm", 1 + knobs)[0], None
    while dense is None or dense["shape"][-1] != 1 or dense["activation"] == "softmax":
        dense = files.layer("dense", lstm["shape"][-1])[0]
    found: dict[str, Any] = {"in_shape": [None, None, 1 + knobs], "layers": [lstm, dense], "in_skip": 1}
    found |= {"in_gain": -12.5, "out_gain": 3} if gain else {}
    model = load_rtneural(found)
    x = inputs(model, 0)
    assert_close(outputs(model, x), audio_reference.rtneural(found, x))
    written = to_rtneural(model)
    assert written["in_skip"] == 1 and len(written["layers"]) == 2
    assert_close(
        [written.get("in_gain", 0), written.get("out_gain", 0)], [found.get("in_gain", 0), found.get("out_gain", 0)]
    )
    assert_close(audio_reference.rtneural(written, x), audio_reference.rtneural(found, x))


def exported() -> dict[str, recurra.Model]:
    linear = recurra.Linear(4, 3, bias=False, seed=0)
    scale = recurra.Scale(8)
    scale.load_state_dict({"weight": np.arange(8, dtype="float32") - 3, "bias": np.arange(8, dtype="float32")})
    turn = np.arange(8).reshape(2, 4).T.reshape(-1).tolist()
    conv = recurra.Conv2d(1, 2, (2, 3), (1, 2), ((1, 0), (0, 1)), seed=1)
    x = {"x": recurra.Value((8,))}
    return {
        "stack": recurra.Model([recurra.LSTM(3, 5, num_layers=3, seed=0), recurra.GRU(5, 2, 2, bias=False, seed=1)]),
        "functions": recurra.Model(
            [linear, "linear", "relu", recurra.Activation("elu"), recurra.Activation("leaky_relu", alpha=0.2), "tanh"]
        ),
        "convolution without bias": recurra.Model([recurra.Conv1d(4, 6, 3, groups=2, bias=False, causal=True, seed=0)]),
        "planes": recurra.Model(
            [recurra.Reshape((1, 8)), conv, "tanh", scale, recurra.Dropout(0.5), recurra.Linear(8, 3, seed=0)], inputs=x
        ),
        "planes into a GRU": recurra.Model([recurra.Reshape((1, 8)), conv, recurra.GRU(8, 3, seed=0)], inputs=x),
        "planes out": recurra.Model([recurra.Reshape((1, 8)), conv, recurra.Select(turn)], inputs=x),
    }


@pytest.mark.parametrize("name", exported())
def test_models_as_json_of_rtneural(name: str) -> None:
    model = exported()[name]
    x = inputs(model, 1)
    written = to_rtneural(model)
    assert_close(audio_reference.rtneural(written, x), outputs(model, x))
    assert_close(outputs(load_rtneural(written), x), outputs(model, x))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([recurra.LSTM(3, 4, bidirectional=True)], "'recurrent0'.*forward"),
        ([recurra.GRU(3, 4).quantize("int8")], "'recurrent0'"),
        ([recurra.GRU(3, 4, initial_state=True)], "'recurrent0'.*from zeros"),
        ([recurra.GRU(3, 4, reset="before")], "'recurrent0'"),
        ([recurra.LSTM(3, 4, cell_clip=1.0)], "'recurrent0'"),
        ([recurra.GRU(3, 4, activation="relu")], "'recurrent0'"),
        ([recurra.Conv1d(3, 4, 3)], "'conv1d0'.*not causal"),
        ([recurra.Conv1d(3, 4, 3, stride=2, causal=True)], "'conv1d0'.*stride"),
        ([recurra.Conv2d(3, 4, (1, 1)), recurra.LayerNorm(4)], "'layer_norm0'"),
        ([recurra.Reshape((1, 3)), recurra.Conv2d(1, 4, 3, padding=((1, 1), 0))], "'conv2d0'.*not causal"),
        ([recurra.Reshape((1, 3)), recurra.Conv2d(1, 4, 1, padding=(0, (0, 2)))], "'conv2d0'.*padding"),
        ([recurra.Reshape((1, 3)), recurra.Conv2d(1, 4, 1)], "4 channels by 3"),
        ([recurra.Select([1, 0, 2])], "'select0'"),
        ([recurra.Softmax(log=True)], "'softmax0'"),
        (["softsign"], "'activation0'"),
        ([recurra.Pool("last")], "'pool0'"),
        ([recurra.Linear(3, 3), Node(recurra.Multiply(), ("linear0", "x"))], "'multiply0'"),
        ([recurra.Linear(3, 3), Node(recurra.Add(), ("linear0", "linear0"))], "'add0'"),
        ([recurra.Linear(3, 3), Node(recurra.Linear(3, 3), ("x",))], "'linear1'"),
    ],
)
def test_what_rtneural_has_not_is_refused_by_name(layers: list[Any], message: str, tmp_path: Path) -> None:
    model = recurra.Model(layers, inputs={"x": recurra.Value((3,))})
    with pytest.raises(UnsupportedModel, match=message):
        to_rtneural(model, tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


def test_models_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    layer = recurra.Linear(1, 1, bias=False)
    layer.load_state_dict({"weight": np.full((1, 1), np.nan, "float32")})
    with pytest.raises(ValueError, match="'linear0': expected finite parameters"):
        to_rtneural(recurra.Model([layer]), tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


BASE = Files(1)
CHAIN: dict[str, Any] = {
    "in_shape": [None, None, 2],
    "layers": [
        {"type": "dense", "activation": "", "shape": [None, None, 2], "weights": [BASE.array(2, 2), BASE.array(2)]},
        {
            **{"type": "conv1d", "activation": "relu", "shape": [None, None, 2], "kernel_size": [3], "dilation": [1]},
            **{"weights": [BASE.array(3, 2, 2), BASE.array(2)]},
        },
        {"type": "gru", "shape": [None, None, 2], "weights": [BASE.array(2, 6), BASE.array(2, 6), BASE.array(2, 6)]},
        {"type": "batchnorm", "epsilon": 0.1, "shape": [None, None, 2], "weights": [BASE.array(2), [1.0, 2.0]]},
    ],
}


def changed(found: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(found)
    place: Any = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["layers", 0, "type"], "gated_activation", "layer 0, 'gated_activation': expected a type"),
        (["layers", 0, "type"], 3, "layer 0: type: expected text"),
        (["layers", 0, "activation"], "selu", "layer 0, 'dense': activation: expected tanh"),
        (["layers", 2, "activation"], "relu", "layer 2, 'gru': activation: expected 'tanh'"),
        (["layers", 2, "go_backwards"], True, "layer 2, 'gru': attribute 'go_backwards' = True is not known"),
        (["layers", 1, "strides"], [2], "attribute 'strides'"),
        (["layers", 3, "weights"], [[1.0, 1.0]] * 3, "gamma and beta"),
        (["in_skip"], 1, "in_skip: expected 0 for 2 outputs"),
        (["in_skip"], 2, "in_skip: expected 0 or 1"),
        (["in_shape"], [None, None, 2**40], "layer 0, 'dense': kernel: expected numbers of shape"),
        (["in_gain"], 1e300, "in_gain: expected decibels"),
        (["out_gain"], 10**400, "out_gain: expected a finite number"),
        (["layers", 3, "epsilon"], 10**400, "epsilon: expected a finite number"),
        (["in_gain"], "3", "in_gain: expected a number"),
        (["layers"], [], "expected layers, got none"),
        (["layers"], {}, "layers: expected a list"),
        (["layers", 0], 5, "layer 0: expected type"),
        (["layers", 0, "weights"], [], "weights: expected 1 to 2 arrays, got 0"),
        (["layers", 0, "weights", 0, 0], [1.0], "kernel: expected numbers of shape"),
        (["layers", 0, "weights", 0, 0, 0], "1.0", "kernel: expected numbers"),
        (["layers", 0, "weights", 0, 0, 0], True, "kernel: expected numbers"),
        (["layers", 0, "weights", 0, 0, 0], 1e39, "weight: expected numbers that float32 holds"),
        (["layers", 0, "weights", 0, 0, 0], 10**400, "kernel: expected finite numbers"),
        (["layers", 0, "shape"], [None, None, 20], "kernel: expected numbers of shape"),
        (["layers", 0, "shape"], [None, None, 2.0], "shape: expected sizes"),
        (["layers", 0, "shape"], [], "shape: expected sizes"),
        (["layers", 1, "groups"], 3, "groups: expected a divisor"),
        (["layers", 1, "dilation"], [0], "dilation: expected an integer of 1"),
        (["layers", 1, "kernel_size"], [2**40], "kernel: expected numbers of shape"),
        (["layers", 3, "epsilon"], -5, "scale: expected numbers"),
    ],
)
def test_other_rtneural_files_are_refused_by_name(path: list[Any], value: Any, message: str) -> None:
    load_rtneural(CHAIN)
    with pytest.raises(ValueError, match=message):
        load_rtneural(changed(CHAIN, path, value))


def test_a_small_file_makes_no_large_model() -> None:
    wide: dict[str, Any] = {
        "in_shape": [None, None, 2**30],
        "layers": [{"type": "activation", "activation": "tanh", "shape": [1]}],
    }
    wide["layers"][0]["weights"] = []
    load_rtneural(wide)
    with pytest.raises(UnsupportedModel, match="fewer numbers"):
        load_rtneural(wide | {"out_gain": 1})
    norm = {"type": "batchnorm2d", "epsilon": 1, "num_filters_in": 2, "num_features_in": 2**29}
    norm |= {"shape": [None, 1, 2**29, 2], "weights": [[0, 0], [1, 1]]}
    with pytest.raises(UnsupportedModel, match="fewer numbers"):
        load_rtneural({"in_shape": [None, None, 2**30], "layers": [norm]})


def test_numbers_keep_their_digits_in_float64() -> None:
    model = load_rtneural(CHAIN, dtype="float64")
    assert model.state_dict()["dense0.weight"].T.tolist() == CHAIN["layers"][0]["weights"][0]


def nam_file(seed: int) -> dict[str, Any]:
    files = Files(seed)
    layers, inputs, hidden, outputs = files.size(1, 3), files.size(1, 2), files.size(), files.size(1, 2)
    config = {"num_layers": layers, "input_size": inputs, "hidden_size": hidden}
    if (inputs, outputs) != (1, 1):
        config |= {"in_channels": inputs, "out_channels": outputs}
    count = sum(4 * hidden * ((hidden if k else inputs) + hidden + 1) + 2 * hidden for k in range(layers))
    weights = files.array(count + outputs * (hidden + 1))
    return {"version": "0.5.4", "architecture": "LSTM", "config": config, "weights": weights, "sample_rate": 48000}


@pytest.mark.parametrize("seed", range(20))
def test_nam_files_compute_what_nam_does(seed: int, tmp_path: Path) -> None:
    found = nam_file(seed)
    (tmp_path / "amp.nam").write_text(json.dumps(found))
    model = recurra.load(tmp_path / "amp.nam")
    x = inputs(model, seed)
    assert_close(outputs(model, x), audio_reference.nam(found, x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "WaveNet"}, "architecture: expected 'LSTM', got 'WaveNet'"),
        ({"version": "0.8.0"}, "version: expected 0.5 to 0.7"),
        ({"version": 5}, "version: expected text"),
        ({"weights": [0.1] * 3}, "weights: expected numbers of shape"),
        ({"weights": None}, "weights: expected a list"),
        ({"config": {"num_layers": 1, "input_size": 1}}, "hidden_size, an integer, got none"),
        ({"config": {"num_layers": 2**62, "input_size": 1, "hidden_size": 1}}, "weights: expected numbers"),
        ({"config": {"num_layers": 0, "input_size": 1, "hidden_size": 1}}, "sizes of 1 and more"),
        ({"config": {"num_layers": 1, "input_size": 2, "hidden_size": 1}}, "in_channels: expected input_size=2"),
        (
            {"config": {"num_layers": 1, "input_size": 1, "hidden_size": 1, "gated": True}},
            "'gated' = True is not known",
        ),
    ],
)
def test_other_nam_files_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_nam(nam_file(0) | change)


def guitarml_file(seed: int) -> dict[str, Any]:
    files = Files(seed)
    unit = ["LSTM", "GRU", "RNN"][seed % 3]
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[unit]
    layers, inputs, hidden, bias = files.size(1, 3), files.size(1, 3), files.size(), bool(seed % 2)
    skip = seed // 2 % 2
    data = {"model": "SimpleRNN", "input_size": inputs, "skip": skip, "output_size": 1, "unit_type": unit}
    data |= {"num_layers": layers, "hidden_size": hidden, "bias_fl": bias}
    state: dict[str, Any] = {}
    for k in range(layers):
        state[f"rec.weight_ih_l{k}"] = files.array(gates * hidden, hidden if k else inputs)
        state[f"rec.weight_hh_l{k}"] = files.array(gates * hidden, hidden)
        state |= {f"rec.bias_{part}_l{k}": files.array(gates * hidden) for part in ("ih", "hh")}
    state |= {"lin.weight": files.array(1, hidden)} | ({"lin.bias": files.array(1)} if bias else {})
    return {"model_data": data, "state_dict": state}


@pytest.mark.parametrize("seed", range(24))
def test_guitarml_files_compute_what_their_trainer_does(seed: int, tmp_path: Path) -> None:
    found = guitarml_file(seed)
    (tmp_path / "amp.json").write_text(json.dumps(found))
    model = recurra.load(tmp_path / "amp.json")
    x = inputs(model, seed)
    assert_close(outputs(model, x), audio_reference.guitarml(found, x))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["model_data", "model"], "GatedConvNet", "model: expected 'SimpleRNN', got 'GatedConvNet'"),
        (["model_data", "unit_type"], "QRNN", "unit_type: expected LSTM"),
        (["model_data", "skip"], 2, "skip: expected 0 or output_size=1"),
        (["model_data", "skip"], None, "skip: expected how many"),
        (["model_data", "bidirectional"], True, "'bidirectional' = True is not known"),
        (["model_data", "num_layers"], 2**60, "model_data: expected sizes"),
        (["model_data", "hidden_size"], 2**60, "expected numbers of shape"),
        (["state_dict", "rec.more"], [1], "state_dict: expected"),
        (["state_dict", "lin.weight"], [[1, 2], [3]], "lin.weight: expected numbers of shape"),
        (["state_dict"], [], "state_dict: expected names"),
    ],
)
def test_other_guitarml_files_are_refused_by_name(path: list[Any], value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_guitarml(changed(guitarml_file(1), path, value))


def test_weights_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"gru.weight_ih_l0": [[1.0]], "eps": 1e-5}')
    with pytest.raises(UnsupportedModel, match=r"a state_dict as JSON.*gru\.weight_ih_l0"):
        recurra.load(tmp_path / "weights.json")
