"""The order of grids' nodes, beside one that loops over them."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurra._fronts import checked_sizes, grid_order


def packed(sizes: Any) -> bytes | None:
    return None if sizes is None else bytes(sizes.tobytes())


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], Any, tuple[bool, ...]]:
    """Shape B, D1, .., DN, sizes, and flips."""
    dims = draw(st.integers(0, 4))
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=dims + 1, max_size=dims + 1)))
    sizes = [[draw(st.integers(1, size)) for size in shape[1:]] for _ in range(shape[0])]
    full = draw(st.booleans())
    flips = tuple(draw(st.lists(st.booleans(), min_size=dims, max_size=dims)))
    return shape, None if full else np.array(sizes, np.int64).reshape(shape[0], dims), flips


@given(grids())
def test_rows_are_all_nodes_by_fronts_and_know_their_predecessors(
    problem: tuple[tuple[int, ...], Any, tuple[bool, ...]],
) -> None:
    shape, sizes, flips = problem
    order = grid_order(shape, packed(sizes), flips)
    dims = len(shape) - 1
    step: dict[tuple[int, ...], tuple[int, ...]] = {}  # scan coordinates of each node
    for b in range(shape[0]):
        own = shape[1:] if sizes is None else tuple(sizes[b])
        for point in product(*map(range, own)):
            step[(b, *point)] = tuple(n - 1 - p if flip else p for p, n, flip in zip(point, own, flips, strict=True))
    at = [tuple(int(i) for i in np.unravel_index(node, shape)) for node in order.nodes]
    assert sorted(at) == sorted(step)
    assert order.fronts[0] == 0 and order.fronts[-1] == len(at)
    for first, last in zip(order.fronts, order.fronts[1:], strict=False):
        assert len({sum(step[node]) for node in at[first:last]}) == 1
    assert all(np.diff([sum(step[at[first]]) for first in order.fronts[:-1]]) > 0)
    for row, node in enumerate(at):
        for axis in range(dims):
            before = order.before[axis, row]
            if not step[node][axis]:
                assert before == -1
                continue
            wanted = list(node)
            wanted[axis + 1] += 1 if flips[axis] else -1
            assert at[before] == tuple(wanted) and before < row


@given(grids())
def test_each_sample_is_ordered_as_it_is_alone(problem: tuple[tuple[int, ...], Any, tuple[bool, ...]]) -> None:
    shape, sizes, flips = problem
    order, points = grid_order(shape, packed(sizes), flips), int(np.prod(shape[1:]))
    for b in range(shape[0]):
        alone = grid_order((1, *shape[1:]), None if sizes is None else packed(sizes[b : b + 1]), flips)
        np.testing.assert_array_equal(order.nodes[order.nodes // points == b] - b * points, alone.nodes)


@pytest.mark.parametrize(
    ("sizes", "error", "text"),
    [
        ([[2, 3]], ValueError, "sizes: expected 2 rows of 2 integers, got 1"),
        ([[2, 3], [1]], ValueError, r"sizes\[1\]: expected shape \[2\], got \[1\]"),
        ([2, 3], TypeError, r"sizes\[0\]: expected a NumPy or DLPack array, got int"),
        ([[2, 3], [1, 4]], ValueError, r"sizes: expected 1..\[2, 3\], got \[1, 4\] for sample 1"),
        ([[2, 3], [0, 3]], ValueError, r"sizes: .* got \[0, 3\] for sample 1"),
        ([[2, 3], [-1, 3]], ValueError, r"sizes: .* got \[-1, 3\] for sample 1"),
        ([[2.0, 3], [1, 3]], TypeError, r"sizes\[0\]: expected integers, got float64"),
        (np.ones((2, 2), bool), TypeError, "sizes: expected integers, got bool"),
        (7, TypeError, "sizes: expected a NumPy or DLPack array, got int"),
    ],
)
def test_wrong_sizes_are_named(sizes: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        checked_sizes(sizes, (2, 2, 3))


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 2, 0)])
def test_empty_grids_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="x: expected at least one sample and no empty axis"):
        checked_sizes(None, shape)


def test_full_sizes_are_none() -> None:
    assert checked_sizes([[2, 3], [2, 3]], (2, 2, 3)) is None
    assert checked_sizes(np.array([[2, 3], [2, 1]], np.uint8), (2, 2, 3)).tolist() == [[2, 3], [2, 1]]  # type: ignore[union-attr]
