"""The graphs of grids: those of their nodes' order, with given rows below where there is a depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import assume, given
from test_fronts import grids, packed

from recurra._fronts import grid_order
from recurra._grid_layer import grid_graph


@given(grids())
def test_a_graph_with_a_depth_has_a_given_row_below_each(
    problem: tuple[tuple[int, ...], Any, tuple[bool, ...]],
) -> None:
    shape, sizes, flips = problem
    assume(len(flips) < 4)  # a graph has four slots, the depth's among them
    order = grid_order(shape, packed(sizes), flips)
    for fed in (True, False):
        nodes, graph = grid_graph(shape, sizes, flips, True, fed)
        count = len(nodes)
        np.testing.assert_array_equal(nodes, order.nodes)
        np.testing.assert_array_equal(graph.fronts, order.fronts + count)
        np.testing.assert_array_equal(graph.source, [*[-1] * count, *(nodes if fed else [-1] * count)])
        assert (graph.before[:, :count] == -1).all()
        np.testing.assert_array_equal(graph.before[-1, count:], np.arange(count))
        for before, own in zip(order.before, graph.before[:-1, count:], strict=True):
            np.testing.assert_array_equal(own, [-1 if row < 0 else row + count for row in before])


def test_a_shape_that_repeats_has_the_same_graph() -> None:
    graph = grid_graph((2, 3, 4), None, (False, True))
    assert grid_graph((2, 3, 4), None, (False, True)) is graph
    assert grid_graph((2, 3, 4), np.array([[3, 4], [1, 1]]), (False, True)) is not graph
    assert grid_graph((2, 3, 4), None, (False, True), True) is not graph


def test_large_graphs_are_not_kept() -> None:
    shape = (1, 1 << 10, (1 << 9) + 1)
    assert grid_graph(shape, None, (False, False)) is not grid_graph(shape, None, (False, False))
