"""Generated symbols: one text for a seed by the compiled loop and by the general path; what takes which."""

import signal

import pytest
import torch
from cases import NAMED, OwnCell
from torch import nn
from torch.nn.utils import parametrizations

from hbll_seq.errors import InputError
from hbll_seq.kernels.continuation import Continuation
from hbll_seq.models import CharLM, WaveModel, continuation
from hbll_seq.models.sampler import Sampler

PROMPT = torch.tensor([0, 4, 1])


class General(CharLM):
    """A model with an `advance` of its own, which happens to be the same."""

    def advance(self, x, state=None):
        return super().advance(x, state)


def sharp(kind=CharLM, **options):
    """A model of 7 symbols that are not all about as likely."""
    net = kind(7, **{"hidden": 21, "timescale": 20.0, "seed": 1, **options}).eval()
    with torch.no_grad():
        net.readout.weight *= 6
    return net


@pytest.fixture
def calls(monkeypatch):
    """The number of calls of the compiled loop."""
    made = []
    inner = Continuation.extend
    monkeypatch.setattr(Continuation, "extend", lambda self, *args: made.append(1) or inner(self, *args))
    return made


@pytest.mark.parametrize("temperature", [0, 0.5, 1])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", [*NAMED, "relu"])
def test_both_paths_write_the_same_text(cell, layers, temperature, calls):
    options = dict(cell=cell, layers=layers)
    if cell == "relu":
        torch.manual_seed(2)
        module = nn.RNN(21, 21, layers, nonlinearity="relu")
        for name, p in module.named_parameters():
            p.data *= 0.7 if "hh" in name else 1.0
        options = dict(cell=module)
    ids = [sharp(kind, **options).generate(PROMPT, 300, temperature=temperature, seed=3) for kind in (CharLM, General)]
    assert len(calls) == 5  # of the first model: 299 symbols, 64 in a call
    assert torch.equal(*ids)
    assert torch.equal(ids[0][:3], PROMPT) and len(ids[0]) == 303
    if temperature:
        assert len(ids[0].unique()) > 4


@pytest.mark.parametrize("length", [1, 2, 3, 64, 65, 66, 130])
def test_a_shorter_text_is_the_beginning_of_a_longer_one(length):
    net = sharp(cell="lstm")
    whole = net.generate(PROMPT, 140, temperature=0.7)
    assert torch.equal(net.generate(PROMPT, length, temperature=0.7), whole[: 3 + length])


def hooked(net):
    net.readout.register_forward_hook(lambda module, args, out: out + 1e3 * nn.functional.one_hot(torch.tensor(5), 7))


def replaced(net):
    net.embedding.forward = lambda x: nn.Embedding.forward(net.embedding, x) * 0 + 1


TOUCHED = {
    "hook": hooked,
    "replaced forward": replaced,
    "advance of one model": lambda net: setattr(net, "advance", lambda x, s=None: CharLM.advance(net, x, s)),
    "normed read-out": lambda net: parametrizations.weight_norm(net.readout),
    "normed embedding": lambda net: setattr(net.embedding, "max_norm", 0.5),
    "deeper read-out": lambda net: setattr(net, "readout", Deeper(net.readout)),
    "one module more": lambda net: setattr(net, "extra", nn.Linear(2, 2)),
    "float64": lambda net: net.double(),
}


class Deeper(nn.Linear):
    """A read-out that also squashes."""

    def __init__(self, inner):
        super().__init__(inner.in_features, inner.out_features)
        self.load_state_dict(inner.state_dict())

    def forward(self, h):
        return 0.1 * super().forward(h).tanh()


@pytest.mark.parametrize("what", sorted(TOUCHED))
def test_a_model_that_does_more_takes_the_general_path(what, calls):
    net = sharp()
    TOUCHED[what](net)
    ids, logits, state = net.generate(PROMPT, 90, temperature=0), None, None
    assert not calls
    out = PROMPT.tolist()
    with torch.no_grad():
        for i in range(92):
            logits, state = net.advance(torch.tensor(out[i : i + 1]), state)
            if i >= 2:
                out.append(int(logits[0].argmax()))
    assert ids.tolist() == out
    if what == "hook":
        assert set(out[3:]) == {5}


@pytest.mark.parametrize("own", ["user", "different widths", "different kinds"])
def test_other_stacks_take_the_general_path(own, calls):
    cell = {
        "user": OwnCell(8, 12),
        "different widths": nn.ModuleList([nn.GRU(8, 9), nn.GRU(9, 12)]),
        "different kinds": nn.ModuleList([nn.GRU(8, 12), nn.LSTM(12, 12)]),
    }[own]
    net = CharLM(7, cell=cell, embedding=8)
    assert len(net.generate(PROMPT, 70)) == 73 and not calls


def test_a_stack_of_one_kind_and_width_is_compiled(calls):
    torch.manual_seed(0)
    cell = nn.ModuleList([nn.LSTM(8, 12), nn.LSTM(12, 12, bias=False)])
    ids = [kind(7, cell=cell, embedding=8).generate(PROMPT, 200, temperature=1.0) for kind in (CharLM, General)]
    assert torch.equal(*ids) and len(calls) == 4


def test_autocast_takes_the_general_path(calls):
    with torch.autocast("cpu", torch.bfloat16):
        assert len(sharp().generate(PROMPT, 70)) == 73
    assert not calls


@pytest.mark.parametrize("kind", [CharLM, General])
def test_symbols_come_as_often_as_they_should(kind):
    """A model whose predictions are the read-out's offsets."""
    p = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.04, 0.01, 0.0])
    net, n = sharp(kind), 20000 if kind is CharLM else 4000
    with torch.no_grad():
        net.readout.weight.zero_()
        net.readout.bias.copy_(p.log())
    for temperature in (1.0, 0.5):
        expected = p ** (1 / temperature) / (p ** (1 / temperature)).sum()
        ids = net.generate(PROMPT, n, temperature=temperature, seed=4)[3:]
        found = torch.bincount(ids, minlength=7) / n
        assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("kind", [CharLM, General])
def test_of_equal_predictions_the_first_is_taken(kind):
    net = sharp(kind)
    with torch.no_grad():
        net.readout.weight.zero_()
        net.readout.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 2.0, 1.0, 2.0, 2.0]))
    assert set(net.generate(PROMPT, 80, temperature=0)[3:].tolist()) == {3}


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("kind", [CharLM, General])
@pytest.mark.parametrize("late", [False, True])
def test_predictions_that_are_no_numbers_are_an_error(kind, temperature, late):
    net = sharp(kind, cell="elman")
    with torch.no_grad():
        if late:  # symbol 2 is the most likely one, and reading it breaks the state
            net.readout.bias[2] = 1e3
            net.embedding.weight[2] = float("nan")
        else:
            net.readout.bias[0] = float("nan")
    with pytest.raises(InputError, match="model: got predictions that are NaN"):
        net.generate(PROMPT, 50, temperature=temperature)


@pytest.mark.parametrize("cell", [*NAMED])
def test_a_long_prompt_is_read_in_pieces(cell, monkeypatch):
    net, prompt = sharp(cell=cell, layers=2), torch.randint(0, 7, (100,))
    whole = net.generate(prompt, 80, temperature=1.0)
    read = []
    inner = CharLM.advance_all
    monkeypatch.setattr(
        CharLM, "advance_all", lambda self, x, *a, **o: read.append(x.shape[1]) or inner(self, x, *a, **o)
    )
    monkeypatch.setattr(continuation, "PROMPT", 7)
    assert torch.equal(net.generate(prompt, 80, temperature=1.0), whole)
    assert read == [7] * 14 + [2]


def test_an_advance_of_its_own_reads_the_prompt_too():
    class Counting(CharLM):
        def advance(self, x, state=None):
            self.heard.append(int(x))
            return super().advance(x, state)

    net = sharp(Counting)
    net.heard = []
    ids = net.generate(PROMPT, 6)
    assert net.heard == ids[:-1].tolist()


def test_many_time_steps_at_once_are_those_in_turn():
    net, x = sharp(layers=2, cell="lstm"), torch.randint(0, 7, (3, 40))
    out, state = net.advance_all(x)
    turn = None
    for t in range(40):
        y, turn = net.step(x[:, t], turn)
        torch.testing.assert_close(out[:, t], y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, turn, rtol=1e-4, atol=1e-5)
    last, _ = net.advance_all(x, last=True)
    torch.testing.assert_close(last, out[:, -1:])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that interrupts")
@pytest.mark.parametrize("kind", [CharLM, General])
def test_a_long_text_can_be_interrupted(kind):
    def stop(*args):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    net = sharp(kind)
    net.generate(PROMPT, 3)  # compiled
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            net.generate(PROMPT, 10**9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert torch.is_grad_enabled()
    assert len(net.generate(PROMPT, 70)) == 73


def test_a_wave_is_the_same_by_both_paths(calls):
    class Slow(WaveModel):
        def advance(self, x, state=None):
            return super().advance(x, state)

    waves = [kind(8000, 32, hidden=20, timescale=20.0).generate(150, seed=1) for kind in (WaveModel, Slow)]
    assert torch.equal(*waves) and len(calls) == 3


def test_uniform_numbers_do_not_depend_on_how_many_are_drawn_at_once():
    one, other = Sampler(1.0, 5), Sampler(1.0, 5)
    parts = [one.draw(1), one.draw(64), one.draw(7)]
    assert torch.equal(torch.cat(parts), other.draw(72))
    assert other.draw(1000).min() >= 0 and other.draw(1000).max() < 1
