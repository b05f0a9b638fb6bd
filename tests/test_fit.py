"""recurra.training.fit, and what else a model offers around training: predict and summary."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_same_bits

import recurra
from recurra import Value, training


def uniform(*shape: int, seed: int = 0, dtype: str = "float32") -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(dtype)


def summing(batch_first: bool = True, **options: Any) -> recurra.Model:
    """What can learn to add up."""
    layers = [recurra.GRU(1, 12, seed=0, **options), recurra.Pool("last"), recurra.Linear(12, 1, seed=1)]
    return recurra.Model(layers, batch_first=batch_first)


def tagging() -> recurra.Model:
    """Logits for every step of tokens, those of 0 masked."""
    layers = [
        recurra.Embedding(5, 8, seed=0),
        recurra.Node(recurra.Mask(0), ("embedding0", "x")),
        recurra.LSTM(8, 8, bidirectional=True, seed=1),
        recurra.Linear(16, 3, seed=2),
    ]
    return recurra.Model(layers)


def rows(count: int = 48, steps: int = 8) -> tuple[Array, Array]:
    x = uniform(count, steps, 1)
    return x, x.sum(axis=1)


# ------------------------------------------------------------------------------------------------------ it learns


@pytest.mark.parametrize("optimiser", ["adam", "sgd", lambda params, lr: training.SGD(params, lr, momentum=0.9)])
def test_it_learns_to_add(optimiser: Any) -> None:
    x, y = rows()
    model = summing()
    rate = 0.03 if optimiser == "adam" else 0.05
    history = training.fit(model, x, y, epochs=40, optimiser=optimiser, lr=rate, batch_size=8, clip_norm=1.0, seed=0)
    assert len(history.loss) == len(history.lr) == 40
    assert history.loss[-1] < 0.1 * history.loss[0]
    loss, _ = training.mean_squared_error(model.predict(x), y)
    assert loss < 0.1 * history.loss[0]


def test_it_learns_tags_of_rows_of_all_lengths() -> None:
    """Whether the token after this one is larger, which is never asked of the last."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (9, 64))
    lengths = rng.integers(1, 10, 64)
    y = (np.roll(x, -1, axis=0) > x).astype(int)
    y[lengths - 1, np.arange(64)] = 2
    for b, n in enumerate(lengths):
        x[n:, b], y[n:, b] = 4, 77  # nobody looks at these
    y[x == 0] = -3
    history = training.fit(tagging(), x, y, epochs=60, lengths=lengths, loss="cross_entropy", lr=0.03, seed=0)
    assert history.loss[-1] < 0.1 * history.loss[0]


def test_a_loss_of_ones_own() -> None:
    """The same numbers as the one with that name."""

    def own(y: Array, target: Array, mask: Array | None) -> tuple[float, Array]:
        assert mask is None
        return training.mean_squared_error(y, target)

    x, y = rows()
    histories, models = [], []
    for loss in ("mse", own):
        models.append(summing())
        histories.append(training.fit(models[-1], x, y, epochs=3, loss=loss, seed=1))
    assert histories[0].loss == histories[1].loss
    assert_same_bits(*(model.state_dict() for model in models))


def test_it_is_the_loop_that_one_would_write() -> None:
    x, y = rows(8)
    model, twin = summing(), summing()
    history = training.fit(model, x, y, epochs=3, batch_size=8, lr=0.02, clip_norm=0.5, seed=4)
    params = twin.state_dict()
    optimiser, rng = training.Adam(params, 0.02), np.random.default_rng(4)
    for epoch in range(3):
        order = rng.permutation(8)
        rng.permutation(1)  # of the batches
        output, tape = twin.forward(x[order], rng=rng)
        loss, dy = training.mean_squared_error(output, y[order])
        gradients = tape.backward(dy).params
        training.clip_grad_norm(gradients, 0.5)
        optimiser.step(gradients)
        twin.load_state_dict(params)
        assert history.loss[epoch] == pytest.approx(loss, rel=1e-15)
    assert_same_bits(model.state_dict(), twin.state_dict())


def test_nodes_that_share_a_layer_go_on_sharing_it() -> None:
    shared = recurra.Linear(1, 1, seed=3)
    model = recurra.Model([recurra.Node(shared, name="a"), "tanh", recurra.Node(shared, name="b")], batch_first=True)
    x, _ = rows()
    history = training.fit(model, x, np.tanh(x) / 2 - 1, epochs=30, lr=0.02, clip_norm=1.0, seed=0)
    assert history.loss[-1] < 0.2 * history.loss[0]
    params = model.state_dict()
    assert_same_bits([params["a.weight"], params["a.bias"]], [params["b.weight"], params["b.bias"]])


def two_outputs() -> recurra.Model:
    """The tag of each step, and the sum of all."""
    layers = [
        recurra.Node(recurra.GRU(1, 8, seed=0), name="gru"),
        recurra.Node(recurra.Linear(8, 2, seed=1), name="tag"),
        recurra.Node(recurra.Pool("last"), ("gru",), "last"),
        recurra.Node(recurra.Linear(8, 1, seed=2), name="sum"),
    ]
    return recurra.Model(layers, outputs=("tag", "sum"), batch_first=True)


def test_several_outputs_are_the_loop_that_one_would_write() -> None:
    x, total = rows(8)
    lengths = np.array([8, 3, 5, 8, 1, 2, 7, 8])
    tags = (x[..., 0] > 0).astype(int)
    x *= (np.arange(8) < lengths[:, None])[..., None]
    losses = {"tag": "cross_entropy", "sum": training.mean_squared_error}
    model, twin = two_outputs(), two_outputs()
    given: dict[str, Any] = {"loss": losses, "weights": {"sum": 0.25, "tag": 2}, "lengths": lengths}
    history = training.fit(model, x, {"sum": total, "tag": tags}, epochs=2, batch_size=8, seed=4, **given)
    params = twin.state_dict()
    optimiser, rng = training.Adam(params, 1e-3), np.random.default_rng(4)
    for epoch in range(2):
        order = rng.permutation(8)
        order = order[np.argsort(lengths[order], kind="stable")]
        rng.permutation(1)  # of the batches
        output, tape = twin.forward(x[order], lengths=lengths[order], rng=rng)
        one, d_tag = training.softmax_cross_entropy(output["tag"], tags[order], tape.counts["tag"], time_axis=1)
        other, d_sum = training.mean_squared_error(output["sum"], total[order])
        gradients = tape.backward({"tag": 2 * d_tag, "sum": np.float32(0.25) * d_sum}).params
        optimiser.step(gradients)
        twin.load_state_dict(params)
        assert history.loss[epoch] == pytest.approx(2 * one + 0.25 * other, rel=1e-12)
    assert_same_bits(model.state_dict(), twin.state_dict())


def test_several_outputs_learn() -> None:
    x, total = rows()
    model, tags = two_outputs(), (x[..., 0] > 0).astype(int)

    def own(y: Array, target: Array, mask: Array | None) -> tuple[float, Array]:
        return training.softmax_cross_entropy(y, target, mask)

    given: dict[str, Any] = {"loss": {"tag": own, "sum": "mse"}, "validation": 0.25, "patience": 50, "lr": 0.02}
    history = training.fit(model, x, (tags, total), epochs=50, seed=0, **given)
    assert history.validation_loss[history.best] < 0.3 * history.validation_loss[0]


def test_what_several_outputs_want_is_asked_for_by_name() -> None:
    x, total = rows(6)
    tags = (x[..., 0] > 0).astype(int)
    model, losses = two_outputs(), {"tag": "cross_entropy", "sum": "mse"}
    before = model.state_dict()
    for wrong, message in (
        ({"y": total}, r"y: expected a tuple or dict of the outputs \['tag', 'sum'\], got array"),
        ({"y": {"tag": tags}}, r"y: expected a tuple or dict of the outputs \['tag', 'sum'\], got \['tag'\]"),
        ({"y": (tags, total, total)}, "y: expected a tuple or dict of the outputs"),
        ({"y": (tags, total[:3])}, r"y sum: expected shape \[6, 1\]"),
        ({"y": (total, total)}, "y tag: expected integers, got float32"),
        ({"loss": {"tag": "mse"}}, r"loss: expected a tuple or dict of the outputs"),
        ({"loss": {"tag": "mse", "sum": "mae"}}, "loss sum: expected one of 'mse', 'cross_entropy', got 'mae'"),
        ({"weights": {"tag": 1.0}}, "weights: expected a tuple or dict of the outputs"),
        ({"weights": (1.0, -1.0)}, "weights sum: expected at least 0"),
        ({"validation": (x, (tags, total[:2]))}, r"validation: y sum: expected shape \[6, 1\]"),
    ):
        given: dict[str, Any] = {"y": (tags, total), "loss": losses, "epochs": 1} | wrong
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            training.fit(model, x, **given)
    assert_same_bits(model.state_dict(), before)


def test_the_seed_decides_all() -> None:
    x, y = rows()
    losses = []
    for seed in (5, 5, 6):
        model = summing(recurrent_dropout=0.3)
        losses.append(training.fit(model, x, y, epochs=2, seed=seed).loss)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("batch_first", [True, False])
def test_either_order_of_axes_and_several_inputs(batch_first: bool) -> None:
    """Steps, a value for each row, and an output of channels by width."""
    nodes = [
        recurra.Node(recurra.Concatenate(), ("x", "v"), "both"),
        recurra.GRU(3, 6, seed=0),
        recurra.Reshape((2, 3)),
    ]
    inputs = {"x": Value((2,)), "v": Value((1,), False)}
    model = recurra.Model(nodes, inputs=inputs, batch_first=batch_first)
    x, v, y = uniform(10, 4, 2), uniform(10, 1, seed=1), uniform(10, 4, 2, 3, seed=2) / 2
    if not batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
    for given in ((x, v), {"v": v, "x": x}):
        model = recurra.Model.from_structure(model.structure, model.state_dict())
        history = training.fit(model, given, y, epochs=4, batch_size=4, lr=0.01, seed=0, validation=0.2)
        assert history.loss[-1] < history.loss[0]
    assert model.predict((x, v), batch_size=3).shape == y.shape


# -------------------------------------------------------------------------------------------------------- batches


def test_rows_of_similar_length_meet_and_bring_only_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[int]]] = []
    forward = recurra.Model.forward

    def spy(self: recurra.Model, x: Any, **options: Any) -> Any:
        seen.append((x["x"].shape[1], options["lengths"].tolist()))
        return forward(self, x, **options)

    monkeypatch.setattr(recurra.Model, "forward", spy)
    lengths = np.random.default_rng(1).integers(1, 30, 60)
    x = uniform(60, 30, 1)
    training.fit(summing(), x, x.sum(axis=1), epochs=2, lengths=lengths, batch_size=8, seed=0)
    assert len(seen) == 16
    for epoch in (seen[:8], seen[8:]):
        assert sorted(n for _, batch in epoch for n in batch) == sorted(lengths)
        assert all(steps == max(batch) for steps, batch in epoch)
        assert np.mean([max(batch) - min(batch) for _, batch in epoch]) < 8
        assert [max(batch) for _, batch in epoch] != sorted(max(batch) for _, batch in epoch)
    assert seen[:8] != seen[8:]


def test_batches_in_which_nothing_counts_are_left_out() -> None:
    """Rows that are too short for a window, and the empty one."""
    model = recurra.Model([recurra.Conv1d(1, 1, 3, seed=0)], batch_first=True)
    x, y = uniform(4, 5, 1), uniform(4, 3, 1, seed=1)
    lengths = [5, 2, 0, 4]
    history = training.fit(model, x, y, epochs=1, batch_size=1, lr=0.0, lengths=lengths, validation=(x, y, lengths))
    out = model(x)
    first, last = (training.mean_squared_error(out[b, :n], y[b, :n])[0] for b, n in ((0, 3), (3, 2)))
    want = (3 * first + 2 * last) / 5
    assert history.loss == pytest.approx([want], rel=1e-6) and history.validation_loss == history.loss
    before = model.state_dict()
    with pytest.raises(ValueError, match="x: expected at least one step that counts"):
        training.fit(model, x, y, epochs=1, lengths=[0, 1, 2, 0])
    assert_same_bits(model.state_dict(), before)


def test_targets_have_the_steps_of_the_output() -> None:
    model = recurra.Model([recurra.Conv1d(1, 1, 3, 2, seed=0)], batch_first=True)
    x = uniform(2, 7, 1)
    training.fit(model, x, uniform(2, 3, 1), epochs=1)
    for steps, options in ((7, {}), (4, {"lengths": [7, 7]}), (2, {})):
        with pytest.raises(ValueError, match=rf"^y: expected shape \[2, 3, 1\], got \[2, {steps}, 1\]"):
            training.fit(model, x, uniform(2, steps, 1), epochs=1, **options)  # type: ignore[arg-type]


def test_lengths_count_as_the_same_rows_without_padding() -> None:
    x, y = rows(6)
    padded = np.concatenate([x, np.full_like(x, np.nan)], axis=1)
    both = [
        training.fit(summing(), given, y, epochs=3, batch_size=6, lengths=lengths, seed=0).loss
        for given, lengths in ((x, [8] * 6), (padded, [8] * 6))
    ]
    assert both[0] == both[1]


# ----------------------------------------------------------------------------------------------------- validation


def test_validation_of_the_last_rows_is_that_of_these() -> None:
    x, y = rows()
    given: list[dict[str, Any]] = [
        {"validation": 0.25},
        {"validation": (x[36:], y[36:])},
        {"validation": (x[36:], y[36:], [8] * 12)},
    ]
    histories = [
        training.fit(summing(), x if k == 0 else x[:36], y if k == 0 else y[:36], epochs=3, seed=0, **options)
        for k, options in enumerate(given)
    ]
    assert histories[0].loss == histories[1].loss == histories[2].loss
    for history in histories:
        assert history.validation_loss == histories[0].validation_loss
    model = summing()
    history = training.fit(model, x, y, epochs=1, seed=0, validation=0.25)
    assert history.validation_loss == [training.mean_squared_error(model.predict(x[36:]), y[36:])[0]]


def test_patience_ends_it_with_the_best_parameters() -> None:
    """The targets to validate with are those of another sum, which training leaves farther and farther behind."""
    x, y = rows()
    model = summing()
    history = training.fit(model, x, y, epochs=100, lr=0.05, validation=(x, -3 * y), patience=4, seed=0)
    assert len(history.loss) == history.best + 5
    again = summing()
    training.fit(again, x, y, epochs=history.best + 1, lr=0.05, validation=(x, -3 * y), seed=0)
    assert_same_bits(model.state_dict(), again.state_dict())
    loss, _ = training.mean_squared_error(model.predict(x), -3 * y)
    assert loss == pytest.approx(history.validation_loss[history.best], rel=1e-6)


def test_without_validation_patience_looks_at_the_training() -> None:
    x, y = rows()
    history = training.fit(summing(), x, y, epochs=30, lr=0.0, patience=2, seed=0)
    assert 3 <= len(history.loss) <= 30


def test_a_schedule_sets_the_rate() -> None:
    x, y = rows(8)
    model = summing()
    before = model.state_dict()
    history = training.fit(model, x, y, epochs=3, lr=9.0, schedule=lambda epoch: 0.0, seed=0)
    assert history.lr == [0.0] * 3
    assert_same_bits(model.state_dict(), before)
    history = training.fit(model, x, y, epochs=3, schedule=lambda epoch: 0.1 / 2**epoch, seed=0)
    assert history.lr == [0.1, 0.05, 0.025]


# ------------------------------------------------------------------------------------------------ history and progress


def test_history_plots_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = training.History([3.0, 1.0, 2.0], [4.0, 5.0, 3.5], [0.1] * 3)
    assert history.best == 2 and training.History([3.0, 1.0, 2.0]).best == 1
    assert repr(history) == "History(3 epochs, best 2: loss 2, validation loss 3.5)"
    pytest.importorskip("matplotlib")
    figure = history.plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["training", "validation", "best"]
    assert list(axes.lines[1].get_ydata()) == [4.0, 5.0, 3.5]
    hide(monkeypatch, "matplotlib")
    with pytest.raises(ImportError, match="pip install matplotlib"):
        history.plot()


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if it were not installed."""
    plain = builtins.__import__

    def importing(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return plain(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", importing)


@pytest.mark.parametrize("rich", [True, False])
def test_progress_is_shown_on_a_terminal_only(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = rows(8)
    if rich:
        pytest.importorskip("rich")
    else:
        hide(monkeypatch, "rich")

    def shown(**options: Any) -> str:
        training.fit(summing(), x, y, epochs=2, seed=0, **options)
        return capsys.readouterr().out

    assert shown() == ""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert shown(progress=False) == ""
    if rich:
        assert "2/2" in shown()
    else:
        assert "\repoch 2 of 2: loss " in shown(validation=0.5) and "validation loss" in shown(validation=0.5)


# -------------------------------------------------------------------------------------------------------- refusals


X, Y = rows(6)
WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"model": recurra.GRU(1, 1)}, TypeError, "model: .*Model, got GRU"),
    ({"weights": {"linear0": 1.0}}, ValueError, "weights: expected None for a model with one output"),
    ({"loss": lambda *_: 0.5}, TypeError, r"loss: expected a function that gives \(loss, gradient .*got 0.5"),
    ({"loss": lambda *_: (0.5, None)}, TypeError, "loss: the gradient of the output: expected .*got None"),
    (
        {"loss": lambda y, *_: (y.sum(), y[:1])},
        ValueError,
        r"loss: the gradient of the output: .*\[6, 1\], got \[1, 1\]",
    ),
    ({"loss": lambda y, *_: (y, y)}, TypeError, "loss: expected a number"),
    ({"x": X[0]}, ValueError, "x: .*batch axis"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, "x: .*at least one row"),
    ({"x": X.astype(float)}, TypeError, "x: expected float32, got float64"),
    ({"x": X[..., 0]}, ValueError, r"x: .*\[B, T, 1\] or \[T, 1\], got \[6, 8\]"),
    ({"x": (X, X)}, ValueError, r"x: expected arrays for \['x'\], got 2"),
    ({"x": {"z": X}}, ValueError, r"x: expected arrays for \['x'\], got \['z'\]"),
    ({"y": Y.astype(float)}, TypeError, "y: expected float32, got float64"),
    ({"y": Y[:5]}, ValueError, r"y: expected shape \[6, 1\], got \[5, 1\]"),
    ({"loss": "cross_entropy"}, TypeError, "y: expected integers, got float32"),
    ({"loss": "cross_entropy", "y": Y.astype(int)}, ValueError, r"y: expected shape \[6\], got \[6, 1\]"),
    ({"loss": "cross_entropy", "y": Y[:, 0].astype(int) * 0 + 1}, ValueError, r"targets: .*0\.\.0"),
    ({"loss": lambda *_: (0.0, None), "y": Y[:5]}, ValueError, r"y: expected 6 rows.*\[5, 1\]"),
    ({"loss": "mae"}, ValueError, "loss: expected one of 'mse', 'cross_entropy', got 'mae'"),
    ({"epochs": 0}, ValueError, "epochs: .*at least 1"),
    ({"batch_size": 0}, ValueError, "batch_size: .*at least 1"),
    ({"lengths": [9, 1, 1, 1, 1, 1]}, ValueError, r"lengths: .*0\.\.8, got 9"),
    ({"lengths": [1, 1]}, ValueError, r"lengths: expected shape \[6\]"),
    ({"validation": 1.0}, ValueError, "validation: .*6 rows.*got 1.0"),
    ({"validation": 0.01}, ValueError, "validation: .*6 rows.*got 0.01"),
    ({"validation": "some"}, TypeError, "validation: expected a number, got 'some'"),
    ({"validation": (X,)}, ValueError, r"validation: expected \(x, y\) or .*got 1"),
    ({"validation": (X, Y[:2])}, ValueError, r"validation: y: expected shape \[6, 1\]"),
    ({"patience": 0}, ValueError, "patience: .*at least 1"),
    ({"optimiser": "lion"}, ValueError, "optimiser: expected one of 'adam', 'sgd', got 'lion'"),
    ({"lr": -1.0}, ValueError, "lr: expected at least 0"),
    ({"schedule": 0.1}, TypeError, "schedule: expected a function"),
    ({"schedule": lambda epoch: -1.0}, ValueError, "schedule: expected at least 0"),
    ({"clip_norm": 0.0}, ValueError, "clip_norm: .*above 0"),
    ({"progress": 1}, TypeError, "progress: expected True or False"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=[f"{k}-{row[2]}" for k, row in enumerate(WRONG)])
def test_what_does_not_fit_is_refused_and_nothing_changed(
    wrong: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = summing()
    before = model.state_dict()
    given: dict[str, Any] = {"model": model, "x": X, "y": Y, "epochs": 1} | wrong
    with pytest.raises(error, match=f"^{message}"):
        training.fit(given.pop("model"), given.pop("x"), given.pop("y"), **given)
    assert_same_bits(model.state_dict(), before)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    model = summing()
    with pytest.raises(FloatingPointError, match=r"loss: .*nan"):
        training.fit(model, X * np.float32("nan"), Y, epochs=1)
    assert all(np.isfinite(array).all() for array in model.state_dict().values())


# ----------------------------------------------------------------------------------------------- predict and summary


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_predict_has_the_bits_of_a_call(size: int) -> None:
    x, lengths = uniform(9, 7, 3), np.array([9, 0, 3, 4, 9, 1, 2])
    layers = [recurra.Conv1d(3, 4, 3, 2, 1, seed=0), recurra.GRU(4, 5, seed=1), recurra.Pool("mean")]
    model = recurra.Model(layers, outputs=("recurrent0", "pool0"))
    for given in (None, lengths, lengths.tolist()):
        assert_same_bits(model.predict(x, given, size), model(x, lengths=given))
    assert model.predict(x[:, :0])["pool0"].shape == (0, 5)
    with pytest.raises(ValueError, match="x: expected a batch axis"):
        model.predict(x[:, 0])
    with pytest.raises(ValueError, match=r"lengths: .*0\.\.9, got 10"):
        model.predict(x, [*lengths[:6], 10], size)


def test_summary_counts() -> None:
    nodes = [
        recurra.Embedding(11, 6),
        recurra.Reshape((1, 6)),
        recurra.Conv2d(1, 4, (3, 3), (2, 2), (1, 1)),
        recurra.LSTM(12, 8, bidirectional=True),
        recurra.Node(recurra.Linear(16, 16), name="a"),
        recurra.Pool("last"),
        recurra.Linear(16, 3),
    ]
    model = recurra.Model(nodes, inputs={"x": Value((), integer=True)}, batch_first=True)
    lines = [line.split("  ") for line in model.summary().splitlines()]
    cells = {line[0]: [cell.strip() for cell in line if cell.strip()][1:] for line in lines}
    lstm, conv = 2 * (32 * 12 + 32 * 8), 4 * 9 * 3
    assert cells["embedding0"] == ["Embedding", "[B, T, 6]", "66", "0", "264"]
    assert cells["conv2d0"] == ["Conv2d", "[B, T/2, 4, 3]", "40", str(conv // 2), "160"]
    assert cells["recurrent0"] == ["LSTM", "[B, T/2, 16]", "1,408", str(lstm // 2), "5,632"]
    assert cells["a"] == ["Linear", "[B, T/2, 16]", "272", "128", "1,088"]
    assert cells["pool0"] == ["Pool", "[B, 16]", "0", "0", "0"]
    assert cells["linear1"] == ["Linear", "[B, 3]", "51", "48", "204"]
    total = sum(array.size for array in model.state_dict().values())
    assert model.parameter_count == total == 1837
    assert cells["total"] == ["1,837", str(conv // 2 + lstm // 2 + 128 + 48), "7,348"]


def test_summary_of_rounded_weights_and_of_shared_layers() -> None:
    small = recurra.GRU(8, 8, 2).quantize("int8", keep=[1])
    weights, biases = 2 * 24 * 8, 4 * 2 * 24
    assert f"{weights + biases + 4 * weights + biases:,}" in recurra.Model([small]).summary()
    shared = recurra.Linear(4, 4)
    total = recurra.Model([shared, "relu", recurra.Node(shared, name="again")]).summary().splitlines()[-1]
    assert total.split() == ["total", "20", "32", "80"]


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_step_of_a_loss_that_is_not_finite_is_one_of_time(batch_first: bool) -> None:
    model = recurra.Model([recurra.GRU(3, 4, seed=0), recurra.Linear(4, 1, seed=0)], batch_first=batch_first)
    x, y = np.zeros((20, 6, 3), "float32"), np.zeros((20, 6, 1), "float32")
    y[12, 4] = np.nan
    if batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
    with pytest.raises(FloatingPointError, match="arose at step 12"):
        training.fit(model, x, y, epochs=1, progress=False)
