"""Losses by name, as torch's modules and as callables: what they average, and over which targets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_modules import Labeller, Speech, features, label_sequences, labels
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs
from hbll_seq.models.given_loss import arguments

G = torch.Generator().manual_seed(0)
FAST = dict(rule="bptt", steps=3, lr=1e-2, progress=False, clip=None)
LENGTHS = [9, 4, 7, 6]


class Line(nn.Module):
    """One linear map, so that expectations are easy to write."""

    def __init__(self, d=3, out=2, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.map = nn.Linear(d, out)

    def forward(self, x):
        return self.map(x)


class Probabilities(Line):
    def forward(self, x):
        return self.map(x).sigmoid()


X, VALUES = torch.randn(6, 5, 3, generator=G), torch.rand(6, 5, 2, generator=G)
LABELS = labels((6, 5), 2)
BY_NAME = {
    "cross_entropy": lambda out: functional.cross_entropy(out.flatten(0, 1), LABELS.flatten()),
    "nll": lambda out: functional.nll_loss(out.flatten(0, 1), LABELS.flatten()),
    "mse": lambda out: functional.mse_loss(out, VALUES),
    "l1": lambda out: functional.l1_loss(out, VALUES),
    "smooth_l1": lambda out: functional.smooth_l1_loss(out, VALUES),
    "huber": lambda out: functional.huber_loss(out, VALUES),
    "bce": lambda out: functional.binary_cross_entropy(out, VALUES),
    "bce_with_logits": lambda out: functional.binary_cross_entropy_with_logits(out, VALUES),
    "poisson_nll": lambda out: functional.poisson_nll_loss(out, VALUES),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_name_is_torchs_own_loss(name):
    module = Probabilities() if name == "bce" else Line()
    y = LABELS if name in ("cross_entropy", "nll") else VALUES
    found = hs.evaluate(module, X, y, loss=name, batch_size=4)
    assert found["loss"] == pytest.approx(BY_NAME[name](module(X)).item(), abs=1e-6)
    ours = hs.gradient(module, X, y, loss=name)
    theirs = torch.autograd.grad(BY_NAME[name](module(X)), list(module.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours.values(), theirs, strict=True))


def test_means_go_over_the_targets_that_count():
    x, y = features(LENGTHS), [labels((n,), 2, seed=n) for n in LENGTHS]
    module = Line()
    rows, targets = torch.cat([module(one) for one in x]), torch.cat(y)
    expected = functional.cross_entropy(rows, targets).item()
    padded = nn.utils.rnn.pad_sequence(x, batch_first=True)
    ignored = nn.utils.rnn.pad_sequence(y, batch_first=True, padding_value=-100)
    for form in ((x, y), ((padded, LENGTHS), y), ((padded, LENGTHS), ignored.clamp(min=0)), (padded, ignored)):
        assert hs.evaluate(module, *form, loss="cross_entropy", batch_size=3)["loss"] == pytest.approx(expected)
    mask = torch.zeros(4, 9, dtype=torch.bool)
    mask[:, :2] = True
    few = torch.cat([module(one[:2]) for one in x]), torch.cat([one[:2] for one in y])
    found = hs.evaluate(module, x, y, loss="cross_entropy", mask=mask)
    assert found["loss"] == pytest.approx(functional.cross_entropy(*few).item())
    assert found["accuracy"] == pytest.approx((few[0].argmax(-1) == few[1]).float().mean().item())


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    name=st.sampled_from(["cross_entropy", "l1"]),
    batch_size=st.integers(1, 5),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_mean_over_batches_is_that_over_all_sequences_end_to_end(lengths, name, batch_size, masked, seed):
    g, module = torch.Generator().manual_seed(seed), Line()
    x = [torch.randn(n, 3, generator=g) for n in lengths]
    y = [torch.randint(0, 2, (n,), generator=g) if name == "cross_entropy" else torch.rand(n, 2, generator=g)
         for n in lengths]  # fmt: skip
    mask = torch.rand(len(lengths), max(lengths), generator=g) < 0.7 if masked else None
    if mask is not None:
        mask[0, 0] = True
    keep = [slice(None) if mask is None else mask[i, :n] for i, n in enumerate(lengths)]
    rows, targets = (torch.cat([one[k] for one, k in zip(all_, keep, strict=True)]) for all_ in (x, y))
    expected = {"cross_entropy": functional.cross_entropy, "l1": functional.l1_loss}[name](module(rows), targets)
    found = hs.evaluate(module, x, y, loss=name, mask=mask, batch_size=batch_size)
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_batches_whose_sequences_weigh_nothing_make_no_update():
    w = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    module, ignored = Line(), LABELS.clone()
    ignored[0] = -100
    run = hs.fit(module, X, LABELS, loss="cross_entropy", sample_weight=w, batch_size=2, **FAST)
    assert len(run.history["loss"]) == 1 and len(run.history["skipped_step"]) == 2
    before = module.map.weight.clone()
    run = hs.fit(module, X, ignored, loss="cross_entropy", sample_weight=w, batch_size=6, **FAST)
    assert run.history["loss"] == [0.0] * 3 and torch.equal(module.map.weight, before)


def test_torchs_layout_of_classes_is_understood_where_only_it_fits():
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 1)

        def forward(self, x):
            return self.conv(x)

    module, x, y = Map(), torch.randn(3, 1, 5, 6), labels((3, 5, 6))
    expected = functional.cross_entropy(module(x), y).item()
    assert hs.evaluate(module, x, y, loss="cross_entropy")["loss"] == pytest.approx(expected)


class Last(nn.Module):
    """As many values of a sequence as some batches have time steps."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True)

    def forward(self, x, lengths):
        return self.rnn(x)[0][torch.arange(len(x)), lengths - 1]


@pytest.mark.parametrize("longest", [8, 11])
@pytest.mark.parametrize("name", ["bce_with_logits", "mse", "cross_entropy"])
def test_values_of_a_sequence_are_no_time_steps_though_as_many(name, longest):
    module, n = Last(), [4, 8, 5, longest, 7, 6]
    x, y = [torch.randn(k, 3) for k in n], torch.rand(6, 8)
    y = y / y.sum(1, keepdim=True) if name == "cross_entropy" else y
    if longest == 8 and name != "cross_entropy":
        return  # then y may as well have one value a time step, and is read so
    loss = {"mse": functional.mse_loss, "cross_entropy": functional.cross_entropy}
    with torch.no_grad():
        out = module(nn.utils.rnn.pad_sequence(x, batch_first=True), torch.tensor(n))
        expected = loss.get(name, functional.binary_cross_entropy_with_logits)(out, y).item()
    for size in (1, 2, 3, 6):
        assert hs.evaluate(module, x, y, loss=name, batch_size=size)["loss"] == pytest.approx(expected, rel=1e-5)
        assert torch.allclose(hs.predict(module, x, batch_size=size), out, atol=1e-6)


def test_values_never_broadcast():
    module, y = Line(out=1), torch.randn(6, 5)
    expected = functional.mse_loss(module(X).squeeze(-1), y).item()
    assert hs.evaluate(module, X, y, loss="mse")["loss"] == pytest.approx(expected)
    with pytest.raises(hs.InputError, match=r"y: got shape \(6, 2\)"):
        hs.fit(module, X, torch.randn(6, 2), loss="mse", **FAST)


def test_a_callable_gets_what_its_signature_asks_for():
    seen = []

    def two(out, y):
        return functional.mse_loss(out, y)

    def three(out, y, lengths):
        seen.append((tuple(out.shape), tuple(y.shape), lengths.tolist()))
        return out.square().mean()

    def four(out, y, lengths, target_lengths):
        seen.append(target_lengths.tolist())
        return out.square().mean()

    def optional(out, y, reduction="mean"):
        return functional.mse_loss(out, y, reduction=reduction)

    assert [arguments(f, "loss") for f in (two, three, four, optional, nn.KLDivLoss())] == [2, 3, 4, 2, 2]
    x = features(LENGTHS)
    hs.fit(Line(), X, VALUES, loss=two, batch_size=2, **FAST)
    hs.evaluate(Line(), x, [one[:, :2] for one in x], loss=three)
    assert seen == [((4, 9, 2), (4, 9, 2), LENGTHS)]
    hs.evaluate(Line(), x, label_sequences([3, 1, 0, 2]), loss=four)
    assert seen[-1] == [3, 1, 0, 2]
    padded = []
    hs.evaluate(Line(), x, label_sequences([3, 1, 0, 2]), loss=lambda out, y: padded.append(y) or out.mean())
    assert padded[0].shape == (4, 3) and (padded[0] == -100).sum() == 6, "padding is a label that torch ignores"


@pytest.mark.parametrize("rule", ["bptt", "hbll"])
@pytest.mark.parametrize("case", ["labels", "weighted classes", "sum", "ctc", "own"])
def test_accumulated_batches_are_one_large_batch(case, rule):
    n = [8, 3, 5, 7, 2, 8]
    x, y = [labels((k,), 7, seed=k) for k in n], [labels((k,), 4, seed=k + 1) for k in n]
    table = torch.tensor([0.2, 3.0, 1.0, 0.5])
    loss = {"labels": "cross_entropy", "weighted classes": nn.CrossEntropyLoss(weight=table),
            "sum": nn.CrossEntropyLoss(reduction="sum"), "ctc": "ctc", "own": None}[case]  # fmt: skip

    def one():
        torch.manual_seed(0)
        if case == "own":
            return hs.models.SequenceModel(7, 4, hidden=8, seed=0)
        return Speech() if case == "ctc" else Labeller()

    if case == "ctc":
        x, y = features([17, 12, 20, 9, 15, 11]), label_sequences([3, 2, 4, 1, 0, 2])
    large, small = one(), one()
    options = dict(loss=loss, rule=rule, progress=False, clip=None, optimizer="sgd", lr=0.1, schedule="constant")
    a = hs.fit(large, x, y, batch_size=6, steps=4, **options)
    b = hs.fit(small, x, y, batch_size=2, accumulate=3, steps=4, **options)
    assert b.history["loss"] == pytest.approx(a.history["loss"], rel=1e-4) and len(b.history["step"]) == 4
    assert b.config["accumulate"] == 3
    for p, q in zip(large.parameters(), small.parameters(), strict=True):
        assert torch.allclose(p, q, atol=2e-5)


def test_a_callables_gradients_are_averaged_as_they_are():
    module = Line()
    run = hs.fit(
        module,
        X,
        VALUES,
        loss=lambda out, y: out.mean(),
        rule="bptt",
        accumulate=2,
        epochs=2,
        batch_size=2,
        progress=False,
    )
    assert len(run.history["step"]) == 3, "two epochs of three batches, two an update"


def test_weights_of_sequences():
    x, y, w = features(LENGTHS), [labels((n,), 2, seed=n) for n in LENGTHS], torch.tensor([2.0, 0.0, 1.0, 0.5])
    module, table = Line(), torch.tensor([0.3, 2.0])
    rows, targets = torch.cat([module(one) for one in x]), torch.cat(y)
    each = functional.cross_entropy(rows, targets, weight=table, reduction="none")
    by = torch.cat([v.expand(n) for v, n in zip(w, LENGTHS, strict=True)])
    expected = torch.autograd.grad((each * by).sum() / (table[targets] * by).sum(), list(module.parameters()))
    found = hs.gradient(module, x, y, loss=nn.CrossEntropyLoss(weight=table), sample_weight=w)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found.values(), expected, strict=True))
    twice = hs.gradient(module, X[[0, 1, 1]], VALUES[[0, 1, 1]], loss="mse")
    weighted = hs.gradient(module, X[:2], VALUES[:2], loss="mse", sample_weight=[1.0, 2.0])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(twice.values(), weighted.values(), strict=True))


def test_weights_of_sequences_for_ctc_and_models_of_this_package():
    torch.manual_seed(0)
    speech, x, y = Speech(), features([17, 12, 20]), label_sequences([3, 2, 4])
    twice = hs.gradient(speech, [x[0], x[1], x[1]], [y[0], y[1], y[1]], loss="ctc")
    weighted = hs.gradient(speech, x[:2], y[:2], loss="ctc", sample_weight=[1.0, 2.0])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(twice.values(), weighted.values(), strict=True))
    own = hs.models.SequenceModel(3, 2, input_kind="features", task="sequence", hidden=6)
    labels_ = torch.tensor([0, 1, 1])
    twice = hs.gradient(own, [x[0], x[1], x[1]], labels_, rule="hbll")
    weighted = hs.gradient(own, x[:2], labels_[:2], sample_weight=[1.0, 2.0], rule="hbll")
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(twice.values(), weighted.values(), strict=True))


def test_a_loss_for_a_model_of_this_package():
    model = hs.models.SequenceModel(3, 2, input_kind="features", hidden=6)
    x, y = features(LENGTHS), [labels((n,), 2, seed=n) for n in LENGTHS]
    own, given = (hs.gradient(model, x, y, rule="hbll", progress=0.3, **o) for o in ({}, dict(loss="cross_entropy")))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(own.values(), given.values(), strict=True))
    table = torch.tensor([0.2, 1.8])
    weighted = hs.gradient(model, x, y, loss=nn.CrossEntropyLoss(weight=table))
    rows = torch.cat([model(one[None])[0] for one in x])
    expected = torch.autograd.grad(functional.cross_entropy(rows, torch.cat(y), weight=table), list(model.parameters()))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weighted.values(), expected, strict=True))
    text = torch.arange(200) % 5
    run = hs.fit(hs.models.CharLM(5, hidden=8), text, loss=nn.CrossEntropyLoss(label_smoothing=0.1), validation=0.2,
                 batch_size=3, window=20, **FAST)  # fmt: skip
    assert {"val_loss", "val_accuracy"} <= run.history.keys() and run.config["objective"] == "cross_entropy"


def test_items_of_loaders():
    x, y = torch.randn(6, 9, 3), labels((6, 9), 2)
    n = torch.tensor([9, 4, 7, 6, 5, 9])
    three = DataLoader(TensorDataset(x, y, n), batch_size=3)
    nested = DataLoader([((a, k), b) for a, b, k in zip(x, y, n, strict=True)], batch_size=3)
    found = [hs.evaluate(Line(), data, loss="cross_entropy")["loss"] for data in (three, nested)]
    found.append(hs.evaluate(Line(), (x, n), y, loss="cross_entropy")["loss"])
    assert found[0] == pytest.approx(found[2]) and found[1] == pytest.approx(found[2])
    speech = Speech()
    targets, m = labels((6, 4), 4) + 1, torch.tensor([2, 1, 2, 0, 1, 3])
    four = DataLoader(TensorDataset(x, targets, n, m), batch_size=3)
    lists = [one[:k] for one, k in zip(targets, m, strict=True)]
    a, b = hs.evaluate(speech, four, loss="ctc"), hs.evaluate(speech, (x, n), lists, loss="ctc")
    assert a["loss"] == pytest.approx(b["loss"])
    assert hs.evaluate(speech, (x, n), (targets, m), loss="ctc")["loss"] == pytest.approx(b["loss"])
