"""What a user does to a module reaches the gradient: random modules, compared with PyTorch's own layers.

The reference is written here with `nn.GRU`, `nn.LSTM`, `nn.RNN` and autograd; it shares no code with the package.
"""

import itertools
import random

import pytest
import torch
from cases import NAMED
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

import hbll_seq as hs

EXACT = dict(discount=1.0, tolerance=1e-6, feedback_tolerance=1e-6)
FINE = dict(discount=1.0, tolerance=1e-9, feedback_tolerance=1e-9)  # float64
PARTS = ("embedding", "rnn", "readout")


def make(cell, layers, dtype, symbols, seed=0):
    kind = "symbols" if symbols else "features"
    net = hs.models.SequenceModel(6, 6, hidden=8, cell=cell, layers=layers, input_kind=kind, timescale=20.0, seed=seed)
    return net.to(dtype)


def data(symbols, dtype, seed, b=3, t=21):
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 6, (b, t), generator=g) if symbols else torch.randn(b, t, 6, generator=g, dtype=dtype)
    return x, torch.randint(0, 6, (b, t), generator=g)


def reference(net, x):
    """The model by PyTorch's own modules, called as a user would call them."""
    h = x if net.embedding is None else net.embedding(x)
    h = net.rnn(h)
    return net.readout(h[0] if isinstance(h, tuple) else h)


def min_gru(net, x):
    """h' = (1 - z) h + z c, z = sigmoid(first half of W x + b), c = second half."""
    h = x if net.embedding is None else net.embedding(x)
    for layer in range(net.rnn.num_layers):
        p = functional.linear(h, getattr(net.rnn, f"weight_ih_l{layer}"), getattr(net.rnn, f"bias_ih_l{layer}"))
        z, c = p.chunk(2, -1)
        z, state, outs = torch.sigmoid(z), torch.zeros_like(c[:, 0]), []
        for t in range(h.shape[1]):
            state = (1 - z[:, t]) * state + z[:, t] * c[:, t]
            outs.append(state)
        h = torch.stack(outs, 1)
    return net.readout(h)


def expected(net, x, y):
    """Gradients by name, zeros where a parameter is frozen or not reached."""
    net.zero_grad()
    out = reference(net, x) if isinstance(net.rnn, nn.RNNBase) else min_gru(net, x)
    loss = functional.cross_entropy(out.flatten(0, 1), y.flatten())
    if loss.requires_grad:
        loss.backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad()
    return {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}


def close(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    size = max(float(g.norm()) for g in wanted.values()) + 1e-12
    for name, g in wanted.items():
        error = float((found[name] - g).norm()) / size
        assert error < tolerance, f"{name}: {error:.2e} of the largest gradient"


# Freezing: each cell, one and two layers, both dtypes, both inputs, each subset of the three parts ---------------


COMBINATIONS = [
    (cell, layers, dtype, symbols, frozen)
    for cell, layers, dtype, symbols in itertools.product(NAMED, (1, 2), ("float32", "float64"), (True, False))
    for k in range(4)
    for frozen in itertools.combinations(PARTS if symbols else PARTS[1:], k)
]  # fmt: skip


@pytest.mark.parametrize("cell,layers,dtype", sorted({c[:3] for c in COMBINATIONS}))
def test_frozen_parts_stay_and_the_others_learn(cell, layers, dtype):
    """Every subset of embedding, recurrent part and read-out, for both kinds of input: gradients, then updates."""
    checked = 0
    for _, _, _, symbols, frozen in [c for c in COMBINATIONS if c[:3] == (cell, layers, dtype)]:
        kind = getattr(torch, dtype)
        net = make(cell, layers, kind, symbols)
        for part in frozen:
            getattr(net, part).requires_grad_(False)
        x, y = data(symbols, kind, seed=checked)
        wanted = expected(net, x, y)
        if all(not p.requires_grad for p in net.parameters()):
            with pytest.raises(hs.InputError, match="grad"):
                hs.gradient(net, x, y, rule="hbll", **EXACT)
            with pytest.raises(hs.InputError, match="grad"):
                hs.fit(net, x, y, rule="hbll", steps=1, progress=False)
        else:
            for rule, options in (("hbll", EXACT), ("bptt", {})):
                close(hs.gradient(net, x, y, rule=rule, **options), wanted, 2e-4 if dtype == "float32" else 2e-5)
            before = {n: p.detach().clone() for n, p in net.named_parameters()}
            hs.fit(net, x, y, rule="hbll", steps=2, batch_size=3, progress=False)
            for name, p in net.named_parameters():
                moved = not torch.equal(p.detach(), before[name])
                assert moved == p.requires_grad, f"{frozen}: {name} moved: {moved}"
        checked += 1
    print(f"{cell}, {layers} layers, {dtype}: {checked} combinations right")


# Features of modules ------------------------------------------------------------------------------------


class Halved(nn.Linear):
    def forward(self, h):
        return super().forward(h) / 2


class Squared(nn.Module):
    def forward(self, w):
        return w * w.abs()


def parametrized_recurrence(net):
    nn.utils.parametrize.register_parametrization(net.rnn, "weight_hh_l0", Squared())


FEATURES = {
    "frozen embedding": lambda net: net.embedding.requires_grad_(False),
    "frozen recurrence": lambda net: net.rnn.requires_grad_(False),
    "frozen read-out": lambda net: net.readout.requires_grad_(False),
    "one frozen weight": lambda net: net.rnn.weight_hh_l0.requires_grad_(False),
    "one frozen bias": lambda net: net.rnn.bias_ih_l0.requires_grad_(False),
    "weight norm": lambda net: parametrizations.weight_norm(net.readout),
    "spectral norm": lambda net: parametrizations.spectral_norm(net.readout).eval(),
    "weight norm of the embedding": lambda net: parametrizations.weight_norm(net.embedding),
    "parametrized recurrence": parametrized_recurrence,
    "pruned read-out": lambda net: prune.l1_unstructured(net.readout, "weight", 0.4),
    "pruned embedding": lambda net: prune.l1_unstructured(net.embedding, "weight", 0.4),
    "hook on the read-out": lambda net: net.readout.register_forward_hook(lambda module, args, out: 0.5 * out),
    "hook on the embedding": lambda net: net.embedding.register_forward_hook(lambda module, args, out: out + 0.1),
    "pre-hook": lambda net: net.readout.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "backward hook": lambda net: net.readout.register_full_backward_hook(lambda m, din, dout: (3 * din[0],)),
    "hook on a weight": lambda net: net.rnn.weight_ih_l0.register_hook(lambda g: 0.5 * g),
    "own read-out": lambda net: setattr(net, "readout", Halved(8, 6)),
    "deeper read-out": lambda net: setattr(net, "readout", nn.Sequential(net.readout, nn.Tanh())),
    "padding index": lambda net: setattr(net.embedding, "padding_idx", 2),
    "scaled by frequency": lambda net: setattr(net.embedding, "scale_grad_by_freq", True),
    "sparse embedding": lambda net: setattr(net.embedding, "sparse", True),
    "tied weights": lambda net: setattr(net.readout, "weight", net.embedding.weight),
}  # fmt: skip
# one of them at a time
SAME_WEIGHT = (
    {"frozen read-out", "weight norm", "spectral norm", "pruned read-out"},
    {"parametrized recurrence", "one frozen weight", "frozen recurrence"},
    {"hook on a weight", "frozen recurrence"},
)
ALONE = {"tied weights", "own read-out", "deeper read-out", "sparse embedding", "weight norm of the embedding"}


def draw(random_state):
    chosen = random_state.sample(sorted(FEATURES), random_state.choice((1, 1, 2)))
    clash = set(chosen) & ALONE or any(len(set(chosen) & same) > 1 for same in SAME_WEIGHT)
    return chosen[:1] if clash else chosen


def tried(seed):
    state = random.Random(seed)
    chosen = draw(state)
    net = make(state.choice(("gru", "lstm", "elman")), state.choice((1, 2)), torch.float64, True, seed)
    double = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # for modules that a feature makes
    try:
        for name in chosen:
            FEATURES[name](net)
    finally:
        torch.set_default_dtype(double)
    x, y = data(True, torch.float64, seed, t=state.randint(1, 40))
    execution = state.choice(("auto", "sequential", "parallel"))
    wanted = expected(net, x, y)
    found = hs.gradient(net, x, y, rule="hbll", execution=execution, **FINE)
    try:
        close({n: g.to_dense() if g.is_sparse else g for n, g in found.items()}, wanted, 2e-5)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, {chosen}, {execution}: {error}") from error


def test_random_features_of_modules_reach_the_gradient():
    for seed in range(60):
        tried(seed)


@pytest.mark.slow
def test_many_random_features_of_modules_reach_the_gradient():
    for seed in range(60, 1060):
        tried(seed)
    print("1000 random modules right")


@pytest.mark.parametrize("cell", NAMED)
def test_hooks_on_the_recurrent_module_are_refused(cell):
    """Blocks are rolled from its weights, so its `forward`, and what hangs on it, would never be called."""
    net = make(cell, 1, torch.float32, True)
    net.rnn.register_forward_hook(lambda module, args, out: out)
    x, y = data(True, torch.float32, 0)
    for rule in ("hbll", "bptt", "tbptt"):
        with pytest.raises(hs.InputError, match="hook"):
            hs.gradient(net, x, y, rule=rule)
    with pytest.raises(hs.InputError, match="hook"):
        hs.fit(net, x, y, steps=1, progress=False)
    with pytest.raises(hs.InputError, match="hook"):
        hs.predict(net, x)


def test_an_overridden_forward_of_the_recurrent_module_is_refused():
    class Mine(nn.GRU):
        def forward(self, x, h=None):
            out, h = super().forward(x, h)
            return 2 * out, h

    with pytest.raises(hs.InputError, match="forward"):
        hs.models.SequenceModel(6, 6, cell=Mine(8, 8, batch_first=True))


# Blocks of layered networks -----------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.lin, self.scale = nn.Linear(8, 8), scale

    def forward(self, z):
        return z + self.scale * torch.tanh(self.lin(z))


def scaled(scales):
    torch.manual_seed(0)
    return hs.Layered([Block(s) for s in scales], embed=nn.Linear(5, 8), head=nn.Linear(8, 3), output_size=3,
                      input_shape=(5,))  # fmt: skip


def hook_one(net):
    net.layers[2].lin.register_forward_hook(lambda module, args, out: 2 * out)


def freeze_one(net):
    net.layers[2].lin.weight.requires_grad_(False)


def close_over(net):
    for k, layer in enumerate(net.layers):
        layer.forward = lambda z, w=layer, k=k: z + 0.1 * k * torch.tanh(w.lin(z))


BLOCKS = {
    "unequal numbers": lambda: scaled([0.1 * i for i in range(1, 6)]),
    "tensors as attributes": lambda: scaled([torch.tensor(0.1 * i) for i in range(1, 6)]),
    "equal numbers": lambda: scaled([0.3] * 5),
}
CHANGES = {
    "none": lambda net: None,
    "a hook on one": hook_one,
    "one frozen": freeze_one,
    "weight norm on one": lambda net: parametrizations.weight_norm(net.layers[1].lin),
    "closures as forward": close_over,
    "changed after the first call": None,
}


class Counting(Block):
    """Its forward changes it: what it computes depends on how often it was called."""

    def forward(self, z):
        self.scale += 1
        return super().forward(z)


class Branching(Block):
    """Its code depends on its input."""

    def forward(self, z):
        return super().forward(z) if float(z.detach().sum()) > 0 else z


TOGETHER = [{"paths": "any"}, {"execution": "parallel"}]  # the two kinds of training that call modules together


@pytest.mark.parametrize("options", TOGETHER, ids=str)
@pytest.mark.parametrize("kind", [Counting, Branching])
def test_blocks_that_one_call_cannot_compute_run_one_by_one(kind, options):
    def network():
        torch.manual_seed(0)
        return hs.Layered([kind(1) for _ in range(5)], embed=nn.Linear(5, 8), head=nn.Linear(8, 3), output_size=3,
                          input_shape=(5,))  # fmt: skip

    x, y = torch.randn(9, 5), torch.randint(0, 3, (9,))
    one, other = network(), network()
    runs = [
        hs.fit(net, x, y, rule="hbll", batched=batched, steps=4, batch_size=9, progress=False, **options)
        for net, batched in ((one, True), (other, False))
    ]
    assert runs[0].history["loss"] == pytest.approx(runs[1].history["loss"], rel=1e-5)
    assert set(runs[0].history["modules"]) == {"one by one"}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", TOGETHER, ids=str)
@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_keep_their_own_code_and_attributes(kind, options, change):
    net = BLOCKS[kind]()
    x, y = torch.randn(9, 5), torch.randint(0, 3, (9,))
    batched, apart = (hs.rules.make("hbll", family="layered", batched=b, **options) for b in (True, False))
    if CHANGES[change] is None:
        hs.gradient(net, x, y, rule=batched)
        for layer in net.layers:
            layer.scale = 2 * layer.scale
        net.layers[3].scale = net.layers[3].scale + 1
    else:
        CHANGES[change](net)
    found, wanted = (hs.gradient(net, x, y, rule=rule) for rule in (batched, apart))
    close(found, wanted, 1e-5)
    assert any(g.any() for g in wanted.values())
