"""Dropout, files, credit, adopted modules and refusals of models with something between their layers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import hbll_seq as hs
from hbll_seq import rules
from hbll_seq.errors import InputError
from hbll_seq.models import AudioClassifier, CharLM, SequenceModel, WaveModel
from tests.cases import OwnCell, batch, gradient

FULL = dict(norm="layer", residual=True, projection=4, hidden=6, layers=2, timescale=20.0)


# Dropout ------------------------------------------------------------------------------------------------


def dropped(p, layers):
    torch.manual_seed(0)
    net = SequenceModel(7, 7, hidden=6, layers=layers, dropout=p, timescale=20.0)
    seen = []
    net.readout.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    return net, seen


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_draws_in_training_only_and_before_the_read_out_too(layers):
    net, seen = dropped(0.5, layers)
    data = batch(4, 30)
    plain = copy.deepcopy(net).eval()
    with torch.no_grad():
        assert torch.equal(plain(data.x), plain(data.x))
        for _ in range(2):
            net(data.x)
    one, other = seen[-2:]
    assert 0.4 < float((one == 0).float().mean()) < 0.6 and not torch.equal(one, other)
    if layers == 1:  # what is kept is scaled up
        h = plain.rnn(plain.embedding(data.x))[0].detach()
        torch.testing.assert_close(one[one != 0], 2 * h[one != 0])


@pytest.mark.parametrize("rule", ["hbll", "bptt", "tbptt", "dsf"])
def test_runs_with_dropout_repeat_and_leave_the_global_state(rule):
    def run():
        net = CharLM(5, hidden=6, layers=2, dropout=0.3)
        hs.fit(net, torch.arange(400) % 5, rule=rule, steps=4, batch_size=4, window=16, progress=False, seed=3)
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    before = torch.random.get_rng_state()
    one = run()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(one, run())
    assert torch.isfinite(one).all()


def test_every_rule_sees_the_same_draws():
    net, data = SequenceModel(7, 7, hidden=6, layers=2, dropout=0.4, timescale=20.0).double(), batch(3, 13)
    found = [
        hs.gradient(net, data.x, data.y, rule=rule, seed=2, **options)
        for rule, options in (
            ("bptt", {}),
            ("bptt", {"kernels": "torch"}),
            ("hbll", dict(discount=1.0, execution="parallel", block_size=4, tolerance=1e-24, feedback_tolerance=1e-24)),
        )
    ]
    for other in found[1:]:
        for name, g in found[0].items():
            torch.testing.assert_close(other[name], g, rtol=1e-8, atol=1e-10)


def test_the_check_of_hbll_compares_with_a_chain_that_drops_the_same_values():
    net, data = SequenceModel(7, 7, hidden=6, layers=2, dropout=0.5, timescale=20.0).double(), batch(3, 40)
    rule = rules.make("hbll", execution="parallel", block_size=8, most=40, check_every=1)
    found = rule.step(net, data, progress=0.5).metrics
    assert abs(found["deployed_gap"]) < 1e-3 and rule.engine.metrics()["boundaries"] == "within tolerance"


# Adopted modules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [nn, hs.nn])
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_adopted_module_keeps_its_directions_and_its_dropout(source, kind, bidirectional):
    torch.manual_seed(1)
    module = getattr(source, kind)(5, 4, 3, batch_first=True, dropout=0.4, bidirectional=bidirectional).double()
    theirs = getattr(nn, kind)(5, 4, 3, batch_first=True, dropout=0.4, bidirectional=bidirectional).double()
    theirs.load_state_dict(module.state_dict())
    net = SequenceModel(7, 7, cell=module, task="step").double()
    data = batch(3, 12)
    torch.manual_seed(5)  # the same draws
    out = net.readout(theirs(net.embedding(data.x))[0])
    functional.cross_entropy(out.flatten(0, 1), data.y.flatten()).backward()
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    for rule in (
        rules.make("bptt"),
        rules.make("hbll", block_size=3, discount=1.0, tolerance=1e-24, feedback_tolerance=1e-24, most=20),
    ):
        net.zero_grad()
        torch.manual_seed(5)
        rule.step(net, data)
        for name, p in module.named_parameters():
            torch.testing.assert_close(p.grad, wanted[name], rtol=1e-9, atol=1e-9)
    expected = net.readout(theirs.eval()(net.embedding(data.x))[0])
    torch.testing.assert_close(net.eval()(data.x), expected)


def test_layers_of_the_package_s_own_are_adopted():
    mingru, own = (
        hs.nn.MinGRU(5, 5, 2, bidirectional=True, dropout=0.5),
        hs.nn.Recurrent([OwnCell(5, 4), OwnCell(4, 3)]),
    )
    data = batch(2, 9)
    for layer in (mingru, own):
        layer.batch_first = True
        net = SequenceModel(7, 7, cell=layer.double()).double().eval()
        torch.testing.assert_close(net(data.x), net.readout(layer(net.embedding(data.x))[0]))
        assert torch.isfinite(gradient(rules.make("hbll"), net, data)).all()


def test_a_projection_fits_an_adopted_stack_that_reads_it():
    stack = nn.ModuleList([nn.GRU(5, 6, batch_first=True), nn.GRU(4, 6, batch_first=True)])
    net = SequenceModel(7, 7, cell=stack, embedding=5, projection=4, residual=True).double()
    data = batch(2, 9)
    h = net.embedding(data.x)
    for i, module in enumerate(stack):
        h = net.interlayer(i, h, module(h)[0])
    torch.testing.assert_close(net(data.x), net.readout(h))


def test_cells_of_your_own_stand_in_such_a_stack():
    torch.manual_seed(0)
    stack = nn.ModuleList([OwnCell(5, 6), OwnCell(4, 6), OwnCell(4, 3)])
    net = SequenceModel(7, 7, cell=stack, embedding=5, projection=4, norm="layer", residual=True).double()
    data = batch(2, 13, lengths=[13, 8])
    exact = dict(block_size=3, discount=1.0, tolerance=1e-24, feedback_tolerance=1e-24, most=20)
    found = gradient(rules.make("hbll", execution="parallel", **exact), net, data)
    torch.testing.assert_close(found, gradient(rules.make("bptt", kernels="torch"), net, data), rtol=1e-9, atol=1e-9)


def test_predictions_of_a_bidirectional_model_do_not_depend_on_padding():
    net = SequenceModel(7, 3, task="sequence", bidirectional=True, **FULL)
    sequences, y = [torch.arange(n) % 7 for n in (5, 12, 1)], torch.tensor([0, 1, 2])
    together = hs.predict(net, sequences)
    for one, row in zip(sequences, together, strict=True):
        torch.testing.assert_close(net(one[None])[0].detach(), row)
    loss = functional.cross_entropy(together, y)
    assert hs.evaluate(net, sequences, y, batch_size=2)["loss"] == pytest.approx(float(loss), rel=1e-5)


# Files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [
        SequenceModel(7, 3, task="sequence", dropout=0.25, bidirectional=True, **FULL),
        CharLM(5, dropout=0.1, **FULL),
        AudioClassifier(3, hs.audio.Frames(8), bidirectional=True, **FULL),
        WaveModel(8000, 16, norm="layer", hidden=5),
    ],
    ids=lambda net: type(net).__name__,
)
def test_saved_models_come_back(net, tmp_path):
    hs.save(net, tmp_path / "model")
    again = hs.load(tmp_path / "model")
    assert again.config() == net.config() and again.drops == net.drops
    shape = (2, 9, net.input_size)
    x = torch.rand(shape) if net.input_kind == "features" else torch.randint(0, net.input_size, shape[:2])
    torch.testing.assert_close(again.eval()(x), net.eval()(x))


def test_names_of_weights_stay_those_of_the_module():
    bare = SequenceModel(7, 3, hidden=6, layers=2)
    assert [name for name in bare.state_dict() if not name.startswith("rnn.")] == [
        "embedding.weight", "readout.weight", "readout.bias",
    ]  # fmt: skip
    nn.GRU(6, 6, 2).load_state_dict(bare.rnn.state_dict())
    both = SequenceModel(7, 3, hidden=6, layers=2, bidirectional=True, norm="layer", residual=True)
    nn.GRU(6, 6, 2, bidirectional=True).load_state_dict(both.rnn.state_dict())
    assert bare.bare and not both.bare


# Credit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [dict(norm="layer"), dict(residual=True), dict(projection=3), dict(FULL, dropout=0.5)]
)
@pytest.mark.parametrize("task", ["step", "sequence"])
def test_credit_is_what_a_loop_over_the_model_gives(options, task):
    net = SequenceModel(7, 7, task=task, **{"hidden": 6, "layers": 2, "timescale": 20.0, **options}).double()
    data = batch(3, 13, task=task)
    found = hs.credit(net, data.x, data.y, block_size=3, withheld="skip", exact=True)
    mean = hs.credit(net, data.x, data.y, block_size=3, withheld="mean", exact=True)
    net.eval()

    def loss(x):
        out = net(x) if x.dtype == torch.int64 else net.read(*embedded(x))
        return functional.cross_entropy(out if task == "sequence" else out[:, -1], target, reduction="none")

    def embedded(u):
        h = u
        for i, cell in enumerate(net.cells):
            h = net.between(i, h, cell.sequence(h, cell.initial(len(h), h))[0])
        return h, None

    target = data.y if task == "sequence" else data.y[:, -1]
    with torch.no_grad():
        u = net.embedding(data.x)
        for height, values in enumerate(found.nodes[:-1]):
            for k in range(values.shape[1]):
                start, stop = found.span(height, k)
                without = torch.cat([data.x[:, :start], data.x[:, stop:]], 1)
                torch.testing.assert_close(values[:, k], loss(without) - loss(data.x))
                changed = u.clone()
                changed[:, start:stop] = u.mean((0, 1))
                torch.testing.assert_close(mean.nodes[height][:, k], loss(changed) - loss(data.x))
    torch.testing.assert_close(found.loss, loss(data.x).detach())


@pytest.mark.parametrize("withheld", ["skip", "mean"])
def test_the_lag_map_is_what_a_loop_over_the_model_gives(withheld):
    net, data = SequenceModel(7, 7, dropout=0.5, **FULL).double(), batch(2, 12)
    found = hs.lag_map(net, data.x, data.y, block_size=4, withheld=withheld).values
    net.eval()
    with torch.no_grad():
        u = net.embedding(data.x)

        def each(u):
            h = u
            for i, cell in enumerate(net.cells):
                h = net.between(i, h, cell.sequence(h, cell.initial(len(h), h))[0])
            steps = data.y.shape[1] - u.shape[1]
            y = data.y if not steps else torch.cat([data.y[:, :4], data.y[:, 8:]], 1)
            return functional.cross_entropy(net.readout(h).transpose(1, 2), y, reduction="none")

        changed = torch.cat([u[:, :4], u[:, 8:]], 1) if withheld == "skip" else u.clone()
        if withheld == "mean":
            changed[:, 4:8] = u.mean((0, 1))
        torch.testing.assert_close(found[:, 1, 2], each(changed)[:, -4:].mean(1) - each(u)[:, -4:].mean(1))


@pytest.mark.parametrize("kind", ["posterior", "gradient"])
def test_other_kinds_of_credit_see_what_stands_between(kind):
    net, data = SequenceModel(7, 7, dropout=0.5, **FULL).double(), batch(2, 12)
    one, other = (hs.credit(net, data.x, data.y, kind=kind, block_size=4) for _ in range(2))
    assert torch.equal(one.block, other.block) and bool((one.block[:, -1] > 0).all())  # nothing is drawn
    if kind == "gradient":
        u = net.eval().embedding(data.x).detach().requires_grad_()
        h = u
        for i, module in enumerate(net.rnn):
            h = net.interlayer(i, h, module(h)[0])
        functional.cross_entropy(net.readout(h)[:, -1], data.y[:, -1], reduction="sum").backward()
        torch.testing.assert_close(one.block[:, -1], u.grad.norm(dim=-1)[:, -4:].sum(1))


# Refusals -----------------------------------------------------------------------------------------------


def both(**options):
    return SequenceModel(7, 7, hidden=4, bidirectional=True, **options)


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: SequenceModel(7, 7, dropout=1.5), "dropout: got 1.5"),
        (lambda: SequenceModel(7, 7, dropout="much"), "dropout: got 'much'"),
        (lambda: SequenceModel(7, 7, norm="batch"), "norm: got 'batch'"),
        (lambda: SequenceModel(7, 7, residual=1), "residual: got 1"),
        (lambda: SequenceModel(7, 7, projection=0), "projection: got 0"),
        (lambda: SequenceModel(7, 7, bidirectional="yes"), "bidirectional: got 'yes'"),
        (lambda: both(projection=5), "projection: got 5; .*even"),
        (lambda: both(task="next"), "bidirectional: got True"),
        (lambda: CharLM(7, bidirectional=True), "bidirectional: got True"),
        (lambda: WaveModel(8000, bidirectional=True), "bidirectional: got True"),
        (lambda: SequenceModel(7, 7, cell=nn.GRU(5, 4, bidirectional=True), task="next"), "cell: got a bidirectional"),
        (lambda: SequenceModel(7, 7, cell=nn.GRU(5, 4), bidirectional=True), "bidirectional: got True beside"),
        (lambda: SequenceModel(7, 7, cell=nn.GRU(5, 4, 2, dropout=0.5), dropout=0.1), "dropout: got 0.1 beside"),
        (lambda: SequenceModel(7, 7, cell=nn.GRU(5, 4, 2), projection=3), "projection: got 3; .*4, the width"),
        (lambda: SequenceModel(7, 7, cell=nn.LSTM(5, 4, proj_size=2)), "cell: got proj_size=2"),
        (lambda: SequenceModel(7, 7, cell=hs.nn.LSTM(5, 4, proj_size=2)), "cell: got proj_size=2"),
        (lambda: both().step(torch.tensor([1])), "step: got a bidirectional"),
        (lambda: both()(torch.zeros(1, 3, dtype=torch.int64), return_state=True), "return_state: got a bidirectional"),
        (lambda: both()(torch.zeros(1, 3, dtype=torch.int64), state=[]), "state: got a bidirectional"),
        (
            lambda: AudioClassifier(3, hs.audio.Frames(8), bidirectional=True).listen(torch.zeros(9)),
            "listen: got a bid",
        ),
        (lambda: hs.credit(both(), torch.zeros(2, 3).long(), torch.zeros(2, 3).long()), "model: got a bidirectional"),
        (lambda: hs.lag_map(both(), torch.zeros(2, 3).long(), torch.zeros(2, 3).long()), "model: got a bidirectional"),
        (lambda: hs.fit(both(), *XY, rule="hbll-v1", steps=1, progress=False), "model: got one with"),
        (lambda: hs.fit(SequenceModel(7, 7, norm="layer"), *XY, rule="hbll-v1", steps=1), "model: got one with"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(call, says):
    with pytest.raises(InputError, match=says):
        call()


XY = torch.zeros(2, 4).long(), torch.zeros(2, 4).long()


class Doubled(SequenceModel):
    def between(self, layer, x, out):
        return 2 * out


def test_an_override_of_the_hook_takes_no_short_way():
    net, data = Doubled(7, 7, hidden=8, timescale=20.0), batch(2, 40)
    h = net.rnn(net.embedding(data.x))[0]
    loss = functional.cross_entropy(net.readout(2 * h).flatten(0, 1), data.y.flatten())
    assert rules.make("hbll").step(net, data).loss == pytest.approx(float(loss.detach()), rel=1e-5)
    y, state = None, None
    for t in range(40):
        y, state = net.step(data.x[:, t], state)
    torch.testing.assert_close(y, net.readout(2 * h)[:, -1], rtol=1e-4, atol=1e-5)
