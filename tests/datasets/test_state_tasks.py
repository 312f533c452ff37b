"""Word problems, tasks of the Chomsky hierarchy, ListOps: group axioms, and answers worked out another way."""

import itertools
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hbll_seq import datasets
from hbll_seq.datasets.groups import GROUPS, group
from hbll_seq.datasets.listops import SYMBOLS
from hbll_seq.errors import InputError

ORDERS = {"S5": 120, "A5": 60, "S3": 6, "parity": 2, "Z60": 60}


@pytest.mark.parametrize("name", GROUPS)
def test_a_table_is_a_group(name):
    g = group(name)
    n, table = len(g), g.table
    every = torch.arange(n)
    assert n == ORDERS[name] == len(set(g.elements))
    assert torch.equal(table[0], every) and torch.equal(table[:, 0], every), "0 is the identity"
    assert torch.equal(table[table], table[every[:, None, None], table]), "products are associative"
    assert torch.equal(table.sort(1).values, every.expand(n, n)), "every element has an inverse"


@pytest.mark.parametrize("name", GROUPS)
def test_generators_make_the_whole_group(name):
    g = group(name)
    reached, new = {0}, {0}
    while new:
        new = {int(g.table[a, b]) for a in new for b in g.generators} - reached
        reached |= new
    assert len(reached) == len(g)


def test_products_are_compositions_of_maps():
    for name in ("S5", "A5", "S3"):
        g = group(name)
        a, b = len(g) // 2, len(g) - 1
        both = tuple(g.elements[a][i] for i in g.elements[b])
        assert g.elements[int(g.table[a, b])] == both
    assert not torch.equal(group("A5").table, group("A5").table.T), "A5 is not commutative"
    even = {p for p in itertools.permutations(range(5)) if round(float(torch.linalg.det(torch.eye(5)[list(p)]))) == 1}
    assert set(group("A5").elements) == even
    assert int(group("Z60").table[59, 2]) == 1


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(GROUPS), st.sampled_from(["generators", "all"]), st.integers(1, 70), st.integers(0, 99))
def test_words_answer_the_product_so_far(name, inputs, steps, seed):
    s, g = datasets.load("words", group=name, inputs=inputs, steps=steps, n=3, seed=seed), group(name)
    meant = list(range(len(g))) if inputs == "all" else [0, *g.generators]
    assert s.x.shape == s.y.shape == (3, steps) and (s.input_size, s.classes) == (len(meant), len(g))
    for word, answers in zip(s.x.tolist(), s.y.tolist(), strict=True):
        product = 0
        for symbol, answer in zip(word, answers, strict=True):
            product = int(g.table[product, meant[symbol]])
            assert answer == product
    again = datasets.load("words", group=name, inputs=inputs, steps=steps, n=3, seed=seed)
    assert torch.equal(again.x, s.x)


def _even_pairs(symbols):
    return sum(a != b for a, b in itertools.pairwise(symbols)) % 2


def _modular_arithmetic(symbols):
    return eval("".join("01234+-*"[s] for s in symbols)) % 5


CHOMSKY = {
    "even_pairs": _even_pairs,
    "parity_check": lambda symbols: symbols.count(1) % 2,
    "cycle_navigation": lambda symbols: (symbols.count(2) - symbols.count(0)) % 5,
    "modular_arithmetic": _modular_arithmetic,
    "compare_occurrence": lambda symbols: int(symbols.count(1) > symbols.count(0)),
    "bucket_sort": sorted,
}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(CHOMSKY)), st.integers(1, 20), st.integers(0, 20), st.integers(0, 99))
def test_chomsky_tasks_answer_right(task, shortest, more, seed):
    s = datasets.load("chomsky", task=task, shortest=shortest, longest=shortest + more, n=8, seed=seed)
    blank, sort = s.input_size - 1, task == "bucket_sort"
    assert s.x.shape == (8, (shortest + more) * 2 if sort else shortest + more + 1)
    assert (s.task, s.y.shape == s.x.shape) == (("step", True) if sort else ("sequence", False))
    for row, answer, length in zip(s.x.tolist(), s.y.tolist(), s.lengths.tolist(), strict=True):
        size = row.index(blank)
        odd = task == "modular_arithmetic" and size % 2 == 1
        assert shortest - odd <= size <= shortest + more and length == (2 * size if sort else size + 1)
        assert row[size:length] == [blank] * (length - size) and not any(row[length:])
        right = CHOMSKY[task](row[:size])
        assert answer == ([-100] * size + right + [-100] * (len(row) - length) if sort else right)


def test_lengths_and_symbols_of_chomsky_tasks_are_spread():
    s = datasets.load("chomsky", task="modular_arithmetic", n=4000)
    sizes = torch.bincount((s.lengths - 1) // 2, minlength=20)
    assert len(sizes) == 20 and int(sizes.min()) > 100, "lengths 1, 3, .. 39, each about one in twenty"
    symbols = torch.bincount(s.x[torch.arange(41) < s.lengths[:, None] - 1], minlength=8).float()
    assert float(symbols[:5].max() / symbols[:5].min()) < 1.1 and float(symbols[5:].max() / symbols[5:].min()) < 1.1


def _evaluated(tokens):
    """Value of a list of words, with a stack; the depth that it had."""
    stack, deepest = [[]], 0
    for token in tokens:
        if token.startswith("["):
            stack.append([token])
            deepest = max(deepest, len(stack) - 1)
        elif token == "]":
            operator, *values = stack.pop()
            assert 2 <= len(values) <= 10
            stack[-1].append({
                "[MIN": min(values), "[MAX": max(values), "[SM": sum(values) % 10,
                "[MED": int(statistics.median(values)),
            }[operator])  # fmt: skip
        else:
            stack[-1].append(int(token))
    assert len(stack) == 1 and len(stack[0]) == 1, "one whole expression"
    return stack[0][0], deepest


@pytest.mark.parametrize("options", [{"n": 12}, {"n": 60, "shortest": 4, "longest": 60, "depth": 3}])
def test_listops_values_are_right(options):
    s = datasets.load("listops", **options)
    least, most = options.get("shortest", 500), options.get("longest", 2000)
    assert int(s.lengths.min()) > least and int(s.lengths.max()) < most and s.input_size == len(SYMBOLS) == 15
    deepest = 0
    for row, value, length in zip(s.x.tolist(), s.y.tolist(), s.lengths.tolist(), strict=True):
        found, depth = _evaluated([SYMBOLS[i] for i in row[:length]])
        assert found == value and not any(row[length:])
        deepest = max(deepest, depth)
    assert deepest <= options.get("depth", 10) and deepest >= 3


def test_listops_repeat_by_seed():
    options = dict(n=5, shortest=10, longest=80)
    first, again, other = (datasets.load("listops", seed=seed, **options) for seed in (3, 3, 4))
    assert torch.equal(first.x, again.x) and not torch.equal(first.x, other.x)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("words", dict(group="S4"), "group: got 'S4'"),
        ("words", dict(inputs="some"), "inputs: got 'some'"),
        ("words", dict(steps=0), "steps: got 0"),
        ("chomsky", dict(task="reverse"), "task: got 'reverse'"),
        ("chomsky", dict(shortest=9, longest=8), "longest: got 8"),
        ("listops", dict(arguments=1), "arguments: got 1"),
        ("listops", dict(shortest=50, longest=51), "longest: got 51"),
        ("listops", dict(shortest=500, depth=1, n=1), "lengths of which one comes"),
    ],
)
def test_wrong_options_are_refused(name, options, said):
    with pytest.raises(InputError, match=said):
        datasets.load(name, **options)
