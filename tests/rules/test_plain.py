"""The short way round a model's modules is taken only where it is the same; compared with PyTorch's own layers."""

import copy

import pytest
import torch
from cases import batch, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import hbll_seq as hs
from hbll_seq.rules.execute import plain


class Twice(hs.models.SequenceModel):
    def embed(self, x):
        return 2 * super().embed(x)


FEATURES = {
    "frozen embedding": lambda net: net.embedding.requires_grad_(False),
    "frozen recurrence": lambda net: net.rnn.requires_grad_(False),
    "frozen read-out": lambda net: net.readout.requires_grad_(False),
    "one frozen weight": lambda net: net.rnn.weight_hh_l0.requires_grad_(False),
    "hook": lambda net: net.readout.register_forward_hook(lambda module, args, out: 0.5 * out),
    "normed read-out": lambda net: parametrizations.weight_norm(net.readout),
    "replaced forward": lambda net: setattr(net.readout, "forward", lambda h, w=net.readout: nn.Linear.forward(w, h) * 2),
    "hooked weight": lambda net: net.readout.weight.register_hook(lambda g: 0.5 * g),
    "scaled by frequency": lambda net: setattr(net.embedding, "scale_grad_by_freq", True),
    "deeper read-out": lambda net: setattr(net, "readout", nn.Sequential(net.readout, nn.Tanh())),
}  # fmt: skip


@settings(max_examples=60)
@given(
    features=st.sets(st.sampled_from(sorted(FEATURES)), max_size=2),
    cell=st.sampled_from(["gru", "lstm", "elman"]),
    layers=st.integers(1, 2),
    overridden=st.booleans(),
    rule=st.sampled_from(["hbll", "bptt"]),
    seed=st.integers(0, 99),
)
def test_what_is_done_to_a_module_reaches_the_gradient(features, cell, layers, overridden, rule, seed):
    if {"deeper read-out", "normed read-out"} <= features or "deeper read-out" in features and len(features) > 1:
        features = {"deeper read-out"}
    kind = Twice if overridden else hs.models.SequenceModel
    net = kind(5, 5, hidden=8, cell=cell, layers=layers, timescale=20.0, seed=seed)
    for name in sorted(features):
        FEATURES[name](net)
    data = batch(4, 33, symbols=5, seed=seed, lengths=[33, 20, 33, 9])
    assert plain(net) == (not features and not overridden)
    options = dict(discount=1.0, tolerance=1e-9, feedback_tolerance=1e-9) if rule == "hbll" else {}
    found, expected = [], []
    for one, target in ((hs.rules.make(rule, **options), found), (hs.rules.make("bptt", kernels="torch"), expected)):
        for p in net.parameters():
            p.grad = None
        if not any(p.requires_grad for p in net.parameters()):
            return
        one.step(net, data)
        target += [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    for p, q in zip(found, expected, strict=True):
        assert (p is None) == (q is None)
        if p is not None and q is not None:
            torch.testing.assert_close(p, q, rtol=1e-3, atol=3e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "mingru"])
def test_a_plain_model_takes_the_short_way(cell):
    assert plain(hs.models.SequenceModel(5, 5, hidden=8, cell=cell))
    assert plain(hs.models.CharLM(5, hidden=8, cell=cell, layers=2))


def test_buffers_of_inference_mode_are_not_trained_in():
    net, data = hs.models.SequenceModel(5, 5, hidden=8), batch(4, 33, symbols=5)
    with torch.inference_mode():
        net(data.x)
    assert gradient(hs.rules.make("hbll"), copy.deepcopy(net), data).isfinite().all()


def test_a_trained_model_can_be_exported():
    """The deployed chain without gradient is PyTorch's own where something else than numbers goes through it."""
    net, x = hs.models.SequenceModel(5, 5, hidden=16).eval(), torch.randint(0, 5, (2, 9))
    with torch.no_grad():
        expected = net(x)
        program = torch.export.export(net, (x,))
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
