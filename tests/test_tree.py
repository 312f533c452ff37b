"""Blocks, nodes and depths are whole numbers that fit together."""

import numpy as np
import pytest
from cases import batch, model
from hypothesis import example, given
from hypothesis import strategies as st

from hbll_seq.errors import InputError
from hbll_seq.rules.base import make
from hbll_seq.tree import Tree, auto_block

sizes = dict(t=st.integers(1, 300), k=st.integers(1, 40))


@given(**sizes)
def test_blocks_cover_every_step_once(t, k):
    tree = Tree(t, k)
    covered = [s for i in range(tree.blocks) for s in range(*tree.span(0, i))]
    assert covered == list(range(t))


def test_sizes_may_be_integers_of_numpy_and_nothing_else():
    tree = Tree(np.int64(9), np.uint8(4))
    assert tree == Tree(9, 4) and type(tree.steps) is int and type(tree.span(0, 2)[1]) is int
    for bad in (True, np.True_, 2.0, "3", 0, np.int64(-1)):
        with pytest.raises(InputError, match="block: .*expected an integer >= 1"):
            Tree(9, bad)


@given(**sizes)
def test_every_level_covers_every_step_and_the_root_is_alone(t, k):
    tree = Tree(t, k)
    for h in range(tree.levels + 1):
        assert [s for i in range(tree.nodes(h)) for s in range(*tree.span(h, i))] == list(range(t))
    assert tree.nodes(tree.levels) == 1 and (tree.levels == 0 or tree.nodes(tree.levels - 1) == 2)


@given(**sizes)
def test_every_boundary_is_the_midpoint_of_one_node(t, k):
    tree = Tree(t, k)
    for i in range(1, tree.blocks):
        left, right = tree.parents(i)
        assert 0 <= left < i < right <= tree.blocks
        h = tree.height(i)
        start, stop = tree.span(h, left >> h)
        assert (start, stop) == (left * k, min(right * k, t)) and start < i * k < stop


@given(t=st.integers(1, 300), k=st.integers(1, 40), seed=st.integers(0, 999))
def test_a_path_nests(t, k, seed):
    tree = Tree(t, k)
    path = tree.path(seed % tree.blocks)
    spans = [tree.span(h, i) for h, i in path]
    assert all(a[0] >= b[0] and a[1] <= b[1] for a, b in zip(spans, spans[1:], strict=False))
    assert spans[-1] == (0, t)


def test_depth_grows_with_the_logarithm_of_the_blocks():
    assert Tree(1024, 32).depth(2, 1) == 6 * 32 + 4 * 5
    assert Tree(2048, 32).depth(2, 1) - Tree(1024, 32).depth(2, 1) == 4
    assert Tree(100, 100).depth(0, 0) == 200  # one block is BPTT


@pytest.mark.parametrize("t,k", [(5, 8), (8, 8), (9, 8), (24, 8), (31, 7), (33, 2)])
@pytest.mark.parametrize("sweeps,feedback", [(1, 0), (2, 1)])
def test_the_formula_is_the_depth_that_the_rule_counts(t, k, sweeps, feedback):
    tree = Tree(t, k)
    if 1 < tree.blocks <= max(sweeps, feedback + 1):
        return  # exact before the effort is used up
    rule = make("hbll", block_size=k, sweeps=sweeps, feedback=feedback, check_every=0)
    assert rule.step(model("gru"), batch(2, t)).metrics["depth"] == tree.depth(sweeps, feedback)


@example(t=2047, b=1).via("the last length with whole tiles")
@example(t=2048, b=1).via("the first length with half of the rows")
@given(t=st.integers(1, 20000), b=st.integers(1, 300))
def test_the_automatic_block_leaves_at_least_four_blocks_and_enough_rows(t, b):
    k = auto_block(t, b)
    assert 1 <= k <= t and (k >= 16 or k == t)
    if k > 16:
        assert Tree(t, k).blocks >= 4 and k & (k - 1) == 0
        assert t * b / k >= (128 if t < 2048 else 64)  # from 2048 steps on half as many rows do


@pytest.mark.parametrize("t,k", [(0, 1), (-3, 1), (1, 0), (2.5, 1), (True, 1), ("4", 1)])
def test_impossible_sizes_are_named(t, k):
    with pytest.raises(InputError, match=r"(steps|block): got .*expected an integer >= 1"):
        Tree(t, k)


def test_nodes_that_do_not_exist_are_named():
    tree = Tree(10, 3)
    for call, says in [(lambda: tree.span(3, 0), "height"), (lambda: tree.span(0, 4), "index"),
                       (lambda: tree.height(0), "boundary"), (lambda: tree.height(4), "boundary")]:  # fmt: skip
        with pytest.raises(InputError, match=says):
            call()
