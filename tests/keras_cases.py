"""Small Keras models as people have them, each with an input; and files as Keras 2 wrote them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from checks import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

CASES: dict[str, Callable[[Any], Any]] = {}
B, T, F, IDS = 3, 7, 4, 9


def case(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    CASES[make.__name__] = make
    return make


def built(keras: Any, name: str) -> Any:
    """The model of this name, with weights that are no initial values."""
    keras.utils.clear_session()
    model = CASES[name](keras)
    drawn(model)
    return model


def drawn(model: Any, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.uniform(-0.6, 0.6, weight.shape).astype("float32")
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)


def inputs_for(model: Any, seed: int = 1) -> list[Array]:
    """An array for each of the model's inputs. Some ids are 0, and some whole steps -1."""
    rng = np.random.default_rng(seed)
    found = []
    for tensor in model.inputs:
        shape = [B, *(T if size is None else size for size in tensor.shape[1:])]
        if "int" in tensor.dtype:
            ids = rng.integers(1, IDS, shape).astype("int32")
            ids[0, 2:] = ids[1, 1] = 0
            found.append(ids)
        else:
            x = rng.standard_normal(shape).astype("float32")
            if len(shape) == 3:
                x[0, -2:] = x[1, 3] = -1
            found.append(x)
    return found


def numpy_of(keras: Any, outputs: Any) -> list[Array]:
    """What Keras returns, as a list."""
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [keras.ops.convert_to_numpy(each) for each in outputs]


def call(keras: Any, model: Any, x: list[Array]) -> list[Array]:
    return numpy_of(keras, model(x[0] if len(x) == 1 else x))


# ----------------------------------------------------------------------------------------------------------- models


@case
def gru_and_dense(k: Any) -> Any:
    L = k.layers  # noqa: N806
    return k.Sequential([k.Input((None, F)), L.GRU(5, return_sequences=True), L.Dense(3)])


@case
def stateful_gru(k: Any) -> Any:
    L = k.layers  # noqa: N806
    return k.Sequential([k.Input(batch_shape=(B, None, F)), L.GRU(5, stateful=True, return_sequences=True), L.Dense(2)])


@case
def lstm_last(k: Any) -> Any:
    L = k.layers  # noqa: N806
    return k.Sequential([k.Input((None, F)), L.LSTM(6), L.Dropout(0.3), L.Dense(1, activation="sigmoid")])


@case
def gru_reset_before(k: Any) -> Any:
    L = k.layers  # noqa: N806
    options = {"reset_after": False, "return_sequences": True}
    return k.Sequential([k.Input((None, F)), L.GRU(5, **options), L.GRU(3, use_bias=False, **options)])


@case
def without_biases(k: Any) -> Any:
    L = k.layers  # noqa: N806
    layers = [getattr(L, kind)(4, use_bias=False, return_sequences=True) for kind in ("LSTM", "GRU", "SimpleRNN")]
    return k.Sequential([k.Input((None, F)), *layers, L.Dense(2, use_bias=False)])


@case
def classifier_of_words(k: Any) -> Any:
    """A masked Embedding, a BiLSTM and a Dense."""
    L = k.layers  # noqa: N806
    layers = [L.Embedding(IDS, 5, mask_zero=True), L.Bidirectional(L.LSTM(4)), L.Dense(3, activation="softmax")]
    return k.Sequential([k.Input((None,), dtype="int32"), *layers])


@case
def tagger(k: Any) -> Any:
    L = k.layers  # noqa: N806
    layers: list[Any] = [L.Embedding(IDS, 6)]
    layers += [L.Bidirectional(L.GRU(n, return_sequences=True)) for n in (5, 4)]
    return k.Sequential([k.Input((None,), dtype="int32"), *layers, L.TimeDistributed(L.Dense(3, activation="softmax"))])


@case
def seq2seq(k: Any) -> Any:
    L = k.layers  # noqa: N806
    source, target = k.Input((None,), dtype="int32", name="source"), k.Input((None,), dtype="int32", name="target")
    _, h, c = L.LSTM(6, return_state=True, name="encoder")(L.Embedding(IDS, 4, mask_zero=True)(source))
    y = L.LSTM(6, return_sequences=True, name="decoder")(L.Embedding(IDS, 4)(target), initial_state=[h, c])
    return k.Model([source, target], L.Dense(IDS, activation="softmax")(y))


@case
def masked_decoder(k: Any) -> Any:
    """Keras 3 does not find a mask where a call has initial states."""
    L = k.layers  # noqa: N806
    source, target = k.Input((None,), dtype="int32", name="source"), k.Input((None,), dtype="int32", name="target")
    h = L.GRU(6)(L.Embedding(IDS, 4, mask_zero=True)(source))
    y = L.GRU(6, return_sequences=True)(L.Embedding(IDS, 4, mask_zero=True)(target), initial_state=h)
    return k.Model([source, target], [y, L.GlobalAveragePooling1D()(y)])


@case
def bidirectional_encoder(k: Any) -> Any:
    L = k.layers  # noqa: N806
    x = k.Input((None, F))
    y, *states = L.Bidirectional(L.LSTM(3, return_sequences=True, return_state=True))(x)
    both = [L.Concatenate()([states[0], states[2]]), L.Concatenate()([states[1], states[3]])]
    z = L.LSTM(6)(y, initial_state=both)
    return k.Model(x, [z, L.Bidirectional(L.GRU(6))(y, initial_state=[both[0], z]), states[3]])


@case
def states_as_inputs(k: Any) -> Any:
    """A decoder's one step, as generators have it."""
    L = k.layers  # noqa: N806
    x, h, c = k.Input((None, F), name="x"), k.Input((5,), name="h"), k.Input((5,), name="c")
    y, *states = L.LSTM(5, return_sequences=True, return_state=True)(x, initial_state=[h, c])
    return k.Model([x, h, c], [L.Dense(2)(y), *states])


@case
def denoiser(k: Any) -> Any:
    L = k.layers  # noqa: N806
    x = k.Input((None, F))
    y = L.Conv1D(8, 5, padding="causal", activation="relu")(x)
    y = L.GRU(6, return_sequences=True)(L.Conv1D(6, 3, padding="causal", dilation_rate=2)(y))
    return k.Model(x, L.Multiply()([x, L.Dense(F, activation="sigmoid")(y)]))


@case
def convolutions(k: Any) -> Any:
    """Paddings, strides, dilation, groups, batch normalisation before and after."""
    L = k.layers  # noqa: N806
    layers = [
        L.BatchNormalization(),
        L.ZeroPadding1D((2, 1)),
        L.Conv1D(6, 3, padding="same", strides=2),
        L.BatchNormalization(scale=False),
        L.ReLU(),
        L.MaxPooling1D(2),
        L.Conv1D(6, 3, groups=2, dilation_rate=2, padding="same"),
        L.Cropping1D((1, 0)),
        L.Conv1D(4, 2, use_bias=False, activation="tanh"),
        L.BatchNormalization(center=False),
        L.AveragePooling1D(2, strides=1),
        L.ZeroPadding1D(1),
        L.Cropping1D((1, 2)),
    ]
    return k.Sequential([k.Input((40, F)), *layers, L.LSTM(3)])


@case
def crnn(k: Any) -> Any:
    L = k.layers  # noqa: N806
    layers = [
        L.Conv2D(4, 3, padding="same", activation="relu"),
        L.MaxPooling2D((1, 2)),
        L.BatchNormalization(),
        L.Conv2D(3, (3, 2), strides=(2, 1)),
        L.BatchNormalization(),
        L.LeakyReLU(),
        L.ZeroPadding2D(((1, 0), (0, 1))),
        L.AveragePooling2D((2, 1), strides=(1, 1)),
        L.SpatialDropout2D(0.2),
        L.Reshape((-1, 12)),
        L.Bidirectional(L.LSTM(3, return_sequences=True)),
        L.Dense(5, activation="log_softmax"),
    ]
    return k.Sequential([k.Input((14, 8, 2)), *layers])


@case
def spectrogram(k: Any) -> Any:
    """One channel, steps regrouped, a Dense on channels, another order of width and channels."""
    L = k.layers  # noqa: N806
    x = k.Input((None, 6))
    y = L.Conv2D(3, (2, 3))(L.Reshape((-1, 6, 1))(x))
    y = L.Add()([L.Dense(3, activation="tanh")(y), y])
    y = L.Concatenate()([y, L.MaxPooling2D((1, 1))(y)])
    z = L.Permute((1, 3, 2))(y)
    return k.Model(x, [L.GRU(3)(L.Reshape((-1, 24))(z)), L.GlobalMaxPooling2D()(y), L.GlobalAveragePooling2D()(z), z])


@case
def frames(k: Any) -> Any:
    """Layers of every step."""
    L = k.layers  # noqa: N806
    every = L.TimeDistributed
    layers = [
        every(L.Conv1D(3, 3, padding="same", strides=2, activation="relu")),
        every(L.BatchNormalization()),
        every(L.MaxPooling1D(2)),
        every(L.Flatten()),
        every(L.Dense(4)),
        every(L.LayerNormalization()),
        every(L.Reshape((4,))),
        L.SimpleRNN(4),
    ]
    return k.Sequential([k.Input((None, 8, 2)), *layers])


@case
def text_generator(k: Any) -> Any:
    L = k.layers  # noqa: N806
    layers = [L.Embedding(IDS, 5), L.GRU(6, return_sequences=True, stateful=True), L.Dense(IDS)]
    return k.Sequential([k.Input(batch_shape=(B, None), dtype="int32"), *layers])


@case
def backwards(k: Any) -> Any:
    L = k.layers  # noqa: N806
    options = {"go_backwards": True, "return_sequences": True}
    layers = [L.GRU(5, **options), L.LSTM(4, **options), L.SimpleRNN(3, go_backwards=True)]
    return k.Sequential([k.Input((None, F)), *layers])


@case
def mixed_stack_of_cells(k: Any) -> Any:
    L = k.layers  # noqa: N806
    cells = [L.LSTMCell(5), L.GRUCell(4), L.SimpleRNNCell(3)]
    x = k.Input((None, F))
    y, *states = L.RNN(cells, return_sequences=True, return_state=True)(x)
    return k.Model(x, [L.RNN(L.LSTMCell(3), go_backwards=True)(y), *k.tree.flatten(states)])


@case
def bidirectional_cells(k: Any) -> Any:
    L = k.layers  # noqa: N806
    both = L.Bidirectional(L.RNN([L.GRUCell(4), L.LSTMCell(3)], return_sequences=True), merge_mode="ave")
    return k.Sequential([k.Input((None, F)), both])


@case
def unlike_directions(k: Any) -> Any:
    L = k.layers  # noqa: N806
    other = L.GRU(3, return_sequences=True, go_backwards=True, activation="relu")
    return k.Sequential([k.Input((None, F)), L.Bidirectional(L.LSTM(5, return_sequences=True), backward_layer=other)])


@case
def two_outputs_of_directions(k: Any) -> Any:
    L = k.layers  # noqa: N806
    x = k.Input((None, F))
    return k.Model(x, L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode=None)(x))


@case
def masks_and_merges(k: Any) -> Any:
    L = k.layers  # noqa: N806
    x = k.Input((None, F))
    y = L.GRU(4, return_sequences=True)(L.Masking(-1.0)(x))
    z = L.Add()([y, L.Dense(4)(y)])
    z = L.Concatenate()([L.Subtract()([z, y]), L.Average()([y, z])])
    z = L.Bidirectional(L.LSTM(3, return_sequences=True), merge_mode="sum")(L.LayerNormalization()(z))
    return k.Model(x, [L.GlobalAveragePooling1D()(z), L.LSTM(3, go_backwards=True)(z)])


@case
def masks_that_stop(k: Any) -> Any:
    """A convolution and a maximum see masked steps as any other."""
    L = k.layers  # noqa: N806
    ids = k.Input((None,), dtype="int32")
    e = L.Embedding(IDS, 4, mask_zero=True)(ids)
    d = L.Dense(4)(e)
    return k.Model(ids, [L.GRU(3)(L.Conv1D(4, 3)(d)), L.GlobalMaxPooling1D()(d), L.GRU(3)(d), (d * 2 + e)[:, -1]])


@case
def encoder_of_rows(k: Any) -> Any:
    """Values without time, repeated; an autoencoder."""
    L = k.layers  # noqa: N806
    x = k.Input((None, F))
    y = L.RepeatVector(5)(L.Dense(3, activation="elu")(L.LSTM(4)(x)))
    return k.Model(x, L.TimeDistributed(L.Dense(F))(L.LSTM(4, return_sequences=True)(y)))


@case
def nested_and_shared(k: Any) -> Any:
    L = k.layers  # noqa: N806
    block = [L.Conv1D(F, 3, padding="causal"), L.BatchNormalization(), L.Activation("relu"), L.Dense(F)]
    x = k.Input((None, F))
    inner = k.Model(x, [L.GRU(F, return_sequences=True)(k.Sequential([k.Input((None, F)), *block])(x)), L.ELU(0.7)(x)])
    x = k.Input((None, F))
    one, two = inner(x)
    shared = L.Dense(F)
    return k.Model(x, [L.Add()([shared(one), shared(two)]), inner([shared(x)])[0]])


@case
def functions_of_tensors(k: Any) -> Any:
    L = k.layers  # noqa: N806
    x = k.Input((None, F))
    y = L.GRU(F, return_sequences=True)(x) + x * 0.5
    y = 1 - k.ops.tanh(y) / 2
    y = k.ops.concatenate([k.activations.relu(y), k.ops.flip(y, axis=1)], axis=-1)
    y = k.ops.take(y, np.array([6, 0, 1, 1], "int32"), axis=-1)
    return k.Model(x, [y[:, 0], y[:, -1, :], k.ops.softmax(y)])


@case
def preprocessing(k: Any) -> Any:
    L = k.layers  # noqa: N806
    layers = [L.Normalization(mean=[0.1, -0.2, 0.3, 0.0], variance=[1.0, 2.0, 0.5, 1.5]), L.Rescaling(0.5, 0.1)]
    noise = [L.GaussianNoise(0.1), L.SpatialDropout1D(0.2), L.PReLU(shared_axes=[1]), L.ReLU(max_value=0.7)]
    return k.Sequential([k.Input((None, F)), *layers, *noise, L.GRU(3)])


# ------------------------------------------------------------------------------------------------ files of Keras 2


def write_keras2(path: Path, model: Any, version: str = "2.15.0", config: Any = None) -> None:
    """The .h5 file that TensorFlow's Keras 2 writes of such a model."""
    import h5py

    config = keras2_config(model) if config is None else config
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"], file.attrs["backend"] = version, "tensorflow"
        file.attrs["model_config"] = json.dumps(config)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        group.attrs["keras_version"], group.attrs["backend"] = version.encode(), b"tensorflow"
        for layer in model.layers:
            inside = group.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{weight.path}:0" for weight in weights]
            inside.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, weights, strict=True):
                inside[name] = weight.numpy()


def keras2_config(model: Any) -> dict[str, Any]:
    """The configuration of a Keras 3 model as Keras 2 writes it."""
    config: dict[str, Any] = _keras2(json.loads(model.to_json()))
    return config


def _keras2(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_keras2(each) for each in entry]
    if not isinstance(entry, dict):
        return entry
    if entry.get("class_name") == "DTypePolicy":
        return entry["config"]["name"]
    found = {key: _keras2(value) for key, value in entry.items() if key not in ("module", "registered_name")}
    for key in ("build_config", "shared_object_id", "compile_config", "quantization_config", "optional"):
        found.pop(key, None)
    if "batch_shape" in found:
        found["batch_input_shape"] = found.pop("batch_shape")
    if "negative_slope" in found and "max_value" not in found:
        found["alpha"] = found.pop("negative_slope")
    if entry.get("class_name") == "BatchNormalization":
        found["config"]["axis"] = [len(entry["build_config"]["input_shape"]) - 1]
    if isinstance(found.get("layers"), list):
        found["layers"] = [each for each in found["layers"] if not _computes_masks(each)]
        for key in ("input_layers", "output_layers"):
            if key in found and isinstance(found[key][0], str):
                found[key] = [found[key]]
    if "inbound_nodes" in found:
        found["inbound_nodes"] = [_keras2_call(each) for each in found["inbound_nodes"]]
    return found


def _computes_masks(entry: Any) -> bool:
    """Whether it is one of the operations that Keras 3 writes out, and that Keras 2 does on its own."""
    return entry["class_name"] in ("NotEqual", "Any", "LogicalOr", "ExpandDims", "ZerosLike", "Concatenate") and (
        "trainable" not in entry["config"]
    )


def _keras2_call(call: Any) -> list[Any]:
    """Tensors of a call, initial states behind the others."""

    def histories(value: Any) -> list[Any]:
        if isinstance(value, list):
            return [found for each in value for found in histories(each)]
        return [value["config"]["keras_history"]] if isinstance(value, dict) and "config" in value else []

    tensors = histories(call["args"]) + histories(call["kwargs"].get("initial_state"))
    return [[*each, {}] for each in tensors]
