"""Spans of files: together the whole, each mapped alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.datasets.span_files import open_span


@given(st.integers(5, 60), st.integers(1, 4), st.integers(0, 1), st.integers(1, 3), st.integers(1, 20))
def test_spans_make_up_the_sequence(tmp_path_factory, steps, ranks, ahead, multiple, window):
    if -(-(steps - ahead) // multiple) < ranks:
        return
    path = tmp_path_factory.mktemp("span") / "tokens.bin"
    tokens = np.arange(steps, dtype="uint16")
    tokens.tofile(path)
    found, targets = [], []
    for rank in range(ranks):
        span = open_span(path, rank, ranks, dtype="uint16", ahead=ahead, multiple=multiple)
        assert span.first % multiple == 0 and span.values.dtype == torch.uint16 and span.steps == steps
        for part in span.windows(window):
            found += part[: len(part) - ahead].tolist()
            targets += part[ahead:].tolist()
    assert found == list(range(steps - ahead)) and targets == list(range(ahead, steps))


def test_features_in_both_kinds_of_file(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
    values.tofile(tmp_path / "bare.f32")
    np.save(tmp_path / "named.npy", values)
    bare = open_span(tmp_path / "bare.f32", 1, 3, dtype="float32", features=3)
    named = open_span(tmp_path / "named.npy", 1, 3)
    assert torch.equal(bare.values, torch.from_numpy(values[10:20])) and torch.equal(bare.values, named.values)


def test_a_span_is_mapped_and_not_read(tmp_path):
    path = tmp_path / "tokens.bin"
    np.zeros(100, dtype="uint8").tofile(path)
    span = open_span(path, 0, 2, dtype="uint8")
    with path.open("r+b") as file:  # a copy would not see it
        file.write(b"\7")
    assert int(span.values[0]) == 7


@pytest.mark.parametrize(
    "options, argument",
    [
        ({"rank": 2, "ranks": 2, "dtype": "uint8"}, "rank"), ({"dtype": "float32", "features": 7}, "path"),
        ({}, "dtype"), ({"dtype": "nothing"}, "dtype"), ({"ranks": 200, "dtype": "uint8"}, "path"),
    ],
)  # fmt: skip
def test_what_does_not_fit(tmp_path, options, argument):
    path = tmp_path / "tokens.bin"
    np.zeros(100, dtype="uint8").tofile(path)
    with pytest.raises(hs.InputError) as error:
        open_span(path, **options)
    assert error.value.argument == argument
    with pytest.raises(hs.InputError):
        open_span(tmp_path / "missing.npy")


@pytest.mark.parametrize("options", [{"dtype": "int64"}, {"features": 2}, {"features": 1, "dtype": "uint8"}])
def test_a_file_that_knows_its_type_is_not_read_as_another(tmp_path, options):
    """As bare numbers its header would be data."""
    np.save(tmp_path / "tokens.npy", np.arange(64))
    with pytest.raises(hs.InputError, match="for a .npy file; expected None"):
        open_span(tmp_path / "tokens.npy", **options)


def test_a_span_is_evaluated_and_predicted_as_the_whole_sequence(tmp_path):
    values = np.arange(50) % 5
    np.save(tmp_path / "tokens.npy", values)
    span, model = open_span(tmp_path / "tokens.npy", 1, 2, ahead=1), hs.models.CharLM(5, hidden=4)
    assert hs.evaluate(model, span) == hs.evaluate(model, torch.from_numpy(values))
    found = hs.predict(model, span, stateful=True)
    assert torch.equal(found, hs.predict(model, torch.from_numpy(values), stateful=True))
