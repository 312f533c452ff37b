"""What is wrong with a module, its loss, targets or metrics is said before any weight changes."""

import pytest
import torch
from own_modules import Attending, Labeller, Regression, Speech, features, label_sequences, labels
from runs import weights
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs

LENGTHS = [12, 9, 7, 10]
X, Y = features(LENGTHS), labels((4,), 3)
SYMBOLS = [labels((n,), 7, seed=n) for n in LENGTHS]
TAGS = [labels((n,), 4, seed=n) for n in LENGTHS]


class Gives(nn.Module):
    """Returns what a function makes of the last outputs of a GRU."""

    def __init__(self, function):
        super().__init__()
        self.rnn, self.head, self.function = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self.head(self.rnn(x)[0][:, -1]))


class TwoMore(Regression):
    def forward(self, x, lengths, mask):
        return x


class NoInput(Regression):
    def forward(self):
        return 0


class Proxy(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, out, y):
        return out.mean() * self.w


def fails(out, y):
    raise ValueError("no such thing")


WRONG = [
    (Speech, X, label_sequences([7, 1, 1, 1]), dict(loss="ctc"),
     r"y: got labels of sequence 0 of a batch that need \d+ outputs .* expected at most 6, its outputs"),
    (Speech, X, label_sequences([1, 1, 8, 1]), dict(loss="ctc"), r"y: got labels of sequence 2 that need \d+ outputs"),
    (Speech, X, [torch.tensor([1, 0, 2])] * 4, dict(loss="ctc"), "y: got label 0 among the targets; .*0 is the blank"),
    (Speech, X, [torch.tensor([1, 5])] * 4, dict(loss="ctc"), r"y: got labels in 1..5; expected labels in 0..4"),
    (Speech, X, [torch.tensor([-1, 2])] * 4, dict(loss="ctc"), "y: got labels in -1..2"),
    (Speech, X, label_sequences([1, 2, 3]), dict(loss="ctc"), "y: got a list of 3; expected 4"),
    (Speech, X, tuple(label_sequences([1, 2, 3, 1])), dict(loss="ctc"), "y: got a tuple of 4 .* expected a list"),
    (Speech, tuple(X), label_sequences([1, 2, 3, 1]), dict(loss="ctc"), "x: got a tuple of 4; expected a list of seq"),
    (Speech, X, [torch.rand(2)] * 4, dict(loss="ctc"), "y: got dtype torch.float32; expected integer labels"),
    (Speech, (X[0][None], [13]), label_sequences([2]), dict(loss="ctc"), "lengths: got values in 13..13"),
    (Labeller, SYMBOLS, TAGS[:3], dict(loss="cross_entropy"), "y: got a list of 3; expected 4"),
    (Labeller, SYMBOLS, [t[:-1] for t in TAGS], dict(loss="cross_entropy"), "y: got 11 targets of a sequence with 12"),
    (Labeller, SYMBOLS, [t + 1 for t in TAGS], dict(loss="cross_entropy"), r"y: got labels in 1..4; expected labels in 0..3"),
    (Labeller, SYMBOLS, torch.tensor([0, 1, 2, 3]), dict(loss="cross_entropy"), r"y: got shape \(4,\)"),
    (Labeller, SYMBOLS, [t.bool() for t in TAGS], dict(loss="cross_entropy"), "y: got dtype torch.bool"),
    (Labeller, SYMBOLS, [t * 0 - 100 for t in TAGS], dict(loss="cross_entropy"), "y: got no target that counts"),
    (Attending, X, None, dict(loss="cross_entropy"), "y: got None; expected targets"),
    (Attending, X, Y, dict(loss=None), "loss: got None for a Attending; expected one of .*'ctc'"),
    (Attending, X, Y, dict(loss="crossentropy"), "loss: got 'crossentropy'; expected one of"),
    (Attending, X, Y, dict(loss=nn.CrossEntropyLoss), "loss: got <class"),
    (Attending, X, Y, dict(loss=nn.CrossEntropyLoss(reduction="none")), "loss: got reduction='none'"),
    (Attending, X, Y, dict(loss=Proxy()), "loss: got a Proxy with parameters"),
    (Attending, X, Y, dict(loss=lambda out: out.mean()), "loss: got a callable with 1 arguments"),
    (Attending, X, Y, dict(loss=lambda out, y: out.mean(1)), r"loss: got a loss that returns shape \(4,\); expected a scalar"),
    (Attending, X, Y, dict(loss=lambda out, y: 1.0), "loss: got a loss that returns a float"),
    (Attending, X, Y, dict(loss=lambda out, y: out.detach().mean()), "loss: got a loss without a graph"),
    (Attending, X, Y, dict(loss=fails), "loss: got one that fails on outputs .*ValueError: no such thing"),
    (Attending, X, Y, dict(loss="bce"), r"y: got shape \(4,\); expected \(4, 3\)"),
    (Attending, X, Y, dict(loss=lambda out, y: out.mean(), sample_weight=[1, 1, 1, 1]), "sample_weight: got given beside a callable"),
    (Attending, X, Y, dict(loss="cross_entropy", sample_weight=[1, 1]), r"sample_weight: got shape \(2,\); expected \(4,\)"),
    (Attending, X, Y, dict(loss="cross_entropy", sample_weight=[1, -1, 1, 1]), "sample_weight: got numbers below 0"),
    (Attending, X, Y, dict(loss="cross_entropy", accumulate=0), "accumulate: got 0"),
    (Attending, X, Y, dict(loss="cross_entropy", convert=1), "convert: got 1; expected True or False"),
    (Attending, [one.half() * torch.nan for one in X], Y, dict(loss="cross_entropy"), "x: got NaN or infinity"),
    (Attending, [one[:, :2] for one in X], Y, dict(loss="cross_entropy"), "model: got a module that fails on x"),
    (Attending, X, Y, dict(loss="cross_entropy", execution="measured"), 'execution: got "measured" for layers inside'),
    (Attending, X, Y, dict(loss="cross_entropy", rule="hbll-v1"), "rule: got 'hbll-v1' for a module"),
    (Attending, X, Y, dict(loss="cross_entropy", metrics=[1]), "metrics: got list; expected a dict"),
    (Attending, X, Y, dict(loss="cross_entropy", metrics={"loss": functional.l1_loss}), "metrics: got the name 'loss'"),
    (Attending, X, Y, dict(loss="cross_entropy", metrics={"val_x": functional.l1_loss}), "metrics: got the name 'val_x'"),
    (Attending, X, Y, dict(loss="cross_entropy", metrics={"m": lambda out, y: out}), r"metrics: got 'm' that returns shape \(4, 3\)"),
    (Attending, X, Y, dict(loss="cross_entropy", metrics={"m": lambda out, y: "good"}), "metrics: got 'm' that returns a str"),
    (Attending, X, Y, dict(loss="cross_entropy", metrics={"m": 3}), "metrics: got 'm': 3"),
    (lambda: Gives(lambda out: out.detach()), torch.rand(4, 9, 3), Y, dict(loss="cross_entropy"), "model: got outputs without a graph"),
    (lambda: Gives(lambda out: {"out": out}), torch.rand(4, 9, 3), Y, dict(loss="cross_entropy"), "model: got a module that returns a dict"),
    (lambda: Gives(lambda out: out[:2]), torch.rand(4, 9, 3), Y, dict(loss="cross_entropy"), r"model: got outputs of shape \(2, 3\)"),
    (lambda: Gives(lambda out: (out, torch.full((4,), 9))), torch.rand(4, 9, 3), Y, dict(loss="cross_entropy"),
     "model: got output lengths up to 9; expected at most 3"),
    (lambda: Gives(lambda out: out), torch.rand(4, 9, 3), Y, dict(loss="ctc"), "y: got shape"),
    (lambda: nn.GRU(3, 4), torch.rand(4, 9, 3), torch.rand(4, 9, 4), dict(loss="mse"), "model: got GRU with batch_first=False"),
    (lambda: nn.Linear(3, 4), torch.rand(4, 3), torch.rand(4, 4), dict(loss="mse"), "rule: got 'hbll' for a Linear without recurrent"),
    (lambda: nn.Linear(3, 4), torch.rand(4, 3), torch.rand(4, 4), dict(loss="mse", rule="tbptt"), "rule: got 'tbptt' for a Linear"),
    (TwoMore, X, Y, dict(loss="mse"), r"model: got forward\(x, lengths, mask\) of TwoMore; expected forward\(x\)"),
    (NoInput, X, Y, dict(loss="mse"), r"model: got forward\(\) of NoInput"),
    (lambda: hs.models.MLP((3,), 4, hidden=4, layers=2), torch.rand(4, 3), labels((4,), 4), dict(loss="mse"),
     "loss: got given for a network over depth"),
]  # fmt: skip


@pytest.mark.parametrize("make,x,y,options,says", WRONG, ids=[str(i) for i in range(len(WRONG))])
def test_what_is_wrong_is_named_before_any_weight_changes(make, x, y, options, says):
    torch.manual_seed(0)
    module = make()
    before = weights(module)
    kinds = [type(m) for m in module.modules()]
    with pytest.raises(hs.InputError, match=says):
        hs.fit(module, x, y, **dict(steps=2, batch_size=4, progress=False) | options)
    assert torch.equal(weights(module), before) and [type(m) for m in module.modules()] == kinds
    assert not any("_execution" in vars(m) for m in module.modules())


def test_no_module_at_all():
    for call in (hs.fit, hs.evaluate, hs.gradient):
        with pytest.raises(
            hs.InputError, match="model: got str; expected a model of hbll_seq.models, or any nn.Module"
        ):
            call("model", X, Y, loss="mse")


def test_targets_of_ctc_may_be_empty_and_too_long_ones_may_be_left_out():
    module = Speech()
    run = hs.fit(module, X, label_sequences([0, 0, 0, 0]), loss="ctc", steps=2, progress=False)
    assert len(run.history["loss"]) == 2
    loss = nn.CTCLoss(blank=4, zero_infinity=True)
    long = [torch.zeros(11, dtype=torch.int64), *[torch.tensor([0, 1])] * 3]
    assert hs.evaluate(module, X, long, loss=loss)["loss"] < 1e3


def test_every_batch_of_a_loader_is_checked():
    x, n = nn.utils.rnn.pad_sequence(X, batch_first=True), torch.tensor(LENGTHS)
    y = torch.tensor([[1, 2], [1, 2], [0, 1], [1, 2]])
    loader = DataLoader(TensorDataset(x, y, n), batch_size=2)
    with pytest.raises(hs.InputError, match="y: got label 0 among the targets"):
        hs.fit(Speech(), loader, loss="ctc", steps=2, progress=False)
    tags = DataLoader(TensorDataset(x, torch.tensor([0, 1, 2, 3])), batch_size=2)
    with pytest.raises(hs.InputError, match=r"y: got labels in 2..3; expected labels in 0..2, as the outputs have"):
        hs.fit(Gives(lambda out: out), tags, loss="cross_entropy", steps=2, progress=False)
    with pytest.raises(hs.InputError, match="y: got given beside a DataLoader"):
        hs.fit(Speech(), loader, y, loss="ctc", steps=2, progress=False)
    with pytest.raises(hs.InputError, match=r"x: got data that yield a Tensor; expected \(x, y\)"):
        hs.fit(Speech(), DataLoader(x, batch_size=2), loss="ctc", steps=2, progress=False)


def test_a_metric_and_a_figure_of_a_rule_of_ones_own_have_two_names():
    class Named(hs.rules.BPTT):
        name = "named"

        def step(self, model, batch, progress=1.0):
            return super().step(model, batch, progress)._replace(metrics={"mine": 1.0})

    options = dict(loss="cross_entropy", steps=2, batch_size=2, progress=False, metrics={"mine": lambda out, y: 0.0})
    for accumulate in (1, 2):
        with pytest.raises(hs.InputError, match="metrics: got the name 'mine'"):
            hs.fit(Attending(), X, Y, rule=Named(), accumulate=accumulate, **options)


def test_a_batch_made_by_hand_is_checked():
    module, learner = Attending(), hs.rules.make("bptt")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    x = nn.utils.rnn.pad_sequence(X, batch_first=True)
    good = hs.Batch(x, torch.tensor(LENGTHS), Y, None)
    for batch, says in (
        (good._replace(y=Y[:3]), "batch.y: got 3 targets"),
        (good._replace(x=X), "batch.x: got list"),
        (good._replace(lengths=torch.tensor([13, 1, 1, 1])), "lengths: got values in 1..13"),
        ((x, Y), "batch: got tuple"),
    ):
        with pytest.raises(hs.InputError, match=says):
            hs.step(module, batch, learner, optimizer, loss="cross_entropy")
    with pytest.raises(hs.InputError, match="loss: got None"):
        hs.step(module, good, learner, optimizer)
    for rule in ("hbll", "tbptt", "dsf"):
        with pytest.raises(hs.InputError, match="model: got a Attending given to setup; expected no setup"):
            hs.rules.make(rule).setup(module, torch.Generator())


def test_a_lazy_module_is_called_before():
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(hs.InputError, match="model: got a lazy module without weights"):
        hs.fit(module, torch.zeros(4, 5), Y, loss="cross_entropy", rule="bptt", progress=False)
    module(torch.zeros(1, 5))
    hs.fit(module, torch.zeros(4, 5), Y, loss="cross_entropy", rule="bptt", steps=1, progress=False)


def test_a_module_without_parameters_is_scored_and_not_trained():
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    expected = functional.mse_loss(x, y).item()
    assert hs.evaluate(nn.Identity(), x, y, loss="mse")["loss"] == pytest.approx(expected)
    assert torch.equal(hs.predict(nn.Identity(), x), x)
    with pytest.raises(hs.InputError, match="model: got no parameter that requires grad"):
        hs.fit(nn.Identity(), x, y, loss="mse", progress=False)
    batch, optimizer = hs.Batch(x, torch.full((4,), 3), y, None), torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    with pytest.raises(hs.InputError, match="model: got a Identity without parameters"):
        hs.step(nn.Identity(), batch, hs.rules.make("bptt"), optimizer, loss="mse")
