"""Losses: one switch, and the reductions that stand on it."""

import pathlib

import pytest
import torch
from torch.nn import functional

import hbll_seq as hs
from hbll_seq import losses
from hbll_seq.data.batch import Batch

SHAPES = [(5,), (3, 7), (4, 2, 3)]


def drawn(kind, shape, width=4, dtype=torch.float32):
    """Predictions and targets."""
    out = torch.randn(*shape, width, dtype=dtype)
    return out, torch.randint(0, width, shape) if kind == "cross_entropy" else torch.randn(*shape, width, dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_each_prediction_has_its_own_loss_and_reductions_are_of_them(kind, shape):
    out, y = drawn(kind, shape, dtype=torch.float64)
    each = losses.each(kind, out, y)
    assert each.shape == shape
    for at in torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(-1, len(shape)).tolist():
        one, target = out[tuple(at)], y[tuple(at)]
        expected = -torch.log_softmax(one, 0)[target] if kind == "cross_entropy" else (one - target).square().mean()
        torch.testing.assert_close(each[tuple(at)], expected)
    torch.testing.assert_close(losses.mean(kind, out, y), each.mean())
    torch.testing.assert_close(losses.total(kind, out, y), each.sum())


def test_reductions_have_the_bits_of_pytorchs_own():
    for rows in range(1, 40):
        out, y = drawn("cross_entropy", (rows,))
        assert torch.equal(losses.mean("cross_entropy", out, y), functional.cross_entropy(out, y))
        assert torch.equal(losses.total("cross_entropy", out, y), functional.cross_entropy(out, y, reduction="sum"))
        out, y = drawn("mse", (rows,))
        assert torch.equal(losses.mean("mse", out, y), functional.mse_loss(out, y))


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_a_target_that_does_not_count_may_be_anything(kind):
    out, y = drawn(kind, (2, 5))
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
    clean = losses.counted(kind, out, y, mask)
    spoiled = out.masked_fill(~mask.unsqueeze(-1), torch.inf)
    wrong = y.masked_fill(~mask, -7) if kind == "cross_entropy" else y.masked_fill(~mask.unsqueeze(-1), torch.nan)
    assert torch.equal(losses.counted(kind, spoiled, wrong, mask), clean)
    assert not clean[~mask].any() and torch.equal(clean[mask], losses.each(kind, out, y)[mask])
    batch = Batch(torch.zeros(2, 5), torch.tensor([5, 5]), wrong, mask)
    mean, per_step = losses.objective(kind, spoiled, batch)
    assert torch.equal(per_step, clean)
    torch.testing.assert_close(mean, clean[mask].mean())
    torch.testing.assert_close(losses.per_sequence(kind, spoiled, batch), clean.sum(1))
    nothing = Batch(batch.x, batch.lengths, wrong, torch.zeros_like(mask))
    assert losses.objective(kind, out, nothing)[0] == 0


@pytest.mark.parametrize("kind", ["cross_entropy", "mse"])
def test_one_target_a_sequence(kind):
    out, y = drawn(kind, (6,))
    batch = Batch(torch.zeros(6, 3), torch.full((6,), 3), y, None)
    mean, per_step = losses.objective(kind, out, batch)
    assert per_step is None
    torch.testing.assert_close(mean, losses.per_sequence(kind, out, batch).mean())


def test_the_kinds_are_told_apart_in_one_file():
    package = pathlib.Path(hs.__file__).parent
    calls = ("functional.cross_entropy(", "F.cross_entropy(", "mse_loss(", "nll_loss(")
    found = {f.relative_to(package).as_posix() for f in package.rglob("*.py") if any(c in f.read_text("utf-8") for c in calls)}  # fmt: skip
    assert found == {"losses.py"}
