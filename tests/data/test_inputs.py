"""Every form of input becomes the same batches, and every unusable one is named before work starts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hbll_seq.data.inputs import as_source
from hbll_seq.errors import InputError
from hbll_seq.models import CharLM, SequenceModel

LENGTHS = [5, 3, 7, 1]
SEQUENCES = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in LENGTHS]
PADDED = torch.nn.utils.rnn.pad_sequence(SEQUENCES, batch_first=True)
LABELS = torch.tensor([0, 2, 1, 2])


def net(**options):
    return SequenceModel(2, 3, input_kind="features", hidden=4, **{"task": "sequence"} | options)


class Pairs(Dataset):
    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, i):
        return self.parts[0][i] if len(self.parts) == 1 else tuple(p[i] for p in self.parts)


def frozen(array):
    array.flags.writeable = False
    return array


FORMS = {
    "list": (SEQUENCES, LABELS),
    "list of arrays": ([s.numpy() for s in SEQUENCES], LABELS.numpy()),
    "padded and lengths": ((PADDED, torch.tensor(LENGTHS)), LABELS),
    "padded array and list of lengths": ((PADDED.numpy(), LENGTHS), LABELS.tolist()),
    "packed": (pack_sequence(SEQUENCES, enforce_sorted=False), LABELS),
    "dataset": (Pairs(SEQUENCES, LABELS), None),
    "dataset with lengths": (Pairs(PADDED, LABELS, torch.tensor(LENGTHS)), None),
    "float64": ([s.double() for s in SEQUENCES], LABELS.int()),
    "padded with NaN": (
        (
            PADDED.masked_fill(torch.arange(7)[None, :, None] >= torch.tensor(LENGTHS)[:, None, None], torch.nan),
            LENGTHS,
        ),
        LABELS,
    ),
    "read-only, reversed strides": (
        [frozen(s.numpy()[::-1].copy())[::-1] for s in SEQUENCES],
        LABELS.numpy().astype("uint16"),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches(form):
    x, y = FORMS[form]
    batch = next(as_source(x, y, net()).in_order(4))
    torch.testing.assert_close(batch.x, PADDED)
    assert batch.lengths.tolist() == LENGTHS and batch.y.tolist() == LABELS.tolist() and batch.mask is None


def test_a_loader_is_used_as_it_is():
    data = TensorDataset(PADDED, LABELS, torch.tensor(LENGTHS))
    source = as_source(DataLoader(data, batch_size=2), None, net())
    assert [b.y.tolist() for b in source.in_order(99)] == [[0, 2], [1, 2]]
    assert [source.batch(i, 99, 0).y.tolist() for i in range(3)] == [[0, 2], [1, 2], [0, 2]]
    assert source.batch(1, 99, 0).lengths.tolist() == [7, 1]  # asked for again: from the start


def test_drawing_from_a_shuffling_loader_leaves_the_global_random_state():
    source = as_source(DataLoader(TensorDataset(PADDED, LABELS), batch_size=1, shuffle=True), None, net())
    before = torch.get_rng_state()
    order = [source.batch(i, 1, 7).x.tolist() for i in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert sorted(order[:4]) == sorted(order[4:]) == sorted(PADDED[:, None].tolist())  # each epoch sees all


def test_padding_is_zeroed():
    dirty = PADDED.clone()
    dirty[1, 3:] = 9.0
    assert as_source((dirty, LENGTHS), LABELS, net()).x.equal(PADDED)


def test_one_unbatched_sequence_is_a_batch_of_one():
    assert as_source(SEQUENCES[0], [1], net()).x.shape == (1, 5, 2)
    wave = SequenceModel(1, 1, input_kind="features", task="next", objective="mse", hidden=3)
    assert as_source(torch.randn(4, 9), None, wave).x.shape == (4, 8, 1)


@given(n=st.integers(1, 9), batch=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_epoch_sees_every_sequence_once(n, batch, seed):
    x = torch.arange(float(n))[:, None, None].expand(n, 2, 2)
    source = as_source(x, torch.zeros(n, dtype=torch.int64), net())
    for epoch in range(2):
        per = source.steps_per_epoch(batch)
        seen = [v for i in range(per) for v in source.batch(epoch * per + i, batch, seed).x[:, 0, 0].tolist()]
        assert sorted(seen) == list(range(n))


def test_the_order_depends_on_seed_and_epoch_only():
    x = torch.arange(50.0)[:, None, None].expand(50, 1, 2)
    source = as_source(x, torch.zeros(50, dtype=torch.int64), net())
    pick = lambda i, s: source.batch(i, 50, s).x[:, 0, 0].tolist()  # noqa: E731
    assert pick(0, 1) == pick(0, 1) != pick(0, 2) and pick(0, 1) != pick(1, 1)


def test_next_step_targets_are_the_next_inputs():
    source = as_source([torch.tensor([1, 2, 3]), torch.tensor([4, 5])], None, CharLM(6, hidden=3))
    batch = next(source.in_order(2))
    assert batch.x.tolist() == [[1, 2], [4, 0]] and batch.lengths.tolist() == [2, 1]
    assert batch.y[batch.mask].tolist() == [2, 3, 5]


@given(n=st.integers(2, 60), window=st.integers(1, 70), rows=st.integers(1, 4))
def test_windows_over_a_long_text_predict_every_symbol_once(n, window, rows):
    text = torch.arange(n)
    source = as_source(text, None, CharLM(n, hidden=2), window=window)
    assert [v for b in source.in_order(rows) for v in b.y[b.mask].tolist()] == list(range(1, n))
    batch = source.batch(3, rows, 0)
    assert (batch.y - batch.x).eq(1).all() and batch.x.shape == (rows, min(window, n - 1))


def test_a_fraction_of_a_text_is_its_tail():
    train, held = as_source(torch.arange(100), None, CharLM(100, hidden=2), window=10).tail(0.2)
    assert train.symbols.tolist() == list(range(80)) and held.symbols.tolist() == list(range(80, 100))


def test_ignored_and_masked_steps_do_not_count():
    tagger = net(task="step")
    y = torch.tensor([[0, 1, -100, 2, 1], [2, -100, 0, 0, 0]])
    x, mask = torch.randn(2, 5, 2), torch.ones(2, 5, dtype=torch.bool)
    mask[0, 0] = False
    batch = next(as_source((x, [5, 3]), y, tagger, mask=mask).in_order(2))
    assert batch.mask.tolist() == [[False, True, False, True, True], [True, False, True, False, False]]
    ragged = next(as_source([x[0], x[1, :3]], [y[0], y[1, :3]], tagger).in_order(2))
    assert ragged.y[ragged.mask].tolist() == [0, 1, 2, 1, 2, 0]


def test_regression_targets():
    whole, step = net(objective="mse"), net(task="step", objective="mse")
    x = torch.randn(4, 6, 2)
    assert as_source(x, np.ones((4, 3)), whole).y.dtype == torch.float32
    assert as_source(x, torch.ones(4, 6, 3), step).y.shape == (4, 6, 3)
    one = SequenceModel(2, 1, input_kind="features", task="sequence", objective="mse", hidden=3)
    assert as_source(x, [0.1, 0.2, 0.3, 0.4], one).y.shape == (4, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64"])
def test_a_text_of_any_integers_on_disk(dtype, tmp_path):
    values = torch.arange(60) % 7
    values.numpy().astype(dtype).tofile(tmp_path / "tokens")
    text = np.memmap(tmp_path / "tokens", dtype=dtype, mode="r")
    source = as_source(text, None, CharLM(7, hidden=2), window=20)
    assert source.symbols.element_size() <= max(np.dtype(dtype).itemsize, 4)  # not eight bytes a symbol
    batch = next(source.in_order(9))
    assert batch.x.dtype == batch.y.dtype == torch.int64 and batch.y[0].tolist() == values[1:21].tolist()


def test_what_stands_after_the_end_may_be_anything():
    symbols = torch.tensor([[1, 2, 3, -1, -1], [4, 5, 1, 2, 3]])
    source = as_source((symbols, [3, 5]), None, CharLM(6, hidden=3))
    assert source.x.tolist() == [[1, 2, 0, 0], [4, 5, 1, 2]] and source.lengths.tolist() == [2, 4]
    x, late = torch.randn(2, 5, 2), torch.arange(5)[None] >= torch.tensor([[3], [5]])
    labels = torch.ones(2, 5, dtype=torch.int64).masked_fill(late, 99)
    assert as_source((x, [3, 5]), labels, net(task="step")).y[late].tolist() == [0, 0]
    values = torch.ones(2, 5, 3).masked_fill(late[..., None], torch.nan)
    masked = as_source(x, values, net(task="step", objective="mse"), mask=~late)
    assert masked.y.isfinite().all() and masked.mask.equal(~late)


def test_a_dataset_padded_alike_in_x_and_y():
    y = torch.tensor([[0, 1, 2, 9, 9], [2, 1, 0, 1, 2]])
    source = as_source(Pairs(torch.randn(2, 5, 2), y, [3, 5]), None, net(task="step"))
    assert source.y[source.mask].tolist() == [0, 1, 2, 2, 1, 0, 1, 2]


def test_one_sequence_with_one_value_a_step():
    one = SequenceModel(2, 1, input_kind="features", task="step", objective="mse", hidden=3)
    x, y = torch.randn(1, 6, 2), torch.arange(6.0)
    for form in (y, y[None], y[:, None], y[None, :, None], [y]):
        assert as_source(x, form, one).y.flatten().tolist() == y.tolist()


def test_regression_of_the_next_step_has_the_next_features_as_target():
    wave = SequenceModel(2, 2, input_kind="features", task="next", objective="mse", hidden=3)
    source = as_source(SEQUENCES[:3], None, wave)
    for row, sequence in enumerate(SEQUENCES[:3]):
        assert source.y[row][source.mask[row]].equal(sequence[1:]) and source.lengths[row] == len(sequence) - 1


X, Y = torch.randn(3, 5, 2), torch.tensor([0, 1, 2])
SYMBOLS = torch.randint(0, 6, (3, 5))
BAD = {
    "wrong rank": (lambda: as_source(torch.randn(3, 5, 2, 1), Y, net()), r"x: got shape \(3, 5, 2, 1\)"),
    "transposed": (lambda: as_source(X.transpose(1, 2), Y, net()), r"transpose\(1, 2\)"),
    "nan": (lambda: as_source(torch.where(X > 9, X, torch.nan), Y, net()), r"x: got NaN or infinity at \[0, 0, 0\]"),
    "inf": (lambda: as_source(X / 0, Y, net()), "x: got NaN or infinity"),
    "empty": (lambda: as_source(X[:0], Y[:0], net()), "x: got shape"),
    "no steps": (lambda: as_source(X[:, :0], Y, net()), "x: got shape"),
    "empty list": (lambda: as_source([], Y, net()), "x: got an empty list"),
    "empty sequence": (lambda: as_source([X[0], X[0, :0]], Y[:2], net()), r"x\[1\]: got an empty sequence"),
    "mixed widths": (lambda: as_source([X[0], torch.randn(4, 3)], Y[:2], net()), r"x\[1\]: got shape"),
    "too long": (lambda: as_source((X, [5, 6, 1]), Y, net()), r"lengths: got values in 1..6; expected values in 1..5"),
    "length zero": (lambda: as_source((X, [5, 0, 1]), Y, net()), "lengths: got values in 0..5"),
    "fractions": (lambda: as_source((X, [1.0, 0.5, 0.1]), Y, net()), "lengths: got dtype"),
    "lengths missing": (lambda: as_source((X, [5, 5]), Y, net()), r"lengths: got shape \(2,\)"),
    "tuple of three": (lambda: as_source((X, [5, 5, 5], Y), Y, net()), "x: got a tuple of 3"),
    "text": (lambda: as_source("hello", Y, net()), "x: got"),
    "none": (lambda: as_source(None, Y, net()), "x: got NoneType"),
    "no target": (lambda: as_source(X, None, net()), "y: got None"),
    "too few targets": (lambda: as_source(X, Y[:2], net()), r"y: got shape \(2,\)"),
    "labels too high": (lambda: as_source(X, Y + 1, net()), r"y: got labels in 1..3; expected labels in 0..2"),
    "labels negative": (lambda: as_source(X, Y - 1, net()), "y: got labels in -1..1"),
    "float labels": (lambda: as_source(X, Y.float(), net()), "y: got dtype torch.float32"),
    "labels per step": (lambda: as_source(X, torch.zeros(3, 5, dtype=torch.int64), net()), "task='step'"),
    "per step too short": (lambda: as_source(X, torch.zeros(3, 4, dtype=torch.int64), net(task="step")), r"y: got shape \(3, 4\)"),
    "all ignored": (lambda: as_source(X, torch.full((3, 5), -100), net(task="step")), "y: got no step that counts"),
    "mask shape": (lambda: as_source(X, torch.zeros(3, 5, dtype=torch.int64), net(task="step"), mask=torch.ones(3, 4).bool()), "mask: got shape"),
    "mask dtype": (lambda: as_source(X, torch.zeros(3, 5, dtype=torch.int64), net(task="step"), mask=torch.ones(3, 5)), "mask: got dtype"),
    "mask for one label": (lambda: as_source(X, Y, net(), mask=torch.ones(3, 5).bool()), "mask: got given"),
    "nan target": (lambda: as_source(X, torch.full((3, 3), torch.nan), net(objective="mse")), "y: got NaN"),
    "target width": (lambda: as_source(X, torch.ones(3, 2), net(objective="mse")), r"y: got shape \(3, 2\)"),
    "float symbols": (lambda: as_source(X[..., 0], None, CharLM(6)), "x: got dtype torch.float32"),
    "symbol too high": (lambda: as_source(SYMBOLS + 3, None, CharLM(6)), r"expected symbols in 0..5"),
    "symbol negative": (lambda: as_source(SYMBOLS - 6, None, CharLM(6)), "x: got symbols in -"),
    "one step": (lambda: as_source(SYMBOLS[:, :1], None, CharLM(6)), "x: got a sequence of 1 step"),
    "one symbol": (lambda: as_source(SYMBOLS[0, :1], None, CharLM(6)), "x: got a text of 1 symbols"),
    "targets for text": (lambda: as_source(SYMBOLS[0], Y, CharLM(6)), "y: got given"),
    "targets for next": (lambda: as_source(SYMBOLS, Y, CharLM(6)), "y: got targets"),
    "window": (lambda: as_source(SYMBOLS[0], None, CharLM(6), window=0), "window: got 0"),
    "targets beside loader": (lambda: as_source(DataLoader(TensorDataset(X)), Y, net()), "y: got targets beside a DataLoader"),
    "loader beside mask": (lambda: as_source(DataLoader(TensorDataset(X)), None, net(), mask=torch.ones(3, 5).bool()), "y: got targets beside"),
    "lengths in words": (lambda: as_source((X, ["a", "b", "c"]), Y, net()), "lengths: got list that is not numeric"),
    "targets in words": (lambda: as_source(X, ["a", "b", "c"], net()), "y.*: got .*not numeric"),
    "dataset length": (lambda: as_source(Pairs(X, Y, [5, 6, 5]), None, net()), r"lengths: got 6 for sequence 1; expected values in 1..5"),
    "dataset length negative": (lambda: as_source(Pairs(X, Y, [-2, 5, 5]), None, net()), "lengths: got -2 for sequence 0"),
    "dataset of four": (lambda: as_source(Pairs(X, Y, Y, Y), None, net()), "x: got a Dataset whose item 0 has 4 parts"),
    "targets short of a sequence": (lambda: as_source([X[0], X[1, :4]], [X[0].repeat(1, 2)[:, :3], X[1, :3].repeat(1, 2)[:, :3]], net(task="step", objective="mse")), r"y\[1\]: got shape \(3, 3\); expected one target for each of 4 steps"),
    "targets beyond a sequence": (lambda: as_source([X[0], X[1, :2]], [torch.zeros(5).long(), torch.zeros(4).long()], net(task="step")), r"y\[1\]: got shape \(4,\); expected one target for each of 2 steps"),
    "too few target arrays": (lambda: as_source([X[0], X[1]], [torch.zeros(5).long()], net(task="step")), "y: got a list of 1; expected 2"),
    "nothing counts": (lambda: as_source(SYMBOLS, None, CharLM(6), mask=torch.zeros(3, 5).bool()), "mask: got no step that counts"),
    "loader of four": (lambda: next(as_source(DataLoader(TensorDataset(X, Y, Y, Y)), None, net()).in_order(1)), "x: got a loader that yields 4"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_unusable_input_is_named(case):
    call, says = BAD[case]
    with pytest.raises(InputError, match=says):
        call()
