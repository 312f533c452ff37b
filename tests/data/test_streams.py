"""Streams go on from window to window, lose nothing that they do not name, and keep the types they were given."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs
from hbll_seq.data.fingerprint import fingerprint
from hbll_seq.data.series import READ, as_series
from hbll_seq.data.streams import as_streams

G = torch.Generator().manual_seed(0)
TEXT = torch.randint(0, 5, (401,), generator=G)
LM = hs.models.CharLM(5, hidden=4)
X, Y = torch.randn(60, 2, generator=G), torch.randint(0, 3, (60,), generator=G)


def tagger(**options):
    return hs.models.SequenceModel(2, 3, **{"input_kind": "features", "hidden": 4} | options)


def epoch(source, size, number=0):
    n = source.steps_per_epoch(size)
    return [source.batch(number * n + i, size, 0) for i in range(n)]


@given(t=st.integers(2, 90), size=st.integers(1, 6), window=st.integers(1, 30))
def test_a_text_becomes_contiguous_streams(t, size, window):
    text, steps = TEXT[:t], (t - 1) // size
    source = as_streams(text, None, LM, window=window)
    if steps < window:
        with pytest.raises(hs.InputError, match="window|batch_size"):
            source.batch(0, size, 0)
        return
    batches = epoch(source, size)
    assert torch.equal(torch.cat([b.x for b in batches], 1), text[: size * steps].view(size, steps))
    assert torch.equal(torch.cat([b.y for b in batches], 1), text[1 : size * steps + 1].view(size, steps))
    assert all(b.x.shape[1] == window for b in batches[:-1]) and all(b.mask.all() for b in batches)
    assert [source.begins(i, size) for i in range(2 * len(batches))] == 2 * ([True] + [False] * (len(batches) - 1))
    assert source.describe(size) == {"streams": size, "time_steps": steps, "left_out": t - 1 - size * steps}
    assert torch.equal(epoch(source, size, 3)[-1].x, batches[-1].x)


@given(t=st.integers(1, 60), window=st.one_of(st.none(), st.integers(1, 70)))
def test_evaluation_leaves_nothing_out(t, window):
    source = as_streams(X[:t], Y[:t], tagger(), window=window)
    found = list(source.whole(7))
    assert torch.equal(torch.cat([b.x for _, b in found], 1)[0], X[:t])
    assert torch.equal(torch.cat([b.y for _, b in found], 1)[0], Y[:t])
    assert [begins for begins, _ in found] == [True] + [False] * (len(found) - 1)


def test_targets_masks_and_ignored_labels_stay_with_their_time_steps():
    y, mask = Y.clone(), torch.rand(60, generator=G) < 0.7
    y[::4] = -100
    source = as_streams(X, y, tagger(), mask=mask, window=8)
    batches = epoch(source, 3)
    counted = torch.cat([b.mask for b in batches], 1).flatten()
    assert torch.equal(counted, mask & (y != -100))
    assert torch.equal(torch.cat([b.y for b in batches], 1).flatten()[counted], y[counted])
    values = torch.randn(60, 3, generator=G, dtype=torch.float64)
    source = as_streams(X, values, tagger(objective="mse"), window=20)
    assert torch.equal(source.batch(0, 3, 0).y, values.view(3, 20, 3).float())


def test_the_rows_of_a_batch_are_streams_read_side_by_side_in_a_new_order_each_epoch():
    x, y = X.view(5, 12, 2), Y.view(5, 12)
    source = as_streams(list(x), y, tagger(), window=5)
    assert source.steps_per_epoch(2) == 9 and source.steps_per_epoch(16) == 3
    assert [source.begins(i, 2) for i in range(9)] == [True, False, False] * 3
    orders = []
    for number in (0, 1):
        batches = epoch(source, 2, number)
        rows = torch.cat([torch.cat([b.x for b in batches[i : i + 3]], 1) for i in (0, 3, 6)])
        orders.append([int((row == x).flatten(1).all(1).nonzero()) for row in rows])
        assert sorted(orders[-1]) == [0, 1, 2, 3, 4]
    assert orders[0] != orders[1] and source.describe(2)["left_out"] == 0
    assert torch.equal(torch.cat([b.x for b in epoch(source, 16)], 1), x)  # all in one batch: in their own order


def test_a_series_of_one_feature_needs_no_axis_for_it():
    net = hs.models.SequenceModel(1, 1, input_kind="features", hidden=4, objective="mse")
    wave = torch.randn(50, generator=G)
    for x, y in ((wave, wave), (wave[:, None], wave[:, None]), (wave.view(1, 50, 1), wave.view(1, 50))):
        batch = as_streams(x, y, net, window=25).batch(1, 1, 0)
        assert torch.equal(batch.x, wave[25:].view(1, 25, 1)) and torch.equal(batch.y, wave[25:].view(1, 25, 1))


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "int64"])
def test_symbols_keep_their_type_and_their_memory(kind, tmp_path):
    np.save(tmp_path / "x.npy", TEXT.numpy().astype(kind))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for x in (mapped, torch.from_numpy(TEXT.numpy().astype(kind))):
        source = as_streams(x, None, LM, window=10)
        assert (
            str(source.series.x.dtype).removeprefix("torch.") == kind and source.batch(1, 4, 0).x.dtype == torch.int64
        )
        pointer = x.ctypes.data if x is mapped else x.data_ptr()
        assert source.series.x.data_ptr() == pointer
        assert torch.equal(source.batch(1, 4, 0).x, as_streams(TEXT, None, LM, window=10).batch(1, 4, 0).x)
        assert fingerprint(source) == fingerprint(as_streams(TEXT, None, LM))


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int16"])
def test_features_keep_their_type_and_their_memory(kind, tmp_path):
    given = (4 * X).numpy().astype(kind)
    np.save(tmp_path / "x.npy", given)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = as_streams(mapped, Y, tagger(), window=10)
    assert source.series.x.data_ptr() == mapped.ctypes.data
    batch = source.batch(1, 2, 0)
    assert batch.x.dtype == torch.float32
    assert np.array_equal(batch.x.numpy(), given.reshape(2, 30, 2)[:, 10:20].astype("float32"))
    batch.x.zero_()  # a copy: a mapped file is never written
    assert np.array_equal(mapped, given)
    backwards = np.ascontiguousarray(given[::-1])[::-1]  # torch has no negative strides
    assert torch.equal(as_streams(backwards, Y, tagger()).series.x, source.series.x)


def test_no_window_read_at_once_grows_with_the_text():
    text = torch.zeros(200_000, dtype=torch.uint8)
    source = as_streams(text, None, LM)
    assert max(b.x.numel() for b in source.in_order(64)) == READ
    assert source.series.x.data_ptr() == text.data_ptr()
    rows = as_streams(text.view(1000, 200), None, LM)
    assert max(b.x.numel() for b in rows.in_order(64)) <= READ


def test_a_tail_is_cut_in_time_or_between_sequences():
    before, after = as_streams(TEXT, None, LM, window=30).tail(0.25)
    assert torch.equal(torch.cat([before.series.x, after.series.x], 1)[0], TEXT) and after.inputs == 99
    assert (before.window, after.window) == (30, None)
    before, after = as_streams(X.view(5, 12, 2), Y.view(5, 12), tagger()).tail(0.4)
    assert (len(before.series.x), len(after.y)) == (3, 2)
    with pytest.raises(hs.InputError, match="validation: got 0.999 of 401 steps"):
        as_streams(TEXT, None, LM).tail(0.999)
    late = torch.arange(60) >= 50
    with pytest.raises(hs.InputError, match="no step that counts in the first part"):
        as_streams(X, Y, tagger(), mask=late).tail(0.2)


def test_the_fingerprint_tells_data_apart():
    other = Y.clone()
    other[30] = (other[30] + 1) % 3
    sources = [
        as_streams(X, Y, tagger()), as_streams(X, other, tagger()), as_streams(X.flip(0), Y, tagger()),
        as_streams(X.view(2, 30, 2), Y.view(2, 30), tagger()), as_streams(X, Y, tagger(), mask=torch.arange(60) > 3),
    ]  # fmt: skip
    assert len({fingerprint(one) for one in sources}) == len(sources)


BAD = X.clone()
BAD[33, 1] = torch.nan
LABELS = Y.clone()
LABELS[47] = 3
WRONG = {
    "a DataLoader": (dict(x=DataLoader(TensorDataset(X, Y))), "x: got a DataLoader, with stateful=True"),
    "a Dataset": (dict(x=TensorDataset(X, Y)), "x: got a TensorDataset"),
    "lengths": (dict(x=(X.view(2, 30, 2), torch.tensor([30, 20]))), r"x: got \(x, lengths\)"),
    "unequal lengths": (dict(x=[X[:30], X[30:50]]), r"x\[1\]: got shape \(20, 2\), where x\[0\] has \(30, 2\)"),
    "empty": (dict(x=X[:0]), "x: got shape"),
    "another width": (dict(x=X[:, :1]), r"x: got shape \(60, 1\); expected \(T, 2\) or \(N, T, 2\)"),
    "one axis": (dict(x=X[:, 0]), r"x: got shape \(60,\)"),
    "not finite": (dict(x=BAD), r"x: got NaN or infinity at \[0, 33, 1\]"),
    "no targets": (dict(y=None), "y: got None"),
    "few targets": (dict(y=Y[:50]), r"y: got shape \(50,\); expected one a step of x: \(60, ...\)"),
    "no label": (dict(y=LABELS), r"y: got labels in 0..3; expected labels in 0..2"),
    "no integers": (dict(y=Y.float()), "y: got dtype torch.float32"),
    "all ignored": (dict(y=torch.full((60,), -100)), "y: got no step that counts"),
    "mask of numbers": (dict(mask=torch.ones(60)), "mask: got dtype torch.float32"),
    "mask of features": (dict(mask=torch.ones(60, 2, dtype=torch.bool)), "mask: got shape"),
    "no window": (dict(window=0), "window: got 0"),
}


@pytest.mark.parametrize("options,says", WRONG.values(), ids=list(WRONG))
def test_data_that_cannot_be_streams_are_refused(options, says):
    options = {"x": X, "y": Y} | options
    with pytest.raises(hs.InputError, match=says):
        as_streams(options.pop("x"), options.pop("y"), tagger(), **options)


def test_a_position_far_inside_is_named_from_its_window():
    x = torch.zeros(3 * READ, 2)
    x[2 * READ + 5, 1] = torch.inf
    with pytest.raises(hs.InputError, match=rf"infinity at \[0, 5, 1\], counted from step {2 * READ}"):
        as_streams(x, torch.zeros(3 * READ, dtype=torch.int64), tagger())


def test_symbols_are_checked_as_for_plain_sequences():
    for x, says in (
        (torch.tensor([0, 1, 5]), "symbols in 0..5"), (torch.tensor([0.0, 1.0]), "dtype torch.float32"),
        (torch.tensor([1]), "1 step"), (torch.zeros(2, 3, 4, dtype=torch.int64), r"shape \(2, 3, 4\)"),
        (np.ma.masked_array([0, 1, 2], [0, 1, 0]), "masked"),
    ):  # fmt: skip
        with pytest.raises(hs.InputError, match=says):
            as_streams(x, None, LM)
    with pytest.raises(hs.InputError, match="y: got targets"):
        as_streams(TEXT, TEXT, LM)
    mask = torch.zeros(401, dtype=torch.bool)
    mask[0] = True  # the first symbol is no target
    with pytest.raises(hs.InputError, match="mask: got no step that counts"):
        as_streams(TEXT, None, LM, mask=mask)
    assert as_series([0, 1, 2], LM).single
