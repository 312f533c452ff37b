"""CTC decoding against all paths: probabilities of texts, the beam, the best path, the alignment."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.models.ctc_decoding import Run, align, beam, best_path, ctc_decode


def texts(log_probs):
    """Probability of every text, and the most probable path of each, over all V^T paths."""
    found, best = {}, {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        value = sum(float(log_probs[t, v]) for t, v in enumerate(path))
        text = tuple(v for v, _ in itertools.groupby(path) if v)
        found[text] = found.get(text, 0.0) + math.exp(value)
        best[text] = max(best.get(text, (-math.inf, ())), (value, path))
    return found, best


def scores(seed, steps, symbols, sharp=2.0):
    g = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(steps, symbols, generator=g, dtype=torch.float64)).log_softmax(-1)


CASES = given(seed=st.integers(0, 10**6), steps=st.integers(1, 5), symbols=st.integers(2, 4))


@CASES
def test_a_wide_beam_finds_every_text_with_its_probability(seed, steps, symbols):
    log_probs = scores(seed, steps, symbols)
    true, _ = texts(log_probs)
    found = beam(log_probs, width=10_000)
    possible = {text: p for text, p in found if p > -math.inf}
    assert set(possible) == set(true)
    assert all(math.exp(p) == pytest.approx(true[text]) for text, p in possible.items())
    assert found[0][0] == max(true, key=true.get)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)


@CASES
def test_a_narrow_beam_never_claims_more_than_the_truth(seed, steps, symbols):
    log_probs = scores(seed, steps, symbols)
    true, _ = texts(log_probs)
    found = beam(log_probs, width=2)
    assert 1 <= len(found) <= 2
    assert all(math.exp(p) <= true.get(text, 0.0) + 1e-12 for text, p in found)


@CASES
def test_the_best_path_and_the_alignment_are_the_most_probable_paths(seed, steps, symbols):
    log_probs = scores(seed, steps, symbols)
    _, best = texts(log_probs)
    path = max(best.values())[1]
    runs = best_path(log_probs)
    assert [r.label for r in runs] == [v for v, _ in itertools.groupby(path) if v]
    for text, (value, _) in best.items():
        found = align(log_probs, list(text))
        assert tuple(r.label for r in found) == text
        assert _value(log_probs, found) == pytest.approx(value)


def _value(log_probs, runs):
    path = [0] * len(log_probs)
    for run in runs:
        path[run.first : run.last + 1] = [run.label] * (run.last - run.first + 1)
    return sum(float(log_probs[t, v]) for t, v in enumerate(path))


def test_merging_prefixes_finds_what_the_best_path_misses():
    """Two steps, blank 0.6 against label 0.4: the path of blanks is best, the label's three paths together are more."""
    log_probs = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    assert best_path(log_probs) == []
    text, value = beam(log_probs, width=2)[0]
    assert text == (1,) and math.exp(value) == pytest.approx(0.64)


def test_a_repeated_label_needs_a_blank_between():
    log_probs = torch.full((3, 3), 0.1)
    log_probs[[0, 1, 2], [1, 0, 1]] = 0.8
    assert best_path(log_probs.log()) == [Run(1, 0, 0), Run(1, 2, 2)]
    assert beam(log_probs.log(), width=4)[0][0] == (1, 1)
    assert align(log_probs.log(), [1, 1]) == [Run(1, 0, 0), Run(1, 2, 2)]


def test_a_batch_decodes_as_its_sequences_alone():
    batch, lengths = torch.stack([scores(i, 6, 4) for i in range(3)]), [6, 3, 0]
    for row, n, path, best in zip(
        batch, lengths, ctc_decode(batch, lengths), ctc_decode(batch, torch.tensor(lengths), width=20), strict=True
    ):
        assert path == [run.label for run in best_path(row[:n])]
        assert tuple(best) == beam(row[:n], 20)[0][0]
    assert ctc_decode(batch.exp().log().requires_grad_()) == ctc_decode(batch, [6, 6, 6])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ctc_decode(torch.ones(3, 4)), "scores: got torch.float32 of shape"),
        (lambda: ctc_decode(torch.ones(1, 3, 4), [4]), r"lengths: got \[4\]"),
        (lambda: ctc_decode(torch.ones(1, 3, 4), [1, 2]), "expected 1 whole numbers"),
        (lambda: ctc_decode(torch.ones(1, 3, 4), width=0), "width: got 0"),
    ],
)
def test_what_cannot_be_decoded_is_named(call, says):
    with pytest.raises(hs.InputError, match=says):
        call()
