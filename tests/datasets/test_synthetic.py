"""Synthetic tasks: answers and causes are worked out another way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hbll_seq import datasets
from hbll_seq.datasets import synthetic
from hbll_seq.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 12), st.integers(0, 99))
def test_recall_and_parity_answers(batch, steps, symbols, seed):
    for distractors, shift in (("own", symbols), ("same", 0)):
        x, y = synthetic.recall(batch, steps, symbols, seeded(seed), distractors)
        assert x.shape == (batch, steps) and 0 <= int(x[:, 0].min()) <= int(x[:, 0].max()) < symbols
        assert all(shift <= s < shift + symbols for row in x[:, 1:].tolist() for s in row)
        assert y.tolist() == [row[0] for row in x.tolist()]
    x, y = synthetic.parity(batch, steps, seeded(seed))
    for bits, running in zip(x.tolist(), y.tolist(), strict=True):
        assert running == [bits[: t + 1].count(1) % 2 for t in range(steps)]
    again, last = synthetic.parity(batch, steps, seeded(seed), per_step=False)
    assert torch.equal(again, x) and last.tolist() == y[:, -1].tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 99))
def test_adding_answer_and_cause(batch, steps, seed):
    sequences = datasets.load("adding", n=batch, steps=steps, seed=seed)
    assert sequences.x.shape == (batch, steps, 2) and sequences.y.shape == (batch, 1)
    for row, answer, cause in zip(sequences.x.numpy(), sequences.y[:, 0], sequences.cause, strict=True):
        first, second = np.flatnonzero(row[:, 1])
        assert first < steps // 2 <= second and set(row[:, 1]) <= {0.0, 1.0}
        assert [first, second] == cause.tolist()
        assert float(answer) == pytest.approx(row[first, 0] + row[second, 0], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 20), st.integers(2, 9), st.integers(0, 99))
def test_copy_answer_and_cause(batch, length, extra, symbols, seed):
    steps = 2 * length + extra
    s = datasets.load("copy", n=batch, steps=steps, length=length, symbols=symbols, seed=seed)
    for x, y, cause in zip(s.x.tolist(), s.y.tolist(), s.cause.tolist(), strict=True):
        assert x.index(symbols + 1) == steps - length - 1 and x.count(symbols + 1) == 1
        assert x.count(symbols) == steps - length - 1 and max(x[:length]) < symbols
        assert y == [-100] * (steps - length) + [x[c] for c in cause]
    assert (s.input_size, s.classes, s.task) == (symbols + 2, symbols, "step")


@pytest.mark.parametrize("name", ["recall", "adding", "copy", "parity"])
def test_sets_are_repeatable_and_leave_the_global_generator(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (datasets.load(name, n=64, steps=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y) and not torch.equal(one.x, other.x)
    train, valid = one.split(10)
    assert len(train) == 54 and len(valid) == 10 and len(valid.cause) == 10
    assert torch.equal(torch.cat([train.x, valid.x]), one.x) and train.task == one.task
    for bad in (64, 0, 0.2, True):
        with pytest.raises(InputError, match=f"n_valid: got {bad}; expected an integer in 1..63, of 64 sequences"):
            one.split(bad)
    with pytest.raises(InputError, match="seed: got 'a'"):
        datasets.load(name, n=64, steps=20, seed="a")


def test_sets_say_what_they_are():
    recall, parity = datasets.load("recall", n=4), datasets.load("parity", n=4, per_step=False)
    assert recall.cause.tolist() == [0] * 4 and recall.lengths is None and recall.task == "sequence"
    assert parity.task == "sequence" and parity.y.shape == (4,) and parity.cause.shape == (4, 128)
    assert datasets.load("adding", n=4).loss == "mse"
    with pytest.raises(InputError, match="steps: got 16; expected an integer >= 17"):
        datasets.load("copy", steps=16)
    with pytest.raises(InputError, match="symbols: got 1"):
        datasets.load("recall", symbols=1)
    with pytest.raises(InputError, match="per_step: got 'no'"):
        datasets.load("parity", per_step="no")
