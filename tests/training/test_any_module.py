"""`fit` on modules of a user's own: the weights of the loop that the user would write."""

import copy

import pytest
import torch
from own_modules import Attending, Labeller, Regression, Speech, ctc, features, label_sequences, labels, loop
from torch import nn
from torch.nn import functional

import hbll_seq as hs

LENGTHS = [24, 17, 9, 21, 30, 12, 25, 14]
TARGETS = [3, 2, 0, 4, 5, 1, 3, 2]
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.3])


def cross_entropy(module, batch):
    out = module(batch.x)
    y = batch.y if batch.mask is None else batch.y.masked_fill(~batch.mask, -100)
    return functional.cross_entropy(out.flatten(0, 1), y.flatten(), weight=WEIGHTS.to(out), label_smoothing=0.1)


def values(module, batch):
    return functional.mse_loss(module(batch.x), batch.y)


def last(module, batch):
    return functional.cross_entropy(module(batch.x, batch.lengths), batch.y)


SYMBOLS = [labels((n,), 7, seed=n) for n in LENGTHS]
CASES = {
    "ctc": (Speech, features(LENGTHS), label_sequences(TARGETS), "ctc", ctc, "sequences"),
    "labels": (Labeller, SYMBOLS, [labels((n,), 4, seed=n + 1) for n in LENGTHS],
               nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1), cross_entropy, "labels"),
    "batchnorm": (Regression, torch.stack(features([20] * 8)), torch.stack(features([2] * 8))[:, :, 0],
                  "mse", values, "values"),
    "attention": (Attending, features(LENGTHS), labels((8,), 3), "cross_entropy", last, "labels"),
}  # fmt: skip
RULES = {
    "bptt": {},
    "hbll": dict(tolerance=1e-7, feedback_tolerance=1e-13),
    "hbll in blocks": dict(tolerance=1e-10, feedback_tolerance=1e-18, most=40, execution="parallel", execution_block=3),
}
FAST = dict(steps=30, batch_size=3, lr=1e-2, progress=False)


def made(kind, seed=0):
    torch.manual_seed(seed)
    return kind()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_loop_by_hand(case, rule):
    kind, x, y, loss, by_hand, reading = CASES[case]
    ours, theirs = made(kind), made(kind)
    if "blocks" in rule:  # in float32, Adam magnifies the rounding at which the sweeps end
        ours, theirs, loss = (
            ours.double(),
            theirs.double(),
            loss if isinstance(loss, str) else copy.deepcopy(loss).double(),
        )
    before = [(name, type(m)) for name, m in ours.named_modules()]
    run = hs.fit(ours, x, y, loss=loss, rule=rule.split()[0], **FAST | RULES[rule])
    losses = loop(theirs, x, y, by_hand, kind=reading, steps=30, batch_size=3)
    assert run.history["loss"] == pytest.approx(losses, abs=1e-5)
    for (name, p), q in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(p, q, atol=1e-5, rtol=0), (name, (p - q).abs().max())
    assert run.model is ours and [(name, type(m)) for name, m in ours.named_modules()] == before
    assert not any("_execution" in vars(m) or "_engine" in vars(m) for m in ours.modules())
