"""Layers in other people's loops: copies, pickles, hooks, parametrizations, compilers, transforms, checkpointing, DDP."""

import copy
import datetime
import io
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import hbll_seq as hs
from hbll_seq import nn as hnn
from tests.nn.torch_layers import TIGHT, pair, run, tensors

KIND = pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
BLOCKS = dict(execution="parallel", execution_block=3, **TIGHT)
EXECUTION = pytest.mark.parametrize("options", [BLOCKS, dict(execution="sequential")], ids=["blocks", "in order"])


def layers(kind, options=BLOCKS, **kwargs):
    torch.manual_seed(0)
    return pair(kind, 3, 4, options=options, **{"batch_first": True, "dtype": torch.float64, **kwargs})


def data(t=10, b=2, dtype=torch.float64):
    return torch.randn(b, t, 3, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()


def same(ours, theirs, x, **tolerance):
    torch.testing.assert_close(run(ours, [x], wanted=[x]), run(theirs, [x], wanted=[x]), **tolerance)


@KIND
def test_copies_and_pickles_train_on(kind):
    theirs, ours = layers(kind)
    x = data()
    run(ours, [x])
    learned = ours.engine.controller.state_dict()
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False)):
        assert type(twin) is type(ours) and twin.engine.options == ours.engine.options
        assert twin.engine is not ours.engine and twin.engine.controller.state_dict() == learned
        same(twin, theirs, x)
    assert set(ours.state_dict()) == set(theirs.state_dict())


@EXECUTION
@KIND
def test_a_change_of_weights_between_forward_and_backward_is_refused(kind, options):
    _, ours = layers(kind, options)
    out = ours(data())[0].sum()
    with torch.no_grad():
        ours.weight_hh_l0.mul_(1.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
    x = data(t=9).detach()  # whole blocks: no copy of the input is made
    out = ours(x)[0].sum()
    x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@EXECUTION
@KIND
def test_a_kept_graph_is_differentiated_again(kind, options):
    _, ours = layers(kind, options)
    out = ours(data())[0].square().sum()
    out.backward(retain_graph=True)
    once = [p.grad.clone() for p in ours.parameters()]
    out.backward()
    torch.testing.assert_close([p.grad for p in ours.parameters()], [2 * g for g in once])
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


@EXECUTION
def test_second_derivatives_are_refused_in_one_sentence(options):
    _, ours = layers("GRU", options)
    x = data()
    (dx,) = torch.autograd.grad(ours(x)[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives need PyTorch's own layer"):
        dx.square().sum().backward()


@KIND
def test_torch_func_works_as_for_pytorchs_layer(kind):
    theirs, ours = layers(kind)
    x = data().detach()

    def loss(layer):
        def of(weights):
            return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

        return of

    given = {name: p.detach() for name, p in theirs.named_parameters()}
    torch.testing.assert_close(torch.func.grad(loss(ours))(given), torch.func.grad(loss(theirs))(given))
    plain = {name: p.clone().requires_grad_() for name, p in given.items()}
    loss(ours)(plain).backward()  # without a transform the engine runs on the weights that were given
    assert ours.engine.records and all(p.grad is not None for p in plain.values())


@KIND
def test_no_sequences_and_no_gradient_are_pytorchs(kind):
    theirs, ours = layers(kind)
    for one, other in zip(tensors(ours(data(b=0))), tensors(theirs(data(b=0))), strict=True):
        assert one.shape == other.shape
    with torch.no_grad():
        torch.testing.assert_close(tensors(ours(data())), tensors(theirs(data())))
    ours.requires_grad_(False)
    assert not ours(data().detach())[0].requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(tensors(ours(data())), tensors(theirs(data())))


@KIND
def test_autocast_keeps_a_layers_own_precision(kind):
    theirs, ours = layers(kind, dtype=torch.float32)
    x = data(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(ours, [x], wanted=[x])
        low = ours(x.bfloat16())[0]
    assert low.dtype == torch.float32  # PyTorch's layer rounds its outputs; these are the float32 ones
    torch.testing.assert_close(found, run(theirs, [x], wanted=[x]), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(low, theirs(x)[0], rtol=0.05, atol=0.02)


@pytest.mark.parametrize("reentrant", [False, True])
@EXECUTION
@KIND
def test_gradient_checkpointing(kind, options, reentrant):
    theirs, ours = layers(kind, options)
    x = data()
    found = []
    for layer in (ours, theirs):
        out = checkpoint(lambda given, layer=layer: layer(given)[0], x, use_reentrant=reentrant)
        found.append(torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])) if not reentrant else None
        if reentrant:  # it supports backward() alone
            x.grad = None
            layer.zero_grad()
            out.square().sum().backward()
            found.append([x.grad.clone(), *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*found)


def test_checkpointing_keeps_no_activations():
    _, ours = layers("GRU")
    with torch.autograd.graph.save_on_cpu():
        out = ours(data())[0]
    node = out.grad_fn
    while not hasattr(node, "given"):
        node = node.next_functions[0][0]
    assert node.states is None
    out.sum().backward()
    assert all(p.grad is not None for p in ours.parameters())


@KIND
def test_frozen_and_tied_weights(kind):
    theirs, ours = layers(kind)
    x = data()
    for layer in (theirs, ours):
        layer.weight_hh_l0.requires_grad_(False)
        layer.bias_hh_l0 = layer.bias_ih_l0  # tied
    results = []
    for layer in (ours, theirs):
        layer.zero_grad()
        x.grad = None
        layer(x)[0].square().sum().backward()
        results.append([x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)])
    assert ours.weight_hh_l0.grad is None
    torch.testing.assert_close(*results)


@KIND
def test_hooks_see_what_they_see_in_pytorch(kind):
    seen = []
    theirs, ours = layers(kind)
    x = data().detach()
    for layer in (ours, theirs):
        here = []
        layer.register_forward_hook(lambda _, args, out, here=here: here.append(out[0].detach()))
        layer.weight_hh_l0.register_hook(lambda g, here=here: here.append(g.clone()))
        layer.weight_ih_l0.register_post_accumulate_grad_hook(lambda p, here=here: here.append(p.grad.clone()))
        layer(x)[0].square().sum().backward()
        assert len(here) == 3
        seen.append(sorted(here, key=lambda one: one.numel()))
    torch.testing.assert_close(*seen)


@pytest.mark.parametrize("apply", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations_are_trained_through(apply):
    """PyTorch's layer reads a list of weights made once, so the reference is written out."""
    _, ours = layers("GRU")
    apply(ours, "weight_hh_l0")
    ours.eval()  # spectral norm's power iteration moves in training
    x = data().detach()
    ours(x)[0].square().sum().backward()
    names = {name for name, p in ours.named_parameters() if p.grad is not None}
    plain = nn.GRU(3, 4, batch_first=True, dtype=torch.float64)
    weights = {name: getattr(ours, name) for name, _ in plain.named_parameters()}
    torch.func.functional_call(plain, weights, (x,))[0].square().sum().backward()
    assert any("original" in name for name in names)
    mine = {name: p.grad.clone() / 2 for name, p in ours.named_parameters() if p.grad is not None}
    ours.zero_grad()
    ours(x)[0].square().sum().backward()
    torch.testing.assert_close(mine, {name: p.grad for name, p in ours.named_parameters() if p.grad is not None})


@KIND
def test_parametrized_weights_count_at_the_defaults_too(kind):
    """Also where a small LSTM is left to PyTorch's layer; gradients on the original weights against autograd's."""
    torch.manual_seed(0)
    ours, plain = getattr(hnn, kind)(3, 4, batch_first=True), getattr(nn, kind)(3, 4, batch_first=True)
    parametrizations.weight_norm(ours, "weight_hh_l0")
    with torch.no_grad():
        ours.parametrizations.weight_hh_l0.original0.mul_(2)  # what was computed once is now stale
    x, found = torch.randn(2, 7, 3), []
    for layer, weights in ((ours, {}), (plain, {name: getattr(ours, name) for name, _ in plain.named_parameters()})):
        out = torch.func.functional_call(layer, weights, (x,))[0] if weights else layer(x)[0]
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), list(ours.parameters()))])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert ours.engine.records[0].ran == ("pytorch" if kind == "LSTM" else "sequential")


def test_the_older_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs, ours = layers("LSTM")
        for layer in (theirs, ours):
            nn.utils.weight_norm(layer, "weight_hh_l0")
    same(ours, theirs, data())


def test_torch_compile_breaks_its_graph_and_runs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), hnn.GRU(3, 4, batch_first=True))
    x = torch.randn(2, 7, 3)
    compiled = torch.compile(model, backend="eager")
    found = compiled(x)[0]
    assert model[1].engine.records, "the engine runs, not PyTorch's layer"
    torch.testing.assert_close(found, model(x)[0])
    found.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch._dynamo.reset()


def test_export_and_trace_take_pytorchs_operators():
    model, x = hnn.GRU(3, 4, batch_first=True).eval(), torch.randn(2, 7, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (x,)).module()
        traced = torch.jit.trace(model, (x,))
    for other in (exported, traced):
        torch.testing.assert_close(other(x)[0], model(x)[0], rtol=1e-4, atol=1e-5)


def test_a_layer_called_twice_in_one_loss():
    theirs, ours = layers("LSTM")
    x, y = data(), data(t=7)
    found = [torch.autograd.grad(one(x)[0].sum() + one(y)[0].square().sum(), list(one.parameters()))
             for one in (ours, theirs)]  # fmt: skip
    torch.testing.assert_close(*found)


def test_accumulated_gradients_and_half_the_weights():
    theirs, ours = layers("GRU")
    for layer in (theirs, ours):
        for seed in range(3):
            layer(data(t=5 + seed).detach())[0].square().sum().backward()
    torch.testing.assert_close([p.grad for p in ours.parameters()], [p.grad for p in theirs.parameters()])
    ours.half()
    with torch.no_grad():  # left to PyTorch
        assert ours(data().detach().half())[0].dtype == torch.float16


def _train(rank, folder):
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)  # half an hour by default; a file, because a port may be somebody's
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    found = []
    for make in (lambda m: m, hs.convert):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 4, batch_first=True)).double()
        model = make(model) if make is not hs.convert else hs.convert(model, verbose=False, **BLOCKS)
        wrapped = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
        for step in range(3):
            x = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * rank + step))
            optimizer.zero_grad()
            wrapped(x)[0].square().sum().backward()
            optimizer.step()
        found.append([p.detach().clone() for p in model.parameters()])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_of_ddp_train_as_with_pytorchs_layer(tmp_path):
    mp.spawn(_train, args=(str(tmp_path),), nprocs=2)
    (theirs, ours), (_, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(one, two) for one, two in zip(ours, other, strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_torch_jit_script_is_refused_and_changes_nothing(inside):
    for layer in (hs.nn.GRU(3, 4), hs.nn.LSTM(3, 4), hs.nn.RNN(3, 4), hs.nn.MinGRU(3, 4)):
        net = nn.Sequential(layer) if inside else layer
        with pytest.raises(hs.InputError, match=rf"torch.jit.script of a hbll_seq.nn.{type(layer).__name__}; .*revert"):
            torch.jit.script(net)
        assert next(net.modules()) is net and layer(torch.randn(2, 5, 3))[0].shape == (2, 5, 4)
    with pytest.raises(hs.InputError, match="torch.jit.script of a CharLM"):
        torch.jit.script(hs.models.CharLM(5, hidden=4))


class Tagger(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn, self.readout = rnn, nn.Linear(rnn.hidden_size * (1 + rnn.bidirectional), 2)

    def forward(self, x):
        return self.readout(self.rnn(x)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "rnn",
    [
        hs.nn.GRU(3, 4, batch_first=True), hs.nn.RNN(3, 4, batch_first=True, nonlinearity="relu"),
        hs.nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True, dropout=0.5),
    ],
    ids=["GRU", "RNN", "stack of LSTMs"],
)  # fmt: skip
def test_a_scripted_model_with_reverted_layers_equals_it(rnn, tmp_path):
    model, x = Tagger(rnn).eval(), torch.randn(4, 9, 3)
    short = x[:2, :4]
    wanted = model(x), model(short)
    torch.jit.script(hs.revert(model)).save(tmp_path / "scripted.pt")
    found = torch.jit.load(tmp_path / "scripted.pt")
    torch.testing.assert_close((found(x), found(short)), wanted, rtol=1e-5, atol=1e-6)
