"""Files of Keras: those of Keras 2, what is refused and how, and damaged ones."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from checks import assert_close, places, run_python
from keras_cases import CASES, F, built, call, drawn, inputs_for, keras2_config, write_keras2
from test_formats_keras import outputs

import recurra
from recurra.formats import UnsupportedModel
from recurra.formats.keras import load_keras

if TYPE_CHECKING:
    from collections.abc import Callable

keras: Any = pytest.importorskip("keras", reason="the parity extra is not installed: no keras")
h5py: Any = pytest.importorskip("h5py", reason="the parity extra is not installed: no h5py")
L: Any = keras.layers

# What Keras 2 writes in another way than `keras_cases.write_keras2`, or never had.
NOT_IN_KERAS_2 = {"functions_of_tensors", "masks_that_stop", "masked_decoder", "preprocessing"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_IN_KERAS_2])
def test_keras_2(name: str, tmp_path: Path) -> None:
    model = built(keras, name)
    x = inputs_for(model)
    want = call(keras, model, x)
    write_keras2(tmp_path / "old.h5", model)
    assert_close(outputs(load_keras(tmp_path / "old.h5"), x), want, 2e-6)


@pytest.mark.parametrize("name", ["gru_and_dense", "convolutions", "lstm_last", "denoiser", "without_biases"])
def test_keras_3_reads_the_files_of_keras_2_that_these_tests_write(name: str, tmp_path: Path) -> None:
    """And finds the same in them; what is inside a Bidirectional it wants in its own manner."""
    model = built(keras, name)
    x = inputs_for(model)
    write_keras2(tmp_path / "old.h5", model)
    again = keras.models.load_model(tmp_path / "old.h5", compile=False)
    assert_close(outputs(load_keras(tmp_path / "old.h5"), x), call(keras, again, x), 2e-6)


def test_a_hard_sigmoid_is_another_one_in_keras_2(tmp_path: Path) -> None:
    layers = [L.GRU(4, recurrent_activation="hard_sigmoid"), L.Dense(3, activation="hard_sigmoid", name="dense")]
    model = keras.Sequential([keras.Input((None, F)), *layers])
    drawn(model)
    write_keras2(tmp_path / "old.h5", model)
    old, new = load_keras(tmp_path / "old.h5"), load_keras(model)
    assert [node["constants"] for node in old.structure["nodes"] if node["kind"] == "recurrent"] == [
        recurra.GRU(F, 4, recurrent_activation="hard_sigmoid").constants
    ]
    assert old.layers["dense"] == recurra.Activation("hard_sigmoid")
    assert new.layers["dense"] == recurra.Activation("hard_sigmoid", alpha=1 / 6)
    x = [4 * each for each in inputs_for(model)]
    assert np.abs(outputs(old, x)[0] - outputs(new, x)[0]).max() > 1e-3


def test_initial_states_do_not_hide_a_mask_from_keras_2(tmp_path: Path) -> None:
    """They do from Keras 3."""
    model = built(keras, "masked_decoder")
    write_keras2(tmp_path / "old.h5", model)
    old, new = load_keras(tmp_path / "old.h5"), load_keras(model)
    assert sum(isinstance(layer, recurra.Mask) for layer in old.layers.values()) == 2
    x = inputs_for(model)
    assert_close(outputs(new, x), call(keras, model, x), 2e-6)
    target = x[1] != 0
    first, second = (outputs(each, x)[1] for each in (old, new))
    assert_close(first[target.all(1)], second[target.all(1)], 1e-6)
    assert np.abs(first - second)[~target.all(1)].max() > 1e-3


def test_a_bidirectional_says_nothing_of_its_backward_layer_in_keras_2(tmp_path: Path) -> None:
    model = built(keras, "tagger")
    config = keras2_config(model)
    for layer in config["config"]["layers"]:
        layer["config"].pop("backward_layer", None)
    write_keras2(tmp_path / "old.h5", model, config=config)
    x = inputs_for(model)
    assert_close(outputs(load_keras(tmp_path / "old.h5"), x), call(keras, model, x), 2e-6)


def test_names_in_several_attributes(tmp_path: Path) -> None:
    """HDF5 bounds attributes, so Keras splits long lists."""
    model = built(keras, "gru_and_dense")
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        group = file["model_weights"]
        names = list(group.attrs["layer_names"])
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:1], names[1:]
    x = inputs_for(model)
    assert_close(outputs(load_keras(tmp_path / "m.h5"), x), call(keras, model, x), 2e-6)


# ---------------------------------------------------------------------------------------------------------- refused


def chain(*layers: Any, shape: tuple[int | None, ...] = (None, F)) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


def graph(make: Callable[[Any], Any], shape: tuple[int | None, ...] = (None, F)) -> Any:
    x = keras.Input(shape)
    return keras.Model(x, make(x))


def attention(x: Any) -> Any:
    return L.Attention()([x, x])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "Lambda": (lambda: chain(L.Lambda(lambda x: x * 2)), "Lambda 'lambda': it holds Python code"),
    "attention": (lambda: graph(attention), "Attention 'attention': there is no such layer"),
    "ConvLSTM1D": (lambda: chain(L.ConvLSTM1D(2, 2), shape=(None, 5, 2)), "ConvLSTM1D"),
    "gelu": (lambda: chain(L.Dense(2, activation="gelu")), "Dense 'dense': activation: there is no 'gelu'"),
    "silu inside": (lambda: chain(L.GRU(2, activation="silu")), "GRU 'gru': activation: there is no 'silu' inside"),
    "softmax inside": (lambda: chain(L.LSTM(2, recurrent_activation="softmax")), "recurrent_activation"),
    "flatten": (lambda: chain(L.Flatten(), L.Dense(2), shape=(5, F)), "Flatten 'flatten': it mixes steps"),
    "reshape": (lambda: chain(L.Reshape((10, 2)), shape=(5, 4)), "Reshape 'reshape': target_shape"),
    "permute": (lambda: chain(L.Permute((2, 1)), shape=(5, 4)), "Permute 'permute': dims"),
    "channels_first": (
        lambda: chain(L.ZeroPadding2D(1, data_format="channels_first"), shape=(2, 5, 4)),
        "ZeroPadding2D 'zero_padding2d': data_format",
    ),
    "same of unknown length": (lambda: chain(L.Conv1D(2, 3, strides=2, padding="same")), "Conv1D 'conv1d': padding"),
    "mean of same": (lambda: chain(L.AveragePooling1D(2, 1, padding="same")), "AveragePooling1D.*: padding"),
    "BatchNormalization over time": (
        lambda: chain(L.BatchNormalization(axis=1), shape=(5, F)),
        "BatchNormalization 'batch_normalization': axis",
    ),
    "LayerNormalization over time": (lambda: chain(L.LayerNormalization(axis=1), shape=(5, F)), "axis"),
    "rms": (lambda: chain(L.RMSNormalization()), "RMSNormalization"),
    "softmax over time": (lambda: chain(L.Softmax(axis=1)), "Softmax 'softmax': axis"),
    "a reversed mask": (
        lambda: chain(L.Masking(), L.GRU(2, return_sequences=True, go_backwards=True)),
        "GRU 'gru': go_backwards: its mask",
    ),
    "a mask before a convolution": (
        lambda: chain(L.Masking(), L.GRU(2, return_sequences=True), L.Conv1D(2, 2)),
        "Conv1D 'conv1d': it ignores the mask",
    ),
    "steps that Masking makes zero": (lambda: chain(L.Masking(1.0), L.GlobalMaxPooling1D()), "ignores the mask"),
    "zeros at masked steps": (
        lambda: chain(L.Masking(), L.GRU(2, zero_output_for_mask=True)),
        "GRU 'gru': zero_output_for_mask",
    ),
    "joined over time": (lambda: graph(lambda x: L.Concatenate(axis=1)([x, x])), "Concatenate 'concatenate': axis"),
    "maximum": (lambda: graph(lambda x: L.Maximum()([x, x])), "Maximum 'maximum'"),
    "slices": (lambda: graph(lambda x: x[:, 1:]), "GetItem 'get_item': expected x"),
    "mean over features": (lambda: graph(lambda x: keras.ops.mean(x, axis=-1)), "Mean 'mean'"),
    "training": (lambda: graph(lambda x: L.Dropout(0.5)(x, training=True)), "Dropout 'dropout': training"),
    "every step's LSTM": (lambda: chain(L.TimeDistributed(L.LSTM(2)), shape=(None, 3, 2)), "layer: there is no LSTM"),
    "a forward layer backwards": (
        lambda: chain(
            L.Bidirectional(
                L.GRU(2, go_backwards=True, return_sequences=True), backward_layer=L.GRU(2, return_sequences=True)
            )
        ),
        "Bidirectional 'bidirectional': go_backwards",
    ),
    "slopes of every step": (lambda: chain(L.PReLU(), shape=(5, F)), "PReLU 'p_re_lu': shared_axes"),
    "three axes": (lambda: chain(L.TimeDistributed(L.Flatten()), shape=(None, 3, 3, 2)), "expected .B, T, F."),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("end", ["keras", "h5"])
def test_refused_by_name(name: str, end: str, tmp_path: Path) -> None:
    keras.utils.clear_session()
    make, match = REFUSED[name]
    model = make()
    model.save(tmp_path / f"m.{end}")
    for source in (tmp_path / f"m.{end}", model):
        with pytest.raises(UnsupportedModel, match=f"Keras: .*{match}"):
            load_keras(source)


class Doubled(L.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * 2


class Own(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.inside = L.GRU(2)

    def call(self, x: Any) -> Any:
        return self.inside(x)


def test_classes_of_ones_own(tmp_path: Path) -> None:
    model = chain(Doubled(name="twice"))
    model.save(tmp_path / "m.keras")
    for source in (model, tmp_path / "m.keras"):
        with pytest.raises(UnsupportedModel, match="Doubled 'twice': no layer of Keras itself"):
            load_keras(source)
    own = Own()
    own(np.zeros((1, 2, F), "float32"))
    with pytest.raises(UnsupportedModel, match="Own 'own': expected a Sequential or functional model"):
        load_keras(own)
    own.save(tmp_path / "own.keras")
    with pytest.raises(UnsupportedModel, match="Own 'own': no layer of Keras itself"):
        load_keras(tmp_path / "own.keras")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A Lambda's code, of both generations, marks that it ran."""
    mark = tmp_path / "mark"
    model = chain(L.Lambda(eval(f"lambda x: (open({str(mark)!r}, 'w').close(), x)[1]")))
    for end in ("keras", "h5"):
        model.save(tmp_path / f"m.{end}")
    mark.unlink()
    for source in (tmp_path / "m.keras", tmp_path / "m.h5", model):
        with pytest.raises(UnsupportedModel, match=r"Lambda 'lambda.*': it holds Python code, which is not run"):
            load_keras(source)
    assert not mark.exists()


def test_wrong_sources(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="source: expected a file's path or a Keras model, got int"):
        load_keras(3)
    with pytest.raises(FileNotFoundError):
        load_keras(tmp_path / "none.keras")
    with pytest.raises(UnsupportedModel, match="got a folder"):
        load_keras(tmp_path)
    (tmp_path / "text.h5").write_text("nothing")
    with pytest.raises(ValueError, match=r"expected a \.keras or .h5 file of Keras, got something else"):
        load_keras(tmp_path / "text.h5")
    with pytest.raises(ValueError, match=r"Sequential 'sequential.*': expected a model that is built"):
        load_keras(keras.Sequential([L.GRU(3)]))
    model = built(keras, "gru_and_dense")
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(UnsupportedModel, match="expected a whole model, got weights alone"):
        load_keras(tmp_path / "m.weights.h5")
    for version in ("1.2.2", "4.0.0", "nonsense"):
        write_keras2(tmp_path / "old.h5", model, version)
        with pytest.raises(UnsupportedModel, match=f"expected a model of Keras 2 or 3, got one of version '?{version}"):
            load_keras(tmp_path / "old.h5")


# ---------------------------------------------------------------------------------------------------------- damaged


def rewritten(path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """A .keras file with other contents."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    found = path.with_name("changed.keras")
    with zipfile.ZipFile(found, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return found


def with_config(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def of(contents: dict[str, bytes]) -> None:
        config = json.loads(contents["config.json"])
        change(config)
        contents["config.json"] = json.dumps(config).encode()

    return of


def with_weights(change: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def of(contents: dict[str, bytes]) -> None:
        content = io.BytesIO(contents["model.weights.h5"])
        with h5py.File(content, "r+") as file:
            change(file)
        contents["model.weights.h5"] = content.getvalue()

    return of


def replaced(group: Any, name: str, value: Any) -> None:
    del group[name]
    group[name] = value


def empty_but_large(file: Any) -> None:
    group = file["layers/dense/vars"]
    del group["0"]
    group.create_dataset("0", (1 << 20, 1 << 20), "float32", chunks=(64, 64))


DAMAGED: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no config": (lambda c: c.pop("config.json"), "expected config.json in it"),
    "no weights": (lambda c: c.pop("model.weights.h5"), "expected model.weights.h5 in it"),
    "no JSON": (lambda c: c.update({"config.json": b"{"}), "config.json: no JSON"),
    "a list": (lambda c: c.update({"config.json": b"[]"}), "config.json: expected a JSON object"),
    "deep JSON": (lambda c: c.update({"config.json": b'{"a":' * 50000}), "config.json: no JSON"),
    "no HDF5": (lambda c: c.update({"model.weights.h5": b"HDF5"}), "."),
    "no units": (with_config(lambda c: c["config"]["layers"][1]["config"].pop("units")), "GRU 'gru': units"),
    "negative units": (with_config(lambda c: c["config"]["layers"][1]["config"].update(units=-5)), "GRU 'gru'"),
    "other units": (with_config(lambda c: c["config"]["layers"][1]["config"].update(units=7)), "GRU 'gru': expected w"),
    "text for a flag": (
        with_config(lambda c: c["config"]["layers"][1]["config"].update(return_sequences="yes")),
        "GRU 'gru': return_sequences: expected bool, got 'yes'",
    ),
    "no layers": (with_config(lambda c: c["config"]["layers"].clear()), "expected layers"),
    "no shape": (
        with_config(lambda c: c["config"]["layers"].pop(0) and c["config"].update(build_input_shape=None)),
        "expected the shape of its input, got None",
    ),
    "a layer that is none": (with_config(lambda c: c["config"]["layers"].append(3)), "expected the description"),
    "missing weight": (with_weights(lambda f: f["layers/dense/vars"].pop("1")), "Dense 'dense': expected 2 weights"),
    "wrong shape": (with_weights(lambda f: replaced(f["layers/dense/vars"], "0", np.zeros((2, 2)))), "Dense 'dense'"),
    "one axis": (with_weights(lambda f: replaced(f["layers/dense/vars"], "0", np.zeros(15))), "expected 2 axes"),
    "text for numbers": (with_weights(lambda f: replaced(f["layers/dense/vars"], "0", "text")), "expected numbers"),
    "integers": (
        with_weights(lambda f: replaced(f["layers/dense/vars"], "0", np.zeros((5, 3), "int8"))),
        "Dense 'dense': kernel: expected floating-point weights, got int8",
    ),
    "a link out of the file": (
        with_weights(lambda f: replaced(f["layers/dense/vars"], "0", h5py.ExternalLink("other.h5", "/x"))),
        "got a link",
    ),
    "a group for numbers": (
        with_weights(lambda f: f["layers/dense/vars"].move("0", "0x/0")),
        "expected weights at '0'",
    ),
    "more than the file has": (with_weights(empty_but_large), "expected 4398046511104 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged(name: str, tmp_path: Path) -> None:
    model = built(keras, "gru_and_dense")
    model.save(tmp_path / "m.keras")
    change, match = DAMAGED[name]
    with pytest.raises(ValueError, match=match):
        load_keras(rewritten(tmp_path / "m.keras", change))


def test_a_circle(tmp_path: Path) -> None:
    model = built(keras, "denoiser")
    model.save(tmp_path / "m.keras")

    def circle(config: Any) -> None:
        layers = {layer["name"]: layer for layer in config["config"]["layers"]}
        history = layers["conv1d"]["inbound_nodes"][0]["args"][0]["config"]["keras_history"]
        history[:] = ["gru", 0, 0]

    with pytest.raises(ValueError, match="expected calls that follow from its inputs, got Conv1D 'conv1d'"):
        load_keras(rewritten(tmp_path / "m.keras", with_config(circle)))


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes are others, or a piece is missing, or there twice."""
    found = bytearray(content)
    how = rng.integers(4)
    if how == 0:
        for place in rng.integers(len(found), size=rng.integers(1, 6)):
            found[place] = rng.integers(256)
    else:
        start, end = sorted(rng.integers(len(found), size=2))
        end = min(end, start + 200)
        piece = found[start:end]
        found[start:end] = b"" if how == 1 else piece + piece if how == 2 else bytes(len(piece))
    return bytes(found)


def mutant(part: str, folder: Path, rng: np.random.Generator) -> Path:
    """A file like m.keras or m.h5 in the folder, of which one part is not what it was."""
    path = folder / "changed.keras"
    if part in ("m.keras", "m.h5"):
        path.write_bytes(mutated((folder / part).read_bytes(), rng))
        return path
    return rewritten(folder / "m.keras", lambda contents: contents.update({part: mutated(contents[part], rng)}))


def refused_mutants(part: str, folder: Path, count: int) -> int:
    """How many of so many damaged files raise; a ValueError, or nothing."""
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(count):
        path = mutant(part, folder, rng)
        try:
            load_keras(path)
        except ValueError as error:
            assert str(error)
            refused += 1
    return refused


def test_mutated_files_give_a_model_or_a_clear_error(tmp_path: Path) -> None:
    """In a process of their own: HDF5's library has hung and crashed on damaged files that are now refused before."""
    model = built(keras, "classifier_of_words")
    model.save(tmp_path / "m.keras")
    model.save(tmp_path / "m.h5")
    script = "import sys, pathlib, test_formats_keras_files as t\n"
    script += "for part in sys.argv[2:]: print(t.refused_mutants(part, pathlib.Path(sys.argv[1]), 200))"
    printed = run_python(script, str(tmp_path), "config.json", "model.weights.h5", "m.keras", "m.h5")
    assert all(int(refused) > 20 for refused in printed.split())


CONFIGS = [None, -1, 0, 1e30, True, "x", [], {}, [None], {"class_name": "GRU"}]


@pytest.mark.parametrize("name", ["bidirectional_encoder", "crnn", "mixed_stack_of_cells", "masks_and_merges"])
def test_values_of_another_kind_anywhere_in_a_configuration(name: str, tmp_path: Path) -> None:
    model = built(keras, name)
    config = keras2_config(model)
    inside = places(config)
    rng = np.random.default_rng(0)
    for place in rng.permutation(len(inside))[:120]:
        holder, key = inside[place]
        before, holder[key] = holder[key], CONFIGS[rng.integers(len(CONFIGS))]
        write_keras2(tmp_path / "old.h5", model, config=config)
        try:
            load_keras(tmp_path / "old.h5")
        except ValueError as error:
            assert "Keras: " in str(error)
        holder[key] = before
