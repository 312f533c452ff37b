"""What stands between recurrent layers: equal to a plain PyTorch module, under every rule, in streams and in files."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import hbll_seq as hs
from hbll_seq import rules
from hbll_seq.models import AudioTagger, CharLM, SequenceModel
from tests.cases import batch, gradient

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM, "elman": nn.RNN}
EXACT = dict(tolerance=1e-24, feedback_tolerance=1e-24, most=100, discount=1.0)


def modules_of(net: SequenceModel) -> list[nn.Module]:
    """One plain PyTorch module of one layer for every layer of a model of a named cell, with its weights."""
    stack = net.rnn if isinstance(net.rnn, nn.ModuleList) else [net.rnn]
    found = []
    for module in stack:
        for layer in range(module.num_layers):
            weights = {k: v for k, v in module.named_parameters() if k.replace("_reverse", "").endswith(f"l{layer}")}
            width = weights[f"weight_ih_l{layer}"].shape[1]
            kind = next(kind for kind in CELLS.values() if isinstance(module, kind))
            one = kind(width, module.hidden_size, batch_first=True, bidirectional=module.bidirectional)
            for name, p in weights.items():
                setattr(one, name.replace(f"l{layer}", "l0"), p)
            found.append(one.double())
    return found


def by_hand(net: SequenceModel, x, lengths):
    """The model's predictions, one sequence after another, by PyTorch's modules and its weights alone."""
    inner, outs = net.interlayer, []
    for row, length in zip(x, lengths.tolist(), strict=True):
        h = net.embedding(row[None, :length])
        for i, module in enumerate(modules_of(net)):
            out = module(h)[0]
            if inner is not None and len(inner.projections):
                parts = out.split(module.hidden_size, -1)
                maps = inner.projections[i]
                out = torch.cat([p @ m.weight.T for p, m in zip(parts, maps, strict=True)], -1)
            if inner is not None and len(inner.norms):
                mean, var = out.mean(-1, keepdim=True), out.var(-1, correction=0, keepdim=True)
                out = (out - mean) / torch.sqrt(var + 1e-5) * inner.norms[i].weight + inner.norms[i].bias
            if inner is not None and len(inner.skips):
                skip = inner.skips[i]
                out = out + (h @ skip.weight.T if isinstance(skip, nn.Linear) else h)
            h = out
        if net.task == "sequence":
            half = h.shape[-1] // 2
            h = torch.cat([h[0, -1, :half], h[0, 0, half:]]) if net.bidirectional else h[0, -1]
        else:
            h = h[0]
        outs.append(net.readout(h))
    return outs


def loss_by_hand(net: SequenceModel, data):
    outs = by_hand(net, data.x, data.lengths)
    if net.task == "sequence":
        return functional.cross_entropy(torch.stack(outs), data.y)
    targets = torch.cat([y[:n] for y, n in zip(data.y, data.lengths.tolist(), strict=True)])
    return functional.cross_entropy(torch.cat(outs), targets)


options = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(list(CELLS)),
        "layers": st.integers(1, 3),
        "hidden": st.sampled_from([4, 6]),
        "embedding": st.sampled_from([None, 3]),
        "norm": st.sampled_from([None, "layer"]),
        "residual": st.booleans(),
        "projection": st.sampled_from([None, 2, 4, 6]),
        "bidirectional": st.booleans(),
        "task": st.sampled_from(["step", "sequence"]),
    }
)


@settings(max_examples=40)
@given(
    options, st.lists(st.integers(1, 11), min_size=1, max_size=3), st.integers(1, 5),
    st.sampled_from(["parallel", "exact-forward", "sequential"]), st.integers(0, 5),
)  # fmt: skip
def test_predictions_and_every_gradient_equal_a_plain_module_s(chosen, lengths, block, execution, seed):
    net = SequenceModel(7, 7, timescale=20.0, seed=seed, **chosen).double()
    data = batch(len(lengths), max(lengths), seed=seed, lengths=lengths, task=chosen["task"])
    with torch.no_grad():
        outs, expected = net(data.x, data.lengths), by_hand(net, data.x, data.lengths)
        for out, one, length in zip(outs, expected, lengths, strict=True):
            torch.testing.assert_close(out if net.task == "sequence" else out[:length], one, rtol=1e-9, atol=1e-9)
    loss_by_hand(net, data).backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters()}
    for rule in (
        rules.make("hbll", block_size=block, execution=execution, **EXACT),
        rules.make("bptt"),
        rules.make("bptt", kernels="torch"),
        rules.make("tbptt", block_size=100),
    ):
        net.zero_grad()
        loss = rule.step(net, data, progress=0.5).loss
        assert loss == pytest.approx(float(loss_by_hand(net, data).detach()), rel=1e-9)
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.grad, wanted[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


ALL_OPTIONS = dict(norm="layer", residual=True, projection=4, hidden=6, layers=3, timescale=20.0)


def test_in_float32_symbols_may_be_looked_up():
    """A compiled roll of enough symbols reads the embedding's rows itself, but not where a residual needs them."""
    for chosen in (dict(norm="layer"), dict(projection=4), dict(residual=True), dict(bidirectional=True)):
        net = SequenceModel(7, 7, hidden=8, layers=2, **chosen)
        data = batch(3, 40, lengths=[40, 17, 33])
        found = gradient(rules.make("hbll", discount=1.0), net, data)
        exact = gradient(rules.make("bptt", kernels="torch"), copy.deepcopy(net).double(), data)
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-5)


def test_truncation_cuts_both_directions_at_their_own_blocks():
    net = SequenceModel(7, 7, hidden=4, layers=2, bidirectional=True, timescale=20.0).double()
    data = batch(2, 9, lengths=[9, 7])

    def cut(module, x, block):
        state, outs = None, []
        for piece in x.split(block, 1):
            out, state = module(piece, None if state is None else state.detach())
            outs.append(out)
        return torch.cat(outs, 1)

    def forward(row):
        h = net.embedding(row[None])
        for one in modules_of(net):
            sides = []
            for end in ("", "_reverse"):
                side = nn.GRU(h.shape[-1], 4, batch_first=True).double()
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    delattr(side, f"{name}_l0")
                    setattr(side, f"{name}_l0", getattr(one, f"{name}_l0{end}"))
                sides.append(cut(side, h.flip(1) if end else h, 3))
            h = torch.cat([sides[0], sides[1].flip(1)], -1)
        return net.readout(h[0])

    outs = [forward(row[:n]) for row, n in zip(data.x, [9, 7], strict=True)]
    functional.cross_entropy(torch.cat(outs), torch.cat([data.y[0], data.y[1, :7]])).backward()
    wanted = torch.cat([p.grad.flatten() for p in net.parameters()])
    for rule in (rules.make("tbptt", block_size=3), rules.make("tbptt", block_size=3, kernels="torch")):
        torch.testing.assert_close(gradient(rule, net, data), wanted, rtol=1e-9, atol=1e-9)
    options = dict(block_size=3, execution="parallel", **{**EXACT, "discount": 0.0})
    torch.testing.assert_close(gradient(rules.make("hbll", **options), net, data), wanted, rtol=1e-9, atol=1e-9)


def test_credit_of_a_bidirectional_model_is_whole_at_any_progress():
    net = SequenceModel(7, 7, hidden=4, bidirectional=True, timescale=20.0).double()
    rule = rules.make("hbll", block_size=2, **{**EXACT, "discount": "auto"})
    data = batch(2, 9)
    wanted = gradient(rules.make("bptt"), net, data)
    torch.testing.assert_close(gradient(rule, net, data, progress=0.0), wanted, rtol=1e-9, atol=1e-9)


def test_fixed_feedback_runs_between_layers_and_backward():
    net = SequenceModel(7, 7, bidirectional=True, **ALL_OPTIONS).double()
    data = batch(2, 9, lengths=[9, 4])
    found, exact = (gradient(rules.make(name), net, data) for name in ("dsf", "bptt"))
    assert torch.isfinite(found).all() and functional.cosine_similarity(found, exact, dim=0) > 0.5


@pytest.mark.parametrize("cell", [*CELLS, "mingru"])
def test_streams_equal_the_whole_sequence(cell):
    net = SequenceModel(7, 7, cell=cell, dropout=0.5, **ALL_OPTIONS).double()
    data, state = batch(3, 11), None
    whole = copy.deepcopy(net).eval()(data.x)
    for t in range(11):  # in training mode too: a stream has no dropout
        y, state = net.step(data.x[:, t], state)
        torch.testing.assert_close(y, whole[:, t])
    out, ends = net.eval()(data.x[:, :5], return_state=True)
    rest = net(data.x[:, 5:], state=ends)
    torch.testing.assert_close(torch.cat([out, rest], 1), whole)


def test_generation_and_listening_follow_the_whole_sequence():
    net = CharLM(5, dropout=0.5, **ALL_OPTIONS)
    ids = net.generate(torch.tensor([0, 1]), 6, temperature=0)
    net.eval()
    for n in range(2, 8):
        assert int(net(ids[None, :n])[0, -1].argmax()) == int(ids[n])
    tagger = AudioTagger(3, hs.audio.Frames(8), dropout=0.5, **ALL_OPTIONS)
    wave = torch.randn(96, generator=torch.Generator().manual_seed(0)) / 10
    x, lengths = tagger.prepare([wave])
    heard, where = tagger.listen(wave[:37])
    more, _ = tagger.listen(wave[37:], where)
    torch.testing.assert_close(torch.cat([heard, more]), tagger.eval()(x, lengths)[0])
