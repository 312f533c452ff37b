"""What stands in for a withheld input comes from the background; lengths end where they end."""

import math

import pytest
import torch
from torch import nn

import hbll_seq as hs
from tests import cases


def tone_model():
    """Answers by the sign of the mean input: a leaky sum and a read-out."""
    model = hs.models.SequenceModel(1, 2, hidden=1, cell="elman", input_kind="features", task="sequence")
    with torch.no_grad():
        for p, value in zip(model.cells[0].parameters(), (0.5, 0.9, 0.0, 0.0), strict=True):
            p.fill_(value)
        model.readout.weight.copy_(torch.tensor([[-3.0], [3.0]]))
        model.readout.bias.zero_()
    return model


def test_a_steady_tone_alone_is_withheld_against_the_background():
    model, y = tone_model(), torch.arange(16) % 2
    x = (2.0 * y - 1).view(16, 1, 1).expand(16, 32, 1).contiguous()  # steady, up or down
    with pytest.warns(UserWarning, match="pass background="):
        alone = hs.credit(model, x[:1], y[:1], block_size=8)
    assert alone.block.abs().max() < 1e-9  # its own mean is what it says
    given = hs.credit(model, x[:1], y[:1], block_size=8, background=x)
    batch = hs.credit(model, x, y, block_size=8)
    assert given.nodes[-1][0, 0] > 1 and given.block[0, -1] > 0.5
    torch.testing.assert_close(given.block, batch.block[:1], rtol=0.5, atol=0.1)


@pytest.mark.parametrize("withheld", ["mean", "swap", "mean+swap"])
def test_stand_ins_are_those_of_the_background(withheld):
    """The mean of all its steps, and the median of donors that are not the sequence itself, shorter ones repeated."""
    model = cases.model("gru", task="sequence")
    data, other = cases.batch(2, 10, task="sequence"), cases.batch(3, 12, seed=5, lengths=[12, 4, 9])
    padded = other.x.clone()
    padded[1, 4:], padded[2, 9:] = 99, -3  # never looked at
    found = hs.credit(
        model, data.x, data.y, block_size=4, withheld=withheld, background=(padded, other.lengths), donors=3
    )
    e = model.embed(data.x).detach()
    real = [model.embed(row[:n]).detach() for row, n in zip(other.x, [12, 4, 9], strict=True)]
    mean = torch.cat(real).mean(0)
    donors = [torch.stack([one[t % len(one)] for t in range(10)]) for one in real]

    def change(fill, start, stop):
        changed = e.clone()
        changed[:, start:stop] = fill[start:stop]
        out = model.readout(model.cells[0].sequence(changed, torch.zeros(2, 6).double())[0][:, -1])
        return nn.functional.cross_entropy(out, data.y, reduction="none").detach() - found.loss

    for height, values in enumerate(found.nodes):
        for k in range(values.shape[1]):
            span = found.span(height, k)
            by_mean = change(mean.expand(10, -1), *span)
            by_swap = torch.stack([change(one, *span) for one in donors]).median(0).values
            expected = {"mean": by_mean, "swap": by_swap, "mean+swap": (by_mean + by_swap) / 2}[withheld]
            torch.testing.assert_close(values[:, k], expected)


def test_no_sequence_is_its_own_donor():
    model, data = cases.model("gru", task="sequence"), cases.batch(9, 10, task="sequence")
    found = hs.credit(model, data.x[:1], data.y[:1], block_size=4, withheld="swap", donors=20, background=data.x)
    others = hs.credit(model, data.x[:1], data.y[:1], block_size=4, withheld="swap", donors=20, background=data.x[1:])
    torch.testing.assert_close(found.block, others.block)
    with pytest.raises(hs.InputError, match="background: got no other sequence than x"):
        hs.credit(model, data.x[:1], data.y[:1], withheld="swap", background=data.x[:1])


def test_of_one_long_text_windows_are_cut():
    lm = hs.models.CharLM(6, hidden=8)
    text = torch.randint(0, 6, (500,), generator=torch.Generator().manual_seed(0))
    x = text[None, 100:141]
    one = hs.credit(lm, x, block_size=8, background=text)
    other = hs.credit(lm, x, block_size=8, background=text[:480].view(12, 40))
    assert not one.block.equal(hs.credit(lm, x, block_size=8, withheld="mean", background=text).block)
    torch.testing.assert_close(one.block, other.block, rtol=0.2, atol=0.02)  # the same donors; the mean has 20 more
    lags = hs.lag_map(lm, x, block_size=8, background=text)
    assert torch.isfinite(lags.values).all()


@pytest.mark.parametrize("task", ["sequence", "step", "next"])
@pytest.mark.parametrize("withheld", [None, "skip"])
def test_a_padded_sequence_has_the_credit_it_has_alone(task, withheld):
    model, lengths = cases.model("gru", task=task), [61, 9, 33]
    data = cases.batch(3, 61, lengths=lengths, task="sequence" if task == "sequence" else "step")
    y = None if task == "next" else data.y
    options = dict(block_size=4, withheld=withheld)
    seen = data.lengths - int(task == "next")  # the last symbol is target only
    background = dict(background=(data.x, seen)) if withheld is None else {}
    found = hs.credit(model, (data.x, lengths), y, **options)
    for i, n in enumerate(lengths):
        own = y if y is None else y[i : i + 1] if task == "sequence" else y[i : i + 1, :n]
        alone = hs.credit(model, data.x[i : i + 1, :n], own, **options, **background)
        assert int(found.lengths[i]) == alone.outcome + 1 == n - (task == "next")
        torch.testing.assert_close(found.loss[i], alone.loss[0])
        for height, values in enumerate(alone.nodes):
            count = values.shape[1]
            torch.testing.assert_close(found.nodes[height][i, :count], values[0])
            assert found.nodes[height][i, count:].isnan().all()
            assert found.span(height, count - 1, row=i) == alone.span(height, count - 1)
        assert found.nodes[-1][i, 0] == found.nodes[len(alone.nodes) - 1][i, 0]  # the root
    assert (found.peak() < torch.tensor([-(-n // 4) for n in found.lengths.tolist()])).all()


@pytest.mark.parametrize("task", ["sequence", "step"])
def test_the_lag_map_of_padded_sequences(task):
    model, lengths = cases.model("gru", task=task), [22, 9]
    data = cases.batch(2, 22, lengths=lengths, task=task)
    found = hs.lag_map(model, (data.x, lengths), data.y, block_size=4, withheld="skip").values
    for i, n in enumerate(lengths):
        y = data.y[i : i + 1] if task == "sequence" else data.y[i : i + 1, :n]
        alone = hs.lag_map(model, data.x[i : i + 1, :n], y, block_size=4, withheld="skip").values[0]
        count = len(alone)
        torch.testing.assert_close(found[i, :count, :count], alone)
        assert found[i, : count + 1, count:].triu().isnan().any() == (n < 22)


@pytest.mark.parametrize(
    "options,says",
    [
        (dict(background=torch.zeros(2, 5, 3)), "background: got"),
        (dict(background=torch.full((2, 5), 9)), "background: got symbols in 9..9"),
        (dict(background=torch.zeros(2, 5).long(), withheld="skip"), "background: got given"),
        (dict(background=torch.zeros(2, 5).long(), kind="gradient"), "background: got given"),
        (dict(exact="no"), "exact: got 'no'"),
    ],
)
def test_bad_backgrounds_are_named(options, says):
    lm, x = hs.models.CharLM(6, hidden=4), torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(hs.InputError, match=says):
        hs.credit(lm, x, **options)
    if "kind" not in options:
        with pytest.raises(hs.InputError, match=says):
            hs.lag_map(lm, x, **options)


def test_what_credit_took_in_silence_is_refused():
    model = hs.models.SequenceModel(3, 3, hidden=8, input_kind="features", task="step")
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 64, 3, generator=g), torch.randint(0, 3, (8, 64), generator=g)
    ignored = y.clone()
    ignored[:, 60:] = -100
    found = hs.credit(model, x, ignored)
    assert found.outcome == 59 and found.loss.min() > 0
    torch.testing.assert_close(found.block, hs.credit(model, x[:, :60], y[:, :60], block_size=16).block)
    for call, says in (
        (lambda: hs.credit(model, x.masked_fill(x == x[0, 3, 0], math.nan), y), "x: got NaN"),
        (lambda: hs.credit(model, x, y + 0.7), "y: got dtype"),
        (lambda: hs.lag_map(model, x.masked_fill(x == x[0, 3, 0], math.nan), y), "x: got NaN"),
        (lambda: hs.lag_map(model, x, y + 0.7), "y: got dtype"),
    ):
        with pytest.raises(hs.InputError, match=says):
            call()
