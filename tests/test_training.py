"""recurra.training: optimisers and losses against torch, clipping, pooling, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import Array, assert_close, assert_same_bits, copies
from hypothesis import given
from hypothesis import strategies as st

import recurra
from recurra import training

DTYPES = pytest.mark.parametrize("dtype", ("float32", "float64"))
SHAPES = {"matrix": (3, 5), "vector": (7,), "one": (1,), "none": (0, 4)}
WEIGHT_IH, WEIGHT_HH, BIAS = "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"


def normal(*shape: int, seed: int = 0, dtype: str = "float64", scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def gradients(seed: int, dtype: str = "float64", scale: float = 1.0) -> dict[str, Array]:
    return {name: normal(*shape, seed=seed, dtype=dtype, scale=scale) for name, shape in SHAPES.items()}


# Optimisers


@DTYPES
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("Adam", {}),
        ("Adam", {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1e-2}),
        ("Adam", {"lr": 0.1, "betas": (0.0, 0.0)}),
    ],
)
def test_optimisers_are_those_of_torch(name: str, options: dict[str, Any], dtype: str) -> None:
    torch = pytest.importorskip("torch")
    params = gradients(0, dtype)
    twins = {key: torch.nn.Parameter(torch.from_numpy(array.copy())) for key, array in params.items()}
    ours = getattr(training, name)(params, **options)
    theirs = getattr(torch.optim, name)(twins.values(), **{"lr": 1e-3} | options)
    for step in range(8):
        grads = gradients(step + 1, dtype, scale=10.0 ** (step % 3 - 2))
        for key, twin in twins.items():
            twin.grad = torch.from_numpy(grads[key].copy())
        if step == 5:
            ours.lr = theirs.param_groups[0]["lr"] = 0.025
        before = copies(list(grads.values()))
        ours.step(grads)
        theirs.step()
        assert_same_bits(list(grads.values()), before)
        tolerance = 1e-12 if dtype == "float64" else 1e-6
        assert_close(list(params.values()), [twin.detach().numpy() for twin in twins.values()], tolerance)


@pytest.mark.parametrize("make", (lambda p: training.SGD(p, 0.1, momentum=0.5), training.Adam))
def test_optimisers_write_strided_and_mixed_parameters_in_place(make: Callable[[Any], Any]) -> None:
    memory = normal(6, 8)
    plain = {"a": memory[::2, ::2].copy(), "b": normal(3, dtype="float32")}
    strided = {"a": memory[::2, ::2], "b": plain["b"].copy()}
    grads = {"a": normal(4, 3, seed=1).T, "b": normal(3, seed=2, dtype="float32")}
    untouched = memory[1::2].copy()
    for params in (plain, strided):
        optimiser = make(params)
        for _ in range(3):
            optimiser.step(grads)
    assert_same_bits(list(strided.values()), list(plain.values()))
    assert_same_bits(memory[1::2], untouched)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("make", (lambda p: training.SGD(p, 0.1, momentum=0.5), training.Adam))
def test_a_gradient_that_is_not_finite_is_named_and_updates_nothing(make: Callable[[Any], Any], bad: float) -> None:
    (params, optimiser), (twins, twin) = ((p, make(p)) for p in (gradients(0), gradients(0)))
    spoilt = gradients(1)
    spoilt["vector"][3] = bad
    with pytest.raises(FloatingPointError, match="vector"):
        optimiser.step(spoilt)
    assert_same_bits(list(params.values()), list(gradients(0).values()))
    for seed in (2, 3):  # nor do moments and the count of steps remember it
        optimiser.step(gradients(seed))
        twin.step(gradients(seed))
    assert_same_bits(list(params.values()), list(twins.values()))


def test_finite_gradients_whose_sum_overflows_are_not_refused() -> None:
    params = {"w": np.zeros(4, "float32")}
    training.SGD(params, 1e-38).step({"w": np.full(4, 3e38, "float32")})
    assert_close(params["w"], np.full(4, -3, "float32"), 1e-6)


@DTYPES
def test_adam_refuses_a_gradient_whose_square_it_cannot_hold(dtype: str) -> None:
    """Its second moment would be infinite, and the parameter stand still for ever."""
    (params, optimiser), (twins, twin) = ((p, training.Adam(p)) for p in (gradients(0, dtype), gradients(0, dtype)))
    limit = math.sqrt(np.finfo(dtype).max)
    spoilt = gradients(1, dtype)
    spoilt["vector"][3] = -limit * 1.01
    with pytest.raises(FloatingPointError, match=rf"grads vector: .*squares.*{dtype}.*e\+"):
        optimiser.step(spoilt)
    for seed in (2, 3):
        optimiser.step(gradients(seed, dtype))
        twin.step(gradients(seed, dtype))
    assert_same_bits(list(params.values()), list(twins.values()))
    large = {name: np.full_like(array, limit * 0.99) for name, array in params.items()}  # the sum of squares overflows
    optimiser.step(large)
    before = copies(list(params.values()))
    for seed in range(4, 9):
        optimiser.step(gradients(seed, dtype))
    assert all(np.isfinite(array).all() for array in params.values())
    assert all((array != old).all() for array, old in zip(params.values(), before, strict=True))


def test_adam_refuses_an_eps_that_counts_as_zero() -> None:
    for eps in (1e-46, 1e-38):
        with pytest.raises(ValueError, match=rf"eps: .*float32.*{eps}"):
            training.Adam({"v": np.zeros(2), "w": np.zeros(3, "float32")}, eps=eps)
    training.Adam({"w": np.zeros(3)}, eps=1e-46)
    for least in (4e-37, 1e-30):
        params = {"w": np.zeros(3, "float32")}
        training.Adam(params, eps=least).step({"w": np.zeros(3, "float32")})
        assert (params["w"] == 0).all()  # 0 / (0 + eps) is no NaN


def test_parameters_of_an_optimiser_do_not_overlap() -> None:
    memory = np.zeros(6)
    with pytest.raises(ValueError, match=r"params b: .*overlaps params a"):
        training.SGD({"a": memory[:4], "b": memory[3:]}, 0.1)
    broadcast: Any = np.lib.stride_tricks.as_strided(memory, (3, 2), (0, 8))
    with pytest.raises(ValueError, match=r"params a: .*strides"):
        training.Adam({"a": broadcast})
    training.SGD({"a": memory[::2], "b": memory[1::2]}, 0.1)


# Clipping


def test_an_array_that_is_given_twice_counts_once() -> None:
    g = np.array([3.0, 4.0])
    assert training.clip_grad_norm([{"a": g}, {"b": g, "c": g[:]}], 1.0) == 5.0
    assert_close(g, np.array([0.6, 0.8]), 1e-6)
    for clip in (training.clip_grad_norm, training.clip_grad_value):
        memory = np.ones(6)
        with pytest.raises(ValueError, match=r"grads\[1\] b: .*overlaps grads\[0\] a"):
            clip([{"a": memory[:4]}, {"b": memory[3:]}], 0.1)
        with pytest.raises(ValueError, match=r"grads a: .*overlaps|grads b: .*overlaps grads a"):
            clip({"a": memory, "b": memory[::-1]}, 0.1)
        assert (memory == 1).all()


@DTYPES
@given(max_norm=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_clip_grad_norm_is_that_of_torch(dtype: str, max_norm: float, seed: int) -> None:
    torch = pytest.importorskip("torch")
    grads = gradients(seed, dtype)
    twins = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES.values()]
    for twin, array in zip(twins, grads.values(), strict=True):
        twin.data = torch.from_numpy(array.copy())
        twin.grad = torch.from_numpy(array.copy())
    norm = training.clip_grad_norm(grads, max_norm)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    assert_close(norm, torch.nn.utils.clip_grad_norm_(twins, max_norm).item(), tolerance)
    assert_close(list(grads.values()), [twin.grad.numpy() for twin in twins], tolerance)


@given(max_norm=st.floats(1e-3, 1e3), seed=st.integers(0, 99))
def test_clip_grad_norm_bounds_the_common_norm_and_keeps_the_direction(max_norm: float, seed: int) -> None:
    several = [gradients(seed), gradients(seed + 1, "float32")]
    before = np.concatenate([array.astype("float64").ravel() for grads in several for array in grads.values()])
    norm = training.clip_grad_norm(several, max_norm)
    after = np.concatenate([array.astype("float64").ravel() for grads in several for array in grads.values()])
    assert_close(norm, np.linalg.norm(before), 1e-12)
    assert np.linalg.norm(after) <= max_norm * (1 + 1e-6)
    if norm + 1e-6 <= max_norm:
        assert_same_bits(after, before)
    else:
        assert_close(after / np.linalg.norm(after), before / norm, 1e-6)


def test_norms_beyond_float32_are_measured() -> None:
    grads = {"w": np.full(4, 1e30, "float32")}
    assert_close(training.clip_grad_norm(grads, math.inf), 2e30, 1e-6)
    assert_same_bits(grads["w"], np.full(4, 1e30, "float32"))
    training.clip_grad_norm(grads, 1.0)
    assert_close(grads["w"], np.full(4, 0.5, "float32"), 1e-6)


@pytest.mark.parametrize("bad", (np.nan, np.inf, 1e200))
def test_a_norm_that_is_not_finite_is_reported_and_nothing_clipped(bad: float) -> None:
    several = [gradients(0), gradients(1)]
    several[1]["vector"][2] = bad
    before = copies([array for grads in several for array in grads.values()])
    with pytest.raises(FloatingPointError, match=r"grads\[1\] vector"):
        training.clip_grad_norm(several, 1.0)
    if not np.isfinite(bad):
        with pytest.raises(FloatingPointError, match=r"grads\[1\] vector"):
            training.clip_grad_value(several, 1.0)
    assert_same_bits([array for grads in several for array in grads.values()], before)


@DTYPES
def test_clip_grad_value_clamps_in_place(dtype: str) -> None:
    grads = gradients(0, dtype)
    expected = [
        np.maximum(np.minimum(array, array.dtype.type(0.5)), array.dtype.type(-0.5)) for array in grads.values()
    ]
    training.clip_grad_value(grads, 0.5)
    assert_same_bits(list(grads.values()), expected)
    assert np.abs(grads["matrix"]).max() == 0.5


# Exploding gradients: h' = relu(x + W h) with W = 1.5 I, whose Jacobian over n steps is 1.5^n where h > 0


def exploding(dtype: str = "float64") -> recurra.RNN:
    layer = recurra.RNN(2, 2, nonlinearity="relu", bias=False, dtype=dtype)
    layer.load_state_dict({WEIGHT_IH: np.eye(2, dtype=dtype), WEIGHT_HH: 1.5 * np.eye(2, dtype=dtype)})
    return layer


def gradient_of_the_last_step(steps: int, dtype: str = "float64", x: float = 1e-30) -> Any:
    y, _, tape = exploding(dtype).forward(np.full((steps, 1, 2), x, dtype))
    dy = np.zeros_like(y)
    dy[-1] = 1
    return tape.backward(dy)


def test_exploding_gradients_explode_as_predicted_and_clipping_bounds_them() -> None:
    for steps in (10, 60):
        gradient = gradient_of_the_last_step(steps, x=1.0)
        assert_close(gradient.x[:, 0, 0], 1.5 ** np.arange(steps - 1, -1, -1.0), 1e-12)
        norm = training.clip_grad_norm(gradient.params, 1.0)
        assert norm > 1.5 ** (steps - 1)
        total = sum(np.square(array).sum() for array in gradient.params.values())
        assert 0.999 < math.sqrt(total) <= 1


def test_the_step_at_which_numbers_overflow_is_named_forwards_and_backwards() -> None:
    steps = 300
    gradient = gradient_of_the_last_step(steps, "float32")
    value, back = np.float32(1), 0
    with np.errstate(over="ignore"):
        while np.isfinite(value):
            value, back = value * np.float32(1.5), back + 1
    with pytest.raises(FloatingPointError, match=rf"g\.x: .* step {steps - 1 - back}$"):
        training.check_finite("g.x", gradient.x, backward=True)
    with pytest.raises(FloatingPointError, match=WEIGHT_IH):
        training.clip_grad_norm(gradient.params, 1.0)

    y, _ = exploding("float32")(np.full((steps, 1, 2), 1e10, "float32"))
    first = next(t for t in range(steps) if not np.isfinite(y[t]).all())
    assert 100 < first < steps - 1
    with pytest.raises(FloatingPointError, match=rf"y: .* step {first}$"):
        training.check_finite("y", y)
    with pytest.raises(FloatingPointError, match=rf"loss: .* step {first}$"):
        training.mean_squared_error(y, np.zeros_like(y))
    with pytest.raises(FloatingPointError, match=rf"step {first}$"):
        training.softmax_cross_entropy(y.swapaxes(0, 1), np.zeros((1, steps), int), time_axis=1)
    training.mean_squared_error(y, np.zeros_like(y), training.step_mask([first], steps))


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
@pytest.mark.parametrize("axis", (0, 1, 2))
def test_check_finite_names_the_first_or_the_last_step(axis: int, bad: float) -> None:
    array = normal(6, 7, 8, dtype="float32")
    training.check_finite("y", array, axis)
    training.check_finite("y", np.full((3, 2), 3e38, "float32"))  # finite, though its sum is not
    np.moveaxis(array, axis, 0)[[2, 4], 1, 3] = bad
    for backward, step in ((False, 2), (True, 4)):
        with pytest.raises(FloatingPointError, match=rf"y: .* step {step}$"):
            training.check_finite("y", array, axis, backward=backward)


# Losses


def central_differences(loss: Callable[[Array], float], at: Array) -> Array:
    gradient, step = np.zeros_like(at), 1e-6
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (loss(up) - loss(down)) / (2 * step)
    return gradient


def counted(shape: tuple[int, ...], masked: bool, seed: int) -> Array | None:
    if not masked:
        return None
    mask = np.asarray(np.random.default_rng(seed).random(shape) < 0.5)
    mask.flat[seed % mask.size] = True
    return mask


leading = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


@DTYPES
@given(shape=leading, classes=st.integers(1, 9), masked=st.booleans(), seed=st.integers(0, 99))
def test_losses_are_those_of_torch(dtype: str, shape: tuple[int, ...], classes: int, masked: bool, seed: int) -> None:
    torch = pytest.importorskip("torch")
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    mask = counted(shape, masked, seed)
    selected = torch.from_numpy(np.ones(shape, np.bool_) if mask is None else mask)
    y, target = normal(*shape, classes, seed=seed, dtype=dtype), normal(*shape, classes, seed=seed + 1, dtype=dtype)
    labels = np.random.default_rng(seed).integers(0, classes, shape)
    if mask is not None:
        labels = np.where(mask, labels, -100)
    twin = torch.tensor(y, requires_grad=True)

    expected = torch.nn.functional.cross_entropy(twin[selected], torch.from_numpy(labels)[selected])
    expected.backward()
    loss, gradient = training.softmax_cross_entropy(y, labels, mask)
    assert_close([loss, gradient], [expected.item(), twin.grad.numpy()], tolerance)
    assert gradient.dtype == y.dtype

    twin.grad = None
    expected = torch.nn.functional.mse_loss(twin[selected], torch.from_numpy(target)[selected])
    expected.backward()
    loss, gradient = training.mean_squared_error(y, target, mask)
    assert_close([loss, gradient], [expected.item(), twin.grad.numpy()], tolerance)
    assert gradient.dtype == y.dtype


@pytest.mark.parametrize("masked", (False, True))
def test_gradients_of_losses_are_central_differences(masked: bool) -> None:
    y, target, labels = normal(4, 3, 5), normal(4, 3, 5, seed=1), np.arange(12, dtype="uint8").reshape(4, 3) % 5
    mask = counted((4, 3), masked, 1)
    losses: list[tuple[Callable[..., tuple[float, Array]], Array]] = [
        (training.softmax_cross_entropy, labels),
        (training.mean_squared_error, target),
    ]
    for loss, wanted in losses:
        _, gradient = loss(y, wanted, mask)
        np.testing.assert_allclose(gradient, central_differences(lambda at: loss(at, wanted, mask)[0], y), atol=1e-8)  # noqa: B023


def test_what_does_not_count_may_be_anything() -> None:
    mask = np.array([True, False, False])
    y = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, np.inf]], "float32")
    for loss, gradient in (
        training.softmax_cross_entropy(y, np.array([0, -7, 99]), mask),
        training.mean_squared_error(y, np.full((3, 2), 0.5, "float32"), mask),
    ):
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
        assert (gradient[1:] == 0).all()


def test_cross_entropy_of_large_logits_is_exact() -> None:
    logits = np.array([[3e38, 0.0, -3e38], [-1e4, 1e4, 1e4], [0.0, -np.inf, 0.0]], "float32")
    loss, gradient = training.softmax_cross_entropy(logits, np.array([0, 1, 2]))
    assert_close(loss, 2 * math.log(2) / 3, 1e-7)
    assert_close(gradient, np.array([[0, 0, 0], [0, -0.5, 0.5], [0.5, 0, -0.5]], "float32") / 3, 1e-6)


@pytest.mark.parametrize("axis", (0, 1))
def test_the_first_step_whose_loss_is_not_finite_is_named(axis: int) -> None:
    y = normal(6, 6, 3)
    np.moveaxis(y, axis, 0)[[3, 5], 2, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"step 3$"):
        training.softmax_cross_entropy(y, np.zeros((6, 6), int), time_axis=axis)
    with pytest.raises(FloatingPointError, match=r"step 3$"):
        training.mean_squared_error(y, np.zeros_like(y), time_axis=axis)


# Masks and pooling


def ragged(seed: int, steps: int, batch: int, least: int = 1) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).integers(least, steps + 1, batch)]


@given(steps=st.integers(0, 9), batch=st.integers(0, 5), seed=st.integers(0, 99))
def test_step_mask(steps: int, batch: int, seed: int) -> None:
    lengths = ragged(seed, steps, batch, least=0)
    mask = training.step_mask(lengths, steps)
    assert mask.dtype == np.bool_
    assert mask.shape == (steps, batch)
    assert mask.tolist() == [[t < length for length in lengths] for t in range(steps)]


@DTYPES
@given(steps=st.integers(1, 9), batch=st.integers(0, 5), features=st.integers(1, 7), seed=st.integers(0, 99))
@pytest.mark.parametrize("with_lengths", (False, True))
def test_pooling(dtype: str, with_lengths: bool, steps: int, batch: int, features: int, seed: int) -> None:
    y = np.round(normal(steps, batch, features, seed=seed, dtype=dtype))  # rounded: there are ties
    lengths = ragged(seed, steps, batch) if with_lengths else [steps] * batch
    for b, length in enumerate(lengths):
        y[length:, b] = np.nan
    dpooled = normal(batch, features, seed=seed + 1, dtype=dtype)
    last, last_dy, largest, largest_dy = (np.zeros_like(a) for a in (dpooled, y, dpooled, y))
    for b, length in enumerate(lengths):
        last[b], last_dy[length - 1, b] = y[length - 1, b], dpooled[b]
        for f in range(features):
            values = y[:length, b, f].tolist()
            first = values.index(max(values))
            largest[b, f], largest_dy[first, b, f] = values[first], dpooled[b, f]
    given_lengths = lengths if with_lengths else None
    pooled, backward = training.last_step(y, given_lengths)
    assert_same_bits([pooled, backward(dpooled)], [last, last_dy])
    pooled, backward = training.max_over_time(y, given_lengths)
    assert_same_bits([pooled, backward(dpooled)], [largest, largest_dy])


def test_max_over_time_of_nothing_but_minus_infinity_stays_inside_the_sequence() -> None:
    y = np.full((3, 1, 1), -np.inf)
    y[2] = 1
    pooled, backward = training.max_over_time(y, [2])
    assert pooled[0, 0] == -np.inf
    assert backward(np.ones((1, 1))).ravel().tolist() == [1, 0, 0]


def test_pooling_backward_refuses_other_shapes_and_dtypes() -> None:
    for pool in (training.last_step, training.max_over_time):
        _, backward = pool(normal(4, 2, 3))
        with pytest.raises(ValueError, match=r"dpooled: .*\[2, 3\].*\[3, 2\]"):
            backward(normal(3, 2))
        with pytest.raises(TypeError, match=r"dpooled: .*float64.*float32"):
            backward(normal(2, 3, dtype="float32"))


# Wrong input: the call, the error, and what its message says: the argument, what was expected, what came.


def read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


X, F32 = normal(4, 2, 3), normal(2, 3, dtype="float32")
STEPPER = training.SGD({"w": np.zeros(3)}, 0.1)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: training.SGD([X], 0.1), TypeError, "params: .*mapping.*list"),  # type: ignore[arg-type]
    (lambda: training.SGD({"w": [1.0]}, 0.1), TypeError, "params w: .*NumPy.*list"),  # type: ignore[dict-item]
    (lambda: training.SGD({"w": np.zeros(3, int)}, 0.1), TypeError, "params w: .*float32.*int64"),
    (lambda: training.SGD({"w": read_only(np.zeros(3))}, 0.1), ValueError, "params w: .*writeable"),
    (lambda: training.SGD({"w": np.zeros(3)}, -0.1), ValueError, "lr: .*-0.1"),
    (lambda: training.SGD({"w": np.zeros(3)}, math.inf), ValueError, "lr: .*inf"),
    (lambda: training.SGD({"w": np.zeros(3)}, "0.1"), TypeError, "lr: .*number.*'0.1'"),  # type: ignore[arg-type]
    (lambda: training.SGD({"w": np.zeros(3)}, 0.1, -1), ValueError, "momentum: .*-1"),
    (lambda: training.Adam({"w": np.zeros(3)}, betas=(0.9, 1.0)), ValueError, r"betas: .*1, got 1\.0"),
    (lambda: training.Adam({"w": np.zeros(3)}, betas=0.9), TypeError, r"betas: .*two.*0\.9"),  # type: ignore[arg-type]
    (lambda: training.Adam({"w": np.zeros(3)}, eps=-1), ValueError, "eps: .*-1"),
    (lambda: setattr(STEPPER, "lr", math.nan), ValueError, "lr: .*NaN"),
    (lambda: STEPPER.step([]), TypeError, "grads: .*mapping.*list"),  # type: ignore[arg-type]
    (lambda: STEPPER.step({"v": np.ones(3)}), ValueError, r"grads: .*missing \['w'\], unexpected \['v'\]"),
    (lambda: STEPPER.step({"w": np.ones(4)}), ValueError, r"grads w: .*\[3\].*\[4\]"),
    (lambda: STEPPER.step({"w": np.ones(3, "float32")}), TypeError, "grads w: .*float64.*float32"),
    (lambda: training.clip_grad_norm({"w": np.ones(3)}, 0), ValueError, "max_norm: .*0"),
    (lambda: training.clip_grad_norm({"w": np.ones(3)}, math.nan), ValueError, "max_norm: .*NaN"),
    (lambda: training.clip_grad_norm({"w": np.ones(3), "v": 1}, 0.1), TypeError, "grads v: .*int"),  # type: ignore[arg-type]
    (lambda: training.clip_grad_norm(5, 1.0), TypeError, "grads: .*mapping.*int"),  # type: ignore[arg-type]
    (lambda: training.clip_grad_norm([X], 1.0), TypeError, r"grads\[0\]: .*mapping.*ndarray"),  # type: ignore[list-item]
    (lambda: training.clip_grad_value({"w": read_only(np.ones(3))}, 1.0), ValueError, "grads w: .*writeable"),
    (lambda: training.clip_grad_value({"w": np.ones(3)}, -1.0), ValueError, r"value: .*-1\.0"),
    (lambda: training.softmax_cross_entropy(F32, np.zeros(3, int)), ValueError, r"targets: .*\[2\].*\[3\]"),
    (lambda: training.softmax_cross_entropy(F32, np.zeros(2)), TypeError, "targets: .*integers.*float64"),
    (lambda: training.softmax_cross_entropy(F32, np.array([0, 3])), ValueError, r"targets: .*0\.\.2.*3 at position 1"),
    (lambda: training.softmax_cross_entropy(F32, np.array([-1, 0])), ValueError, r"targets: .*0\.\.2.*-1"),
    (lambda: training.softmax_cross_entropy(F32.astype(int), np.zeros(2, int)), TypeError, "logits: .*float32.*int64"),
    (lambda: training.softmax_cross_entropy(F32[:, :0], np.zeros(2, int)), ValueError, r"logits: .*\[2, 0\]"),
    (lambda: training.mean_squared_error(F32, F32.T), ValueError, r"target: .*\[2, 3\].*\[3, 2\]"),
    (lambda: training.mean_squared_error(F32, F32.astype(float)), TypeError, "target: .*float32.*float64"),
    (lambda: training.mean_squared_error(F32, F32, np.ones(3, bool)), ValueError, r"mask: .*\[2\].*\[3\]"),
    (lambda: training.mean_squared_error(F32, F32, np.ones(2)), TypeError, "mask: .*bool.*float64"),
    (lambda: training.mean_squared_error(F32, F32, np.zeros(2, bool)), ValueError, "mask: .*at least one"),
    (lambda: training.mean_squared_error(F32, F32, time_axis=1), ValueError, "time_axis: .*1"),
    (lambda: training.step_mask([5], 4), ValueError, r"lengths: .*0\.\.4.*5"),
    (lambda: training.step_mask([1.5], 4), TypeError, "lengths: .*integers.*float64"),  # type: ignore[list-item]
    (lambda: training.step_mask([1], -1), ValueError, "steps: .*-1"),
    (lambda: training.last_step(F32), ValueError, r"y: .*\[T, B, F\].*\[2, 3\]"),
    (lambda: training.last_step(X[:0]), ValueError, r"y: .*at least one step.*\[0, 2, 3\]"),
    (lambda: training.last_step(X, [1, 0]), ValueError, "lengths: .*at least 1, got 0 at position 1"),
    (lambda: training.max_over_time(X, [0, 1]), ValueError, "lengths: .*at least 1, got 0 at position 0"),
    (lambda: training.max_over_time(X, [5, 1]), ValueError, r"lengths: .*0\.\.4.*5"),
    (lambda: training.max_over_time(X, [1]), ValueError, r"lengths: .*\[2\].*\[1\]"),
    (lambda: training.check_finite("y", X.astype(int)), TypeError, "y: .*float32.*int64"),
    (lambda: training.check_finite("y", X, 3), ValueError, "time_axis: .*3"),
    (lambda: training.check_finite("y", X, backward=1), TypeError, "backward: .*1"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=(f"{k}-{row[2][:20]}" for k, row in enumerate(WRONG)))
def test_wrong_input_is_refused_by_name(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    assert STEPPER.lr == 0.1


def test_refused_gradients_change_nothing() -> None:
    params, grads = {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.ones(2), "b": np.ones(4)}
    with pytest.raises(ValueError, match="grads b"):
        training.Adam(params).step(grads)
    for clip in (training.clip_grad_norm, training.clip_grad_value):
        with pytest.raises(ValueError, match="grads c"):
            clip({**grads, "c": read_only(np.ones(1))}, 0.1)
    assert_same_bits([*params.values(), *grads.values()], [np.zeros(2), np.zeros(3), np.ones(2), np.ones(4)])
