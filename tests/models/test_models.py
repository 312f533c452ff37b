"""Models stream, generate, and refuse what they cannot be."""

import pytest
import torch
from cases import ALL, batch, model

from hbll_seq.errors import InputError
from hbll_seq.models import CharLM, SequenceModel


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ALL)
def test_streaming_equals_the_batch(cell, layers):
    net, data = model(cell, layers=layers), batch(3, 11)
    out, state = net(data.x), None
    for t in range(11):
        y, state = net.step(data.x[:, t], state)
        torch.testing.assert_close(y, out[:, t])


def test_the_sequence_read_out_is_at_each_sequence_s_last_step():
    net, data = model("gru", task="sequence"), batch(3, 11, lengths=[11, 4, 1], task="sequence")
    out = net(data.x, data.lengths)
    for i, length in enumerate([11, 4, 1]):
        torch.testing.assert_close(out[i : i + 1], net(data.x[i : i + 1, :length]))


def test_generation_repeats_and_takes_text_or_symbols():
    net = CharLM(4, symbols=list("abcd"), hidden=8)
    before = torch.random.get_rng_state()
    text = net.generate("ab", 20, seed=1)
    assert text.startswith("ab") and len(text) == 22 and set(text) <= set("abcd")
    assert text == net.generate("ab", 20, seed=1) != net.generate("ab", 20, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    ids = net.generate(torch.tensor([0, 1]), 20, seed=1)
    assert "".join("abcd"[i] for i in ids.tolist()) == text
    assert net.generate("ab", 5, temperature=0) == net.generate("ab", 5, temperature=0, seed=9)


def test_greedy_generation_is_the_most_likely_continuation():
    net = CharLM(4, symbols=list("abcd"), hidden=8)
    ids = net.generate(torch.tensor([0, 1]), 6, temperature=0)
    for n in range(2, 8):
        assert int(net(ids[None, :n])[0, -1].argmax()) == int(ids[n])


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda m: m.generate("az", 3), r"prompt: got characters \['z'\]"),
        (lambda m: m.generate("", 3), "prompt: got shape"),
        (lambda m: m.generate("a", 0), "length: got 0"),
        (lambda m: m.generate("a", 3, temperature=-1), "temperature: got -1"),
        (lambda m: CharLM(4).generate("a", 3), "prompt: got text"),
        (lambda m: CharLM(3, symbols=list("abcd")), "symbols: got 4"),
        (lambda m: SequenceModel(0, 4), "input_size: got 0"),
        (lambda m: SequenceModel(4, 4, task="tag"), "task: got 'tag'"),
        (lambda m: SequenceModel(4, 4, timescale=1.0), "timescale: got 1.0"),
    ],
)
def test_bad_arguments_are_named(call, says):
    with pytest.raises(InputError, match=says):
        call(CharLM(4, symbols=list("abcd")))


def test_models_are_rebuilt_from_their_config():
    for net in (
        CharLM(4, symbols=list("abcd"), hidden=8, cell="lstm"),
        SequenceModel(3, 2, input_kind="features", layers=2),
    ):
        again = type(net).from_config(net.config())
        assert again.config() == net.config()
        again.load_state_dict(net.state_dict())
