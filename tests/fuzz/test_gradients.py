"""Random gradients and short runs, compared with autograd on PyTorch's own layers; no code of the package's is shared."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional

import hbll_seq as hs


def expected(net, x, lengths, y, mask, whole):
    """Gradients by name: `nn.GRU`, `nn.LSTM`, `nn.RNN` on padded sequences, mean loss over the targets that count."""
    net.zero_grad()
    h = net.rnn(x if net.embedding is None else net.embedding(x))[0]
    if whole:
        loss = functional.cross_entropy(net.readout(h[torch.arange(len(x)), lengths - 1]), y)
    else:
        loss = functional.cross_entropy(net.readout(h)[mask], y[mask])
    loss.backward()
    found = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    return found


def tried(seed):
    state, g = random.Random(seed), torch.Generator().manual_seed(seed)
    dtype = state.choice((torch.float32, torch.float64))
    b, t, whole, symbols = (
        state.randint(1, 5),
        state.choice((1, 2, 3, 17, 33, 70)),
        state.random() < 0.3,
        state.random() < 0.5,
    )
    net = hs.models.SequenceModel(
        6, 6, hidden=state.choice((1, 5, 16)), cell=state.choice(("gru", "lstm", "elman")), layers=state.randint(1, 3),
        task="sequence" if whole else "step", input_kind="symbols" if symbols else "features", timescale=20.0, seed=seed,
    ).to(dtype)  # fmt: skip
    x = torch.randint(0, 6, (b, t), generator=g) if symbols else torch.randn(b, t, 6, generator=g, dtype=dtype)
    lengths = torch.randint(1, t + 1, (b,), generator=g)
    lengths[0] = t
    y = torch.randint(0, 6, (b,) if whole else (b, t), generator=g)
    mask = (torch.arange(t)[None] < lengths[:, None]) & (torch.rand(b, t, generator=g) < 0.8)
    mask[0, t - 1] = True
    options = dict(
        discount=1.0, block_size=state.choice(("auto", 1, 2, 16, 100)),
        execution=state.choice(("auto", "sequential", "parallel", "exact-forward")),
    )  # fmt: skip
    fine = 1e-9 if dtype == torch.float32 else 1e-18  # of squared residuals
    options |= dict(tolerance=fine, feedback_tolerance=fine)
    if state.random() < 0.3:
        options["memory"] = "200KB"
    wanted = expected(net, x, lengths, y, mask, whole)
    size = max(float(v.norm()) for v in wanted.values()) + 1e-12
    for rule, chosen in (("hbll", options), ("bptt", {})):
        found = hs.gradient(net, (x, lengths), y, rule=rule, mask=None if whole else mask, **chosen)
        worst = max(float((found[n] - v).norm()) for n, v in wanted.items()) / size
        limit = 5e-4 if dtype == torch.float32 else 1e-8  # of 2,000, one over 1e-4: 70 blocks of one step
        assert worst < limit, f"seed {seed}, {rule} {chosen}: {worst:.1e} of the largest gradient"


def test_random_gradients_are_those_of_autograd():
    for seed in range(60):
        tried(seed)


@pytest.mark.slow
def test_many_random_gradients_are_those_of_autograd():
    for seed in range(60, 2060):
        tried(seed)
    print("2,000 random gradients right")


def test_short_runs_are_those_of_a_plain_loop():
    """Ten updates by SGD, all data in every batch: the weights of a loop written with PyTorch alone."""
    for seed, cell in enumerate(("gru", "lstm", "elman")):
        one, other = (
            hs.models.SequenceModel(6, 6, hidden=8, cell=cell, layers=2, timescale=20.0, seed=seed).double()
            for _ in range(2)
        )
        g = torch.Generator().manual_seed(seed)
        x, y = (torch.randint(0, 6, (4, 21), generator=g) for _ in range(2))
        hs.fit(one, x, y, steps=10, batch_size=4, lr=0.1, optimizer="sgd", schedule="constant", clip=None, discount=1.0,
               tolerance=1e-18, feedback_tolerance=1e-18, execution="parallel", progress=False)  # fmt: skip
        sgd = torch.optim.SGD(other.parameters(), lr=0.1)
        for _ in range(10):
            sgd.zero_grad()
            h = other.rnn(other.embedding(x))[0]
            functional.cross_entropy(other.readout(h).flatten(0, 1), y.flatten()).backward()
            sgd.step()
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)


def test_the_reference_is_not_our_code():
    assert type(hs.models.SequenceModel(6, 6, hidden=4).rnn) is nn.GRU
