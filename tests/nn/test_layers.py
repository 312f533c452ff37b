"""Layers against PyTorch's, over random shapes and features; the state at a sequence's end; errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import hbll_seq as hs
from hbll_seq import nn as hnn
from hbll_seq.cells import AutogradRoll
from tests.nn.torch_layers import pair, run, schedules

features = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "dropout": st.sampled_from([0.0, 0.4]),
        "bidirectional": st.booleans(),
    }
)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@settings(max_examples=60)
@given(
    kind=st.sampled_from(["GRU", "LSTM", "RNN"]), made=features, b=st.integers(1, 4), t=st.integers(1, 11),
    width=st.integers(1, 5), hidden=st.integers(2, 6), projected=st.booleans(), relu=st.booleans(),
    packed=st.sampled_from(["no", "sorted", "unsorted"]), start=st.booleans(), single=st.booleans(),
    which=st.integers(0, 7), seed=st.integers(0, 99), double=st.booleans(),
)  # fmt: skip
def test_any_layer_is_pytorchs(
    kind, made, b, t, width, hidden, projected, relu, packed, start, single, which, seed, double
):
    torch.manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    if made["num_layers"] == 1:
        made = made | {"dropout": 0.0}
    made = made | ({"proj_size": 1} if kind == "LSTM" and projected else {})
    made = made | ({"nonlinearity": "relu"} if kind == "RNN" and relu else {})
    options = (
        schedules()[which]
        if double
        else dict(execution_block=3, execution="parallel", tolerance=1e-11, feedback_tolerance=1e-11)
    )
    theirs, ours = pair(kind, width, hidden, options=options, dtype=dtype, **made)
    x = torch.randn(*((b, t) if made["batch_first"] else (t, b)), width, dtype=dtype, requires_grad=True)
    wanted, fed = [x], x
    if packed != "no":
        lengths = torch.randint(1, t + 1, (b,))
        lengths = lengths.sort(descending=True).values if packed == "sorted" else lengths
        fed = pack_padded_sequence(
            x, lengths, batch_first=made["batch_first"], enforce_sorted=packed == "sorted"
        )  # fmt: skip
    elif single:
        fed = x[0] if made["batch_first"] else x[:, 0]
    args = [fed]
    if start:
        rows = () if packed == "no" and single else (b,)
        count = made["num_layers"] * (1 + made["bidirectional"])
        sizes = [made.get("proj_size") or hidden, *([hidden] if kind == "LSTM" else [])]
        # far outside the range of the cells' own states: a start may come from anywhere
        states = [3 * torch.randn(count, *rows, size, dtype=dtype) for size in sizes]
        wanted += [one.requires_grad_() for one in states]
        args.append(tuple(states) if kind == "LSTM" else states[0])
    mine = run(ours, args, wanted=wanted, seed=seed)
    for one, other in zip(mine, run(theirs, args, wanted=wanted, seed=seed), strict=True):
        scale = 1 + float(other.abs().max()) if other.numel() else 1.0  # of a ReLU network started far out
        torch.testing.assert_close(one, other, rtol=0, atol=scale * (1e-9 if double else 1e-3))
    with torch.no_grad():
        theirs.eval(), ours.eval()
        for one, other in zip(flat(ours(*args)), flat(theirs(*args)), strict=True):
            scale = 1 + float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale)


def flat(found):
    if isinstance(found, torch.Tensor):
        return [found]
    if hasattr(found, "batch_sizes"):
        return [pad_packed_sequence(found)[0], found.data]
    return [one for part in found for one in flat(part)]


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_float32_is_pytorchs_to_1e_5_at_the_defaults(kind):
    torch.manual_seed(0)
    theirs, ours = pair(kind, 8, 16, 2, options={}, batch_first=True)
    x = torch.randn(3, 60, 8, requires_grad=True)
    torch.testing.assert_close(run(ours, [x], wanted=[x]), run(theirs, [x], wanted=[x]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@given(b=st.integers(1, 3), t=st.integers(1, 9), layers=st.integers(1, 2), seed=st.integers(0, 50))
def test_mingru_is_its_own_equations(bidirectional, b, t, layers, seed):
    torch.manual_seed(seed)
    layer = hnn.MinGRU(3, 4, layers, batch_first=True, bidirectional=bidirectional, execution="parallel").double()
    x = torch.randn(b, t, 3, dtype=torch.float64, requires_grad=True)
    out, last = layer(x)
    h, ends = x, []
    for cells in layer.cells():
        both = []
        for backward, cell in enumerate(cells):
            one = h.flip(1) if backward else h
            outputs, end = cell.sequence(one, cell.initial(b, one))
            both.append(outputs.flip(1) if backward else outputs)
            ends.append(end)
        h = torch.cat(both, -1)
    torch.testing.assert_close(out, h)
    torch.testing.assert_close(last, torch.stack(ends))
    weights = torch.randn_like(h)
    mine = torch.autograd.grad((out * weights).sum() + last.sum(), [x, *layer.parameters()])
    exact = torch.autograd.grad((h * weights).sum() + torch.stack(ends).sum(), [x, *layer.parameters()])
    torch.testing.assert_close(mine, exact)


class Own(nn.Module):
    """A cell of a user's."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = width, hidden
        self.mix = nn.Linear(width + hidden, hidden)

    def forward(self, x, h):
        return 0.9 * h + 0.1 * torch.tanh(self.mix(torch.cat([x, h], -1)))


@pytest.mark.parametrize("make", [Own, nn.GRUCell])
def test_a_cell_of_ones_own_is_a_layer(make):
    torch.manual_seed(0)
    first, second = make(3, 5).double(), make(5, 5).double()
    layer = hnn.Recurrent([first, second], batch_first=True, execution="parallel", execution_block=4)
    x, h0 = torch.randn(2, 11, 3, dtype=torch.float64), torch.randn(2, 2, 5, dtype=torch.float64)
    out, last = layer(x, h0)
    states, outputs = [h0[0], h0[1]], []
    for one in x.unbind(1):
        states = [first(one, states[0]), states[1]]
        states[1] = second(states[0], states[1])
        outputs.append(states[1])
    torch.testing.assert_close(out, torch.stack(outputs, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, torch.stack(states), rtol=1e-4, atol=1e-5)
    exact = torch.autograd.grad(torch.stack(outputs, 1).square().sum(), list(layer.parameters()))
    mine = torch.autograd.grad(out.square().sum(), list(layer.parameters()))
    torch.testing.assert_close(mine, exact, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_errors_are_pytorchs(kind):
    theirs, ours = pair(kind, 3, 4, options={})
    state = torch.zeros(1, 2, 4)
    wrong = [
        (torch.zeros(5, 2, 9),), (torch.zeros(5, 2, 3, 1),), (torch.zeros(5, 2, 3).double(),), (torch.zeros(0, 2, 3),),
        (torch.zeros(5, 2, 3), torch.zeros(2, 2, 4) if kind != "LSTM" else (state, torch.zeros(1, 9, 4))),
        (torch.zeros(5, 3), state if kind != "LSTM" else (state, state)),
    ]  # fmt: skip
    for args in wrong:
        with pytest.raises(Exception) as expected:
            theirs(*args)
        with pytest.raises(type(expected.value)) as found:
            ours(*args)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    "options, named",
    [({"sweep": 3}, "sweep"), ({"execution": "measured"}, "execution"), ({"discount": "auto"}, "discount"),
     ({"tolerance": -1}, "tolerance"), ({"block_size": 0}, "block_size")],
)  # fmt: skip
def test_wrong_options_are_named(options, named):
    with pytest.raises(hs.InputError, match=named):
        hnn.GRU(3, 4, **options)
    with pytest.raises(hs.InputError, match=named):
        hs.convert(nn.GRU(3, 4), **options)


@pytest.mark.parametrize("layer", [hnn.MinGRU(3, 4), hnn.Recurrent(Own(3, 4))], ids=["minGRU", "own"])
@pytest.mark.parametrize(
    "given, start", [(torch.zeros(5, 2, 9), None), ("x", None), (torch.zeros(5, 2, 3).double(), None),
                     (torch.zeros(5, 2, 3), torch.zeros(2, 2, 4)), (torch.zeros(0, 2, 3), None)],
)  # fmt: skip
def test_layers_without_a_model_in_pytorch_name_the_argument(layer, given, start):
    with pytest.raises(hs.InputError, match="input|hx"):
        layer(given, start)


def test_a_discount_cuts_credit_between_blocks():
    """With discount 0 a layer's gradient is that of truncated BPTT."""
    torch.manual_seed(0)
    theirs, ours = pair("GRU", 3, 4, options={"discount": 0.0, "block_size": 4}, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 10, 3, dtype=torch.float64)
    h, outputs = None, []
    for piece in x.split(4, 1):
        out, h = theirs(piece, None if h is None else h.detach())
        outputs.append(out)
    exact = torch.autograd.grad(torch.cat(outputs, 1).square().sum(), list(theirs.parameters()))
    mine = torch.autograd.grad(ours(x)[0].square().sum(), list(ours.parameters()))
    torch.testing.assert_close(mine, exact)


def test_the_reference_roll_keeps_an_lstms_memory_at_marked_steps():
    from hbll_seq.cells.padding import KeepingLSTM, filled, keeping, marked

    layer = hnn.LSTM(3, 4).cells()[0][0]
    kept = keeping(layer)
    assert isinstance(kept, KeepingLSTM) and keeping(kept) is None
    x, start = torch.randn(2, 6, 3), torch.randn(2, 8)
    padded = marked(x, torch.tensor([6, 2]), 6)
    roll = AutogradRoll(kept, padded.transpose(0, 1), start, keep=False)
    alone = AutogradRoll(layer, x[1:, :2].transpose(0, 1), start[1:], keep=False)
    assert torch.equal(roll.end[1, :4], alone.end[0, :4])
    cell, more = filled(kept, padded, 9)
    assert cell is kept and more.shape == (2, 9, 4) and bool((more[:, 6:, -1] == 1).all())


@pytest.mark.parametrize("double", [False, True])
def test_a_relu_network_that_grows_does_not_overflow_in_padding(double):
    torch.manual_seed(0)
    theirs, ours = pair("RNN", 3, 8, options={}, nonlinearity="relu", dtype=torch.float64 if double else torch.float32)
    for layer in (theirs, ours):
        layer.weight_hh_l0.data.mul_(30)
    x = torch.randn(200, 2, 3, dtype=theirs.weight_hh_l0.dtype, requires_grad=True)
    lengths = torch.tensor([9, 200])
    with torch.no_grad():
        x[9:, 0] = 0.0
        x[:, 1] = 0.0  # the long sequence is quiet by itself: the short one's padding is what could overflow
        for layer in (theirs, ours):
            layer.bias_ih_l0.zero_(), layer.bias_hh_l0.zero_()
    fed = [pack_padded_sequence(x, lengths, enforce_sorted=False)]
    for one, other in zip(run(ours, fed, wanted=[x]), run(theirs, fed, wanted=[x]), strict=True):
        assert torch.isfinite(one).all()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * (1 + float(other.abs().max())))


def test_the_defaults_of_a_layer_are_exact_where_credit_does_not_fade():
    """At a rule's tolerance, 3e-4, the messages' errors add up over the blocks to half of this gradient."""
    torch.manual_seed(2)
    theirs, ours = pair("GRU", 6, 17, options={}, dtype=torch.float64)
    for p, q in zip(theirs.parameters(), ours.parameters(), strict=True):
        p.data.mul_(2)
        q.data.copy_(p.data)
    x, start = torch.randn(1000, 2, 6, dtype=torch.float64), 30 * torch.randn(1, 2, 17, dtype=torch.float64)
    found = [torch.autograd.grad(one(x, start)[1].square().sum(), list(one.parameters())) for one in (ours, theirs)]
    mine, exact = (torch.cat([g.flatten() for g in grads]) for grads in found)
    assert float((mine - exact).norm() / exact.norm()) < 0.01
    assert ours.engine.records[0].ran != "sequential", "no tolerance was used"
