"""Credit finds the cause; every figure draws on its own axes only."""

import pytest
import torch
from matplotlib.figure import Figure

import hbll_seq as hs
from hbll_seq.datasets import synthetic


@pytest.fixture(scope="module")
def trained():
    """A model that recalls the first of 64 symbols."""
    g = torch.Generator().manual_seed(0)
    x, y = synthetic.recall(1500, 64, 4, g)
    model = hs.models.SequenceModel(8, 4, hidden=24, task="sequence", timescale=200.0)
    hs.fit(model, x, y, rule="hbll", steps=300, batch_size=32, lr=1e-2, progress=False)
    x, y = synthetic.recall(64, 64, 4, g)
    assert hs.evaluate(model, x, y)["accuracy"] > 0.95
    return model, x, y


def test_what_the_answer_is_owed_to_is_the_cue(trained):
    model, x, y = trained
    found = hs.credit(model, x, y, block_size=4)
    assert found.block.shape == (64, 16) and found.boundary.shape == (64, 15)
    # a first, linear measure: where it fails it names a late block, whose writes move the bias of one answer
    assert (found.block.abs().argmax(1) == 0).float().mean() >= 0.75


def test_shuffled_weights_destroy_the_pattern(trained):
    model, x, y = trained
    other = hs.models.SequenceModel(8, 4, hidden=24, task="sequence", timescale=200.0)
    g = torch.Generator().manual_seed(3)
    other.load_state_dict(
        {k: v.flatten()[torch.randperm(v.numel(), generator=g)].view_as(v) for k, v in model.state_dict().items()}
    )
    assert (hs.credit(other, x, y, block_size=4).block.abs().argmax(1) == 0).float().mean() < 0.5


def test_messages_are_the_gradient_so_boundary_credit_is_its_size(trained):
    """The boundary's KL from the messages equals the one from a gradient by autograd."""
    model, x, y = trained
    x, y = x[:3], y[:3]
    found = hs.credit(model, x, y, block_size=16)
    cell = model.cells[0]
    h, states = cell.initial(3, model.readout.weight), []
    e = model.embed(x)
    for t in range(64):
        if t % 16 == 0 and t:
            h = h.detach().requires_grad_() if t == 16 else h
            h.requires_grad_() if h.is_leaf else h.retain_grad()
            states.append(h)
        h = cell.step(e[:, t], h)
    torch.nn.functional.cross_entropy(model.readout(cell.output(h)), y, reduction="sum").backward()
    ends = torch.stack([*states, h]).detach().flatten(0, 1)
    exact = torch.stack([0.5 * (ends.var(0) * s.grad.square()).sum(1) for s in states], 1)
    model.zero_grad()
    torch.testing.assert_close(found.boundary, exact, rtol=0.02, atol=1e-7)


def test_credit_leaves_the_model_as_it_was(trained):
    model, x, y = trained
    before = {k: v.clone() for k, v in model.state_dict().items()}
    marker = torch.ones_like(model.readout.weight)
    model.readout.weight.grad = marker
    hs.credit(model, x, y)
    assert model.readout.weight.grad is marker and model.embedding.weight.grad is None
    model.readout.weight.grad = None
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_language_models_explain_a_step():
    lm = hs.models.CharLM(6, hidden=8)
    x = torch.randint(0, 6, (2, 50))
    found = hs.credit(lm, x, block_size=8, outcome=30)
    assert found.outcome == 30 and found.steps == 31 and found.block.shape == (2, 4)
    changed = x.clone()
    changed[:, 32:] = 0  # after the outcome's target: cannot matter
    torch.testing.assert_close(hs.credit(lm, changed, block_size=8, outcome=30).block, found.block)


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda m: hs.credit(m, torch.zeros(5, dtype=torch.int64)), r"x: got shape \(5,\)"),
        (
            lambda m: hs.credit(m, torch.zeros(2, 5, dtype=torch.int64), outcome=4),
            "outcome: got 4; expected a step in 0..3",
        ),
        (
            lambda m: hs.credit(hs.models.SequenceModel(6, 2, task="sequence"), torch.zeros(2, 5, dtype=torch.int64)),
            "y: got None",
        ),
    ],
)
def test_bad_arguments_are_named(call, says):
    with pytest.raises(hs.InputError, match=says):
        call(hs.models.CharLM(6, hidden=4))


def test_figures_draw_on_the_axes_given_and_name_their_units(trained):
    model, x, y = trained
    run = hs.fit(hs.models.CharLM(6, hidden=6), torch.arange(300) % 6, steps=4, validation=0.2, progress=False)
    draw = [
        lambda ax: hs.plot.learning_curve(run, ax=ax, label="hbll"),
        lambda ax: hs.plot.tree([1.0, 2.0, float("nan"), 0.5, 0.1], ax=ax, block_size=8),
        lambda ax: hs.plot.credit(hs.credit(model, x[:2], y[:2], block_size=8), row=1, ax=ax),
        lambda ax: run.plot(ax=ax),
    ]
    for one in draw:
        figure = Figure()
        ax = figure.subplots()
        assert one(ax) is ax
        assert ax.get_xlabel() and (ax.get_ylabel() or ax.get_yticklabels())
        figure.canvas.draw()


def test_the_tree_figure_shows_means_over_nodes():
    ax = hs.plot.tree([1.0, 3.0, 5.0, 7.0], ax=Figure().subplots())
    assert [t.get_text() for t in ax.texts] == ["1.00", "3.00", "5.00", "7.00", "2.00", "6.00", "4.00"]
    with pytest.raises(hs.InputError, match="values"):
        hs.plot.tree([])


def test_heights_are_those_of_the_tree(trained):
    model, x, y = trained
    assert hs.credit(model, x[:1], y[:1], block_size=8).heights.tolist() == [0, 1, 0, 2, 0, 1, 0]
