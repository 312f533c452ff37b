"""Error rates: torchaudio's distance, the kinds of errors, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.audio import edit_distance, error_rate

TEXT = st.text("abc ", max_size=9)


def best(reference, hypothesis):
    """All alignments, by recursion: the fewest errors, then the fewest deletions and insertions."""
    if not reference or not hypothesis:
        return len(reference) + len(hypothesis), len(reference) + len(hypothesis), 0, len(reference), len(hypothesis)
    wrong = int(reference[0] != hypothesis[0])
    found = []
    for (r, h), (s, d, i) in {(1, 1): (wrong, 0, 0), (1, 0): (0, 1, 0), (0, 1): (0, 0, 1)}.items():
        cost, moves, *kinds = best(reference[r:], hypothesis[h:])
        found.append((cost + s + d + i, moves + d + i, *(a + b for a, b in zip(kinds, (s, d, i), strict=True))))
    return min(found)


@settings(deadline=None, max_examples=40)
@given(reference=st.text("abc", min_size=1, max_size=5), hypothesis=st.text("abc", max_size=5))
def test_kinds_are_those_of_the_best_alignment(reference, hypothesis):
    found = error_rate([reference], [hypothesis])
    assert found[1:4] == best(reference, hypothesis)[2:]


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), unit=st.sampled_from(["label", "word"]))
def test_errors_are_torchaudio_s_edit_distance(rows, unit):
    references, hypotheses = zip(("a", "b"), *rows, strict=True)  # at least one label
    found = error_rate(references, hypotheses, unit=unit)
    distances = [edit_distance(*pair, unit=unit) for pair in zip(references, hypotheses, strict=True)]
    assert found.substitutions + found.deletions + found.insertions == sum(distances)
    assert found.total == sum(len(r.split() if unit == "word" else r) for r in references)
    assert found.rate == sum(distances) / found.total
    grown = sum(len(h.split() if unit == "word" else h) for h in hypotheses) - found.total
    assert found.insertions - found.deletions == grown


def test_known_transcripts():
    assert edit_distance("kitten", "sitting") == 3
    assert error_rate(["kitten"], ["sitting"]) == hs.audio.ErrorRate(0.5, 2, 0, 1, 6)
    words = error_rate(["the cat sat", "yes"], ["the hat  sat down", ""], unit="word")
    assert words == hs.audio.ErrorRate(0.75, 1, 1, 1, 4)
    assert error_rate(["", "a"], ["bc", "a"]) == hs.audio.ErrorRate(2.0, 0, 0, 2, 1)


@pytest.mark.parametrize("form", [list, tuple, torch.tensor, np.array, lambda row: list(torch.tensor(row))])
def test_labels_in_any_form(form):
    assert error_rate([form([1, 2, 3])], [[1, 3]]) == hs.audio.ErrorRate(1 / 3, 0, 1, 0, 3)
    assert edit_distance(form([1, 2, 3]), [1, 3]) == 1


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        (("abc", ["abc"]), {}, "references: got one str"),
        ((["abc"], []), {}, "hypotheses: got 0 transcripts; expected 1"),
        ((["", ""], ["a", ""]), {}, "references: got none with a label"),
        (([], []), {}, "references: got none"),
        (([[1, 2]], [[1]]), {"unit": "word"}, r"references\[0\]: got list"),
        ((["a"], ["a"]), {"unit": "letter"}, "unit"),
        ((["a"], [7]), {}, r"hypotheses\[0\]: got int"),
        (([[[1], [2]]], ["a"]), {}, r"references\[0\]: got labels that are not hashable"),
        ((["a"], [torch.zeros(2, 2)]), {}, r"hypotheses\[0\]: got shape \(2, 2\)"),
        ((torch.zeros(3), ["a"]), {}, "references: got a tensor of shape"),
    ],
)
def test_what_is_refused(arguments, options, match):
    with pytest.raises(hs.InputError, match=match):
        error_rate(*arguments, **options)
