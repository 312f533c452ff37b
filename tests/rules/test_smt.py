"""`smt`: pairs without a graph over time, a causal teacher, rolls from own states, runs that resume."""

import pytest
import torch
from cases import batch, model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

import hbll_seq as hs
from hbll_seq.rules.smt import ahead, rolled_states
from hbll_seq.rules.teacher import by_cell, uniformity

CELLS = ["gru", "lstm", "elman"]
SMALL = dict(teacher=8, heads=2, teacher_layers=1, future=4)


def ready(net, **options):
    rule = hs.rules.make("smt", **SMALL | options)
    rule.setup(net, torch.Generator().manual_seed(0))
    return rule


def memories(net, rule, x):
    with torch.no_grad():
        return rule.network.memories(x, net.cells)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(CELLS), st.integers(1, 2), st.integers(1, 11), st.data())
def test_a_memory_does_not_depend_on_later_inputs(cell, layers, t, data):
    net, x = model(cell, layers=layers), batch(2, t).x
    rule, at = ready(net), data.draw(st.integers(0, t - 1))
    other = x.clone()
    other[:, at] = (other[:, at] + 1) % 7
    moved = (memories(net, rule, other) - memories(net, rule, x)).abs().amax((0, 2)) > 0
    assert not moved[:at].any() and moved[at:].all()
    for one, of in zip(by_cell(memories(net, rule, x), net.cells), net.cells, strict=True):
        assert one.shape == (2, t, of.state_size) and of.output(one).abs().max() < 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.data())
def test_a_decoded_future_sees_its_memory_and_the_inputs_up_to_the_target(future, t, data):
    net, x = model("gru"), batch(2, t).x
    rule, first = ready(net), data.draw(st.integers(0, t - 1))
    known = memories(net, rule, x)
    out = rule.network.futures(known, x, first, future)
    assert out.shape == (2, t - first, 7)
    at = data.draw(st.integers(first, t - 1))
    other = x.clone()
    other[:, at] = (other[:, at] + 1) % 7
    moved = (rule.network.futures(known, other, first, future) - out).abs().amax((0, 2)) > 0
    begin, place = (at - first) // future * future, at - first
    expected = torch.zeros(t - first, dtype=torch.bool)
    expected[place : begin + future] = place > begin  # a memory stands in place of the first input
    assert torch.equal(moved, expected)
    known[:, first + begin] += 0.5
    moved = (rule.network.futures(known, x, first, future) - out).abs().amax((0, 2)) > 0
    expected[:] = False
    expected[begin : begin + future] = True
    assert torch.equal(moved, expected)


def plain_pairs(net, states, x, y):
    """Read-out loss and dynamics error of one GRU layer by PyTorch alone, a pair at a time."""
    cell = nn.GRUCell(net.rnn.input_size, net.rnn.hidden_size).double()
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(cell, name, getattr(net.rnn, f"{name}_l0"))
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1)
    new = torch.stack([cell(net.embedding(x[:, t]), before[:, t]) for t in range(x.shape[1])], 1)
    return cross_entropy(net.readout(new).flatten(0, 1), y.flatten()), (new - states).square().mean()


def test_the_gradient_is_that_of_the_pairs_by_plain_pytorch():
    net, data = model("gru"), batch(3, 9)
    rule = ready(net, dynamics=0.7, spread=0.0)
    result = rule.step(net, data, progress=0.0)
    ours = [p.grad.clone() for p in net.parameters()]
    loss, error = plain_pairs(net, memories(net, rule, data.x), data.x, data.y)
    exact = torch.autograd.grad(loss + 0.7 * error, list(net.parameters()))
    assert result.loss == pytest.approx(loss.item())
    assert result.metrics["dynamics"] == pytest.approx(error.item())
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b)


def test_the_teacher_gets_the_gradient_of_all_losses():
    net, data = model("gru"), batch(3, 9)
    rule = ready(net, dynamics=0.7, spread=0.2)
    rule.step(net, data, progress=0.0)
    known = rule.network.memories(data.x, net.cells)
    loss, error = plain_pairs(net, known, data.x, data.y)
    taught = cross_entropy(rule.network.futures(known, data.x, 0, 4).flatten(0, 1), data.y.flatten())
    uniform = uniformity(known[:, ::4].flatten(0, 1))
    exact = torch.autograd.grad(taught + 0.2 * uniform + loss + 0.7 * error, rule.parameters())
    for p, b in zip(rule.parameters(), exact, strict=True):
        torch.testing.assert_close(p.grad, b)


@pytest.mark.parametrize("cell", CELLS)
def test_no_graph_joins_two_time_steps(cell, monkeypatch):
    """The loss at one step reaches the memory before it, and no other state."""
    net, data = model(cell), batch(2, 6)
    rule = ready(net)
    known = memories(net, rule, data.x).requires_grad_()
    late = data._replace(mask=torch.arange(6).expand(2, 6) == 4)
    loss, _ = rule._pairs(net, late, known)
    (slope,) = torch.autograd.grad(loss, known)
    assert torch.equal(slope.abs().amax((0, 2)) > 0, torch.arange(6) == 3)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [None, [7, 3, 5]])
def test_rolled_states_are_the_deployed_chains_and_have_no_gradient_over_time(cell, lengths):
    net, data = model(cell, layers=2), batch(3, 7, lengths=lengths)
    rule = ready(net, every=3)
    before = [p.detach().clone() for p in rule.parameters()]
    result = rule.step(net, data, progress=1.0)
    assert result.metrics["rolled"] == 1 and result.metrics["dynamics"] > 0
    with torch.no_grad():
        out = net(data.x, data.lengths)
    assert result.loss == pytest.approx(float(cross_entropy(out[data.mask], data.y[data.mask])))
    assert all(p.grad is None for p in rule.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, rule.parameters(), strict=True))
    one, x = net.cells[0], net.embed(data.x)
    states = rolled_states(one, x, one.initial(3, x))
    torch.testing.assert_close(one.output(states), one.sequence(x, one.initial(3, x))[0])


def test_rolled_pull_is_a_step_from_a_constant_state():
    net, data = model("gru"), batch(2, 8)
    rule = ready(net, every=2, rolled_pull=3.0)
    rule.step(net, data, progress=1.0)
    known, x = memories(net, rule, data.x), net.embed(data.x)
    cell = net.cells[0]
    states = rolled_states(cell, x, cell.initial(2, x))
    pulled = [(cell.step(x[:, t], states[:, t - 1]) - known[:, t]).square().mean() for t in (1, 3, 5, 7)]
    loss = cross_entropy(net.readout(states).flatten(0, 1), data.y.flatten())
    exact = torch.autograd.grad(loss + 3.0 * torch.stack(pulled).mean(), list(net.parameters()))
    for p, b in zip(net.parameters(), exact, strict=True):
        torch.testing.assert_close(p.grad, b)


def test_padding_changes_nothing():
    """A padded batch has the losses of its sequences, whatever stands after their ends."""
    net, data = model("gru"), batch(3, 9, lengths=[9, 4, 6])
    rule = ready(net)
    filled = data._replace(x=torch.where(data.mask, data.x, 3), y=torch.where(data.mask, data.y, 2))
    for progress in (0.0, 1.0):
        found = []
        for one in (data, filled):
            rule._updates = 1
            net.zero_grad()
            figures = rule.step(net, one, progress=progress)
            found.append([figures.loss, figures.metrics["dynamics"], *(p.grad.clone() for p in net.parameters())])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b)


def test_one_label_of_a_sequence_stands_at_each_of_its_time_steps():
    data = batch(3, 5, lengths=[5, 1, 3], task="sequence")
    every = ahead(data, 1, True)
    assert torch.equal(every.y, data.y[:, None].expand(3, 4))
    assert every.mask.tolist() == [[True] * 4, [False] * 4, [True, True, False, False]]


def test_uniformity_is_less_for_spread_memories():
    g = torch.Generator().manual_seed(0)
    wide, narrow = torch.randn(30, 8, generator=g), 1 + 0.1 * torch.randn(30, 8, generator=g)
    assert uniformity(wide) < uniformity(narrow) <= 0 and float(uniformity(wide[:1])) == 0
    torch.testing.assert_close(uniformity(torch.eye(2)), torch.tensor(-4.0))  # two at right angles: d^2 = 2


def text():
    return torch.randint(0, 5, (400,), generator=torch.Generator().manual_seed(1))


def test_stopped_and_resumed_equals_never_stopped(tmp_path):
    make = lambda: hs.models.CharLM(5, hidden=8, timescale=20.0)
    whole, parts, file = make(), make(), tmp_path / "run.safetensors"
    options = dict(rule="smt", steps=9, rolled=0.25, batch_size=3, window=20, progress=False, validation=0.1) | SMALL
    run = hs.fit(whole, text(), **options)
    stop = type("Stop", (), {"on_step_end": lambda self, run, step: step == 5})()
    hs.fit(parts, text(), checkpoint=file, checkpoint_every=5, callbacks=[stop], **options)
    again_model = make()
    again = hs.fit(again_model, text(), checkpoint=file, checkpoint_every=5, resume=True, **options)
    for a, b in zip(whole.parameters(), again_model.parameters(), strict=True):
        assert torch.equal(a, b)
    for key in ("loss", "val_loss", "predictive", "dynamics", "uniformity", "rolled", "teacher_parameters"):
        assert run.history[key] == again.history[key]
    assert run.history["rolled"] == [0.0] * 7 + [1.0] * 2


def test_the_teacher_has_a_rate_of_its_own():
    seen = []

    def factory(groups, lr):
        made = torch.optim.SGD(groups, lr=lr)
        seen.extend(float(group["lr"]) for group in made.param_groups)
        return made

    net = hs.models.CharLM(5, hidden=8)
    given = dict(rule="smt", steps=2, batch_size=3, window=20, progress=False, lr=0.5, optimizer=factory, **SMALL)
    hs.fit(net, text(), teacher_rate=0.1, **given)
    hs.fit(net, text(), teacher_rate=1.0, **given)
    assert seen == pytest.approx([0.5, 0.05, 0.5])  # one group where the rates are equal


def test_it_learns_a_task_of_memory():
    """The first symbol is asked for after seven others; by chance a quarter is right."""
    x = torch.randint(0, 4, (1024, 8), generator=torch.Generator().manual_seed(0))
    net = hs.models.SequenceModel(4, 4, hidden=24, task="sequence", timescale=16)
    options = dict(teacher=32, heads=2, teacher_rate=1.0, rolled=0.3, every=1)
    hs.fit(net, x, x[:, 0], rule="smt", steps=300, progress=False, **options)
    assert hs.evaluate(net, x, x[:, 0])["accuracy"] > 0.6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: model("mingru"), "without a bound"),
        (lambda: model("user"), "without a bound"),
        (lambda: hs.models.SequenceModel(7, 7, hidden=6, bidirectional=True), "bidirectional"),
        (
            lambda: nn.Sequential(nn.Embedding(7, 7), nn.Linear(7, 7)),
            "'smt' for a Sequential; expected a SequenceModel",
        ),
    ],
)
def test_models_that_it_cannot_train_are_refused(make, message):
    data, net = batch(2, 4), make()
    given = {} if isinstance(net, hs.models.SequenceModel) else dict(loss="cross_entropy")
    with pytest.raises(hs.InputError, match=message):
        hs.fit(net, data.x, data.y, rule="smt", steps=1, progress=False, **given)


def test_an_optimiser_without_the_teacher_is_refused():
    """The teacher is made by `fit`, so no ready optimiser can have it; it would stay as it was drawn."""
    net = hs.models.CharLM(5, hidden=8)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(hs.InputError, match="optimizer: got a ready optimiser beside rule 'smt'.*expected a name"):
        ready_made = torch.optim.SGD(net.parameters(), lr=0.1)
        hs.fit(net, text(), rule="smt", steps=1, window=20, progress=False, optimizer=ready_made, **SMALL)
    assert all(map(torch.equal, before, net.parameters()))


def test_a_loss_of_ones_own_is_named_as_what_it_cannot_train():
    net = hs.models.SequenceModel(7, 7, hidden=6, task="next")
    with pytest.raises(hs.InputError, match="'smt' for a SequenceModel with loss=, metrics= or sample_weight="):
        hs.fit(net, batch(2, 4).x, rule="smt", steps=1, progress=False, loss="cross_entropy", **SMALL)


def test_wrong_options_and_calls_are_refused():
    for options, name in (
        (dict(teacher=10, heads=4), "heads"), (dict(rolled=1.5), "rolled"), (dict(dynamics=-1), "dynamics"),
        (dict(future=0), "future"), (dict(teacher_rate=0), "teacher_rate"), (dict(every=2.5), "every"),
    ):  # fmt: skip
        with pytest.raises(hs.InputError, match=name):
            hs.rules.make("smt", **options)
    with pytest.raises(hs.InputError, match="setup"):
        hs.rules.make("smt").step(model("gru"), batch(2, 4))
    net = model("gru")
    with pytest.raises(hs.InputError, match="start state"):
        ready(net).step(net, batch(2, 4)._replace(state=[torch.zeros(2, 6).double()]))
