"""Language models: tying, samples, stop strings, text as it comes, scores, and tokenizers in saved models."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import hbll_seq as hs
from hbll_seq.errors import InputError
from hbll_seq.models import CharLM, LanguageModel, likelihood
from hbll_seq.models.sampler import Sampler
from hbll_seq.models.stop_text import StopText
from hbll_seq.text import BPETokenizer, CharTokenizer

PROMPT = torch.tensor([0, 4, 1])
BPE = BPETokenizer.train("the cat sat on the mat, the rat sat on the cat. " * 9, 270)


class General(CharLM):
    """A model with an `advance` of its own, which happens to be the same: it is not compiled."""

    def advance(self, x, state=None):
        return super().advance(x, state)


def sharp(kind=CharLM, count=37, **options):
    net = kind(count, **{"hidden": 21, "timescale": 20.0, "seed": 1, **options}).eval()
    with torch.no_grad():
        net.readout.weight *= 6
    return net


def letters():
    return sharp(lambda _, **o: LanguageModel(CharTokenizer("abcdefgh é🙂"), **o))


# ---------------------------------------------------------------------------------------------------------- tying


@pytest.mark.parametrize("rule", ["hbll", "bptt"])
@pytest.mark.parametrize(
    "options",
    [{}, {"layers": 2}, {"embedding": 9}, {"cell": "lstm", "layers": 2, "embedding": 9, "norm": "layer", "residual": True}],
)  # fmt: skip
def test_a_tied_model_learns_as_plain_torch(options, rule):
    x = torch.randint(0, 30, (3, 50))
    net = LanguageModel(30, hidden=16, tie_weights=True, seed=1, **options).double()
    assert net.embedding.weight is net.readout.weight
    found = hs.gradient(net, x, rule=rule)
    loss = F.cross_entropy(net(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
    loss.backward()
    for name, p in net.named_parameters():
        assert (found[name] - p.grad).norm() <= 2e-3 * p.grad.norm(), name


def test_a_tied_model_stays_tied_and_is_generated_by_the_compiled_loop():
    net = LanguageModel(30, hidden=16, tie_weights=True)
    hs.fit(net, torch.randint(0, 30, (4, 20)), steps=3, progress=False)
    other = copy.deepcopy(net)
    assert other.embedding.weight is other.readout.weight and torch.equal(other.readout.weight, net.readout.weight)
    untied = LanguageModel(30, hidden=16)
    untied.load_state_dict(net.state_dict())
    assert torch.equal(net.generate(PROMPT, 90, temperature=1.0), untied.generate(PROMPT, 90, temperature=1.0))
    count = sum(p.numel() for p in net.parameters())
    assert count == sum(p.numel() for p in untied.parameters()) - 30 * 16


def test_a_tied_model_of_other_widths_streams_and_saves(tmp_path):
    net = LanguageModel(30, hidden=16, embedding=9, tie_weights=True, seed=3, dropout=0.5).eval()
    x = torch.randint(0, 30, (2, 12))
    state = None
    for t in range(12):
        scores, state = net.step(x[:, t], state)
    torch.testing.assert_close(scores, net(x)[:, -1])
    hs.save(net, tmp_path / "m")
    again = hs.load(tmp_path / "m").eval()
    assert again.embedding.weight is again.readout.weight and torch.equal(again(x), net(x))


def test_tying_needs_the_same_symbols():
    with pytest.raises(InputError, match="tie_weights: got True for 5 symbols, 6 outputs"):
        hs.models.SequenceModel(5, 6, tie_weights=True)
    with pytest.raises(InputError, match="tie_weights: got True for 5 features"):
        hs.models.SequenceModel(5, 5, input_kind="features", tie_weights=True)


# ------------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_k": 5}, {"top_p": 0.5}, {"top_k": 9, "top_p": 0.8}, {"top_k": 99, "top_p": 1.0}, {}]
)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_paths_write_the_same_narrowed_text(cell, options):
    made = [
        sharp(kind, cell=cell).generate(PROMPT, 200, temperature=1.0, seed=3, **options) for kind in (CharLM, General)
    ]
    assert torch.equal(*made)
    if options == {"top_k": 1}:
        assert torch.equal(made[0], sharp(cell=cell).generate(PROMPT, 200, temperature=0))
    if options.get("top_k") == 99:
        assert torch.equal(made[0], sharp(cell=cell).generate(PROMPT, 200, temperature=1.0, seed=3))


@pytest.mark.parametrize("kind", [CharLM, General])
@pytest.mark.parametrize(
    "options,left", [({"top_k": 2}, [0, 1]), ({"top_p": 0.5}, [0, 1]), ({"top_p": 0.39}, [0]), ({"top_k": 3}, [0, 1, 2, 3]),
                     ({"top_k": 5, "top_p": 0.9}, [0, 1, 2, 3])]
)  # fmt: skip
def test_symbols_that_are_left_keep_their_proportions(kind, options, left):
    p = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.06, 0.04, 0.0])
    net, n = sharp(kind, 7), 3000 if kind is CharLM else 500
    with torch.no_grad():
        net.readout.weight.zero_()
        net.readout.bias.copy_(p.log())
    found = torch.bincount(net.generate(PROMPT, n, temperature=1.0, seed=4, **options)[3:], minlength=7) / n
    expected = torch.zeros(7).index_copy(0, torch.tensor(left), p[left] / p[left].sum())
    assert set(found.nonzero().flatten().tolist()) == set(left)
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40), st.integers(1, 45), st.floats(0.01, 1.0))
def test_narrowing_leaves_the_least_set_that_is_enough(logits, k, p):
    weights = torch.tensor(logits, dtype=torch.float64).sub(max(logits)).exp()
    left = Sampler(1.0, 0, k, None)._narrowed(weights)
    kept = weights[left > 0]
    assert torch.equal(left[left > 0], kept) and len(kept) >= min(k, len(weights))
    assert int((weights > kept.min()).sum()) < k
    left = Sampler(1.0, 0, None, p)._narrowed(weights)
    kept = weights[left > 0]
    assert kept.sum() >= p * weights.sum() * (1 - 1e-12)
    assert kept[kept > kept.min()].sum() < p * weights.sum() * (1 + 1e-12)


@pytest.mark.parametrize("kind", [CharLM, General])
def test_samples_are_those_of_the_next_seeds(kind):
    net = sharp(kind)
    found = net.generate(PROMPT, 80, samples=3, seed=5, temperature=0.9)
    assert found.shape == (3, 83) and len({tuple(row.tolist()) for row in found}) == 3
    for i, row in enumerate(found):
        assert torch.equal(row, net.generate(PROMPT, 80, seed=5 + i, temperature=0.9))
    assert net.generate(PROMPT, 1, samples=2).shape == (2, 4)


def test_a_text_ends_before_a_stop_string():
    net = letters()
    whole = net.generate("a", 60, temperature=1.0)
    stop = whole[20:23]
    assert net.generate("a", 60, temperature=1.0, stop=["zzz", stop]) == whole[: whole.index(stop, 1)]
    assert net.generate("a", 60, temperature=1.0, stop="zzz") == whole
    several = net.generate("a", 60, temperature=1.0, samples=3, stop=stop)
    alone = [net.generate("a", 60, temperature=1.0, seed=i, stop=stop) for i in range(3)]
    assert several == alone and several[0] == whole[: whole.index(stop, 1)]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_are_found_however_the_text_is_cut(text, stops, data):
    passed, out, at = StopText(tuple(stops)), "", 0
    while at < len(text) and not passed.done:
        n = data.draw(st.integers(1, 4))
        out, at = out + passed.add(text[at : at + n]), at + n
    out += passed.rest()
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert out == (text[: min(ends)[1]] if ends else text)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_a_stream_is_the_text_in_whole_characters(kind):
    net = letters() if kind == "char" else LanguageModel("byte" if kind == "byte" else BPE, hidden=16, seed=2)
    pieces = list(net.generate_stream("a c", 150, temperature=1.0, seed=1, top_k=90))
    assert "a c" + "".join(pieces) == net.generate("a c", 150, temperature=1.0, seed=1, top_k=90)
    assert "" not in pieces and len(pieces) > 20
    stop = "".join(pieces)[40:42]
    stopped = "".join(net.generate_stream("a c", 150, temperature=1.0, seed=1, top_k=90, stop=stop))
    assert stopped == "".join(pieces).split(stop)[0]
    symbols = list(net.generate_stream(PROMPT, 9, seed=1))
    assert symbols == net.generate(PROMPT, 9, seed=1)[3:].tolist()


def test_a_stream_comes_while_it_is_made(monkeypatch):
    net = sharp(General)
    made = []
    inner = General.advance
    monkeypatch.setattr(General, "advance", lambda self, *a: made.append(1) or inner(self, *a))
    first = list(itertools.islice(net.generate_stream(PROMPT, 10**9), 5))
    assert len(first) == 5 and len(made) < 10


# --------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("room", [1, 200, 1 << 22])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_are_those_of_each_text_alone(batch_size, room, monkeypatch):
    monkeypatch.setattr(likelihood, "ROOM", room)
    net = letters().double()
    texts = ["abc", "hé🙂 a", "ab", "gfedcba h" * 3]
    found = net.log_likelihood(texts, batch_size=batch_size)
    for i, text in enumerate(texts):
        ids = net.tokenizer.encode(text)[None]
        expected = F.cross_entropy(net(ids[:, :-1])[0], ids[0, 1:], reduction="sum").detach()
        assert float(found.total[i]) == pytest.approx(-float(expected), rel=1e-6)
        assert int(found.symbols[i]) == len(text) - 1
    given_ab = net.log_likelihood(["c", "cd"], prompt="ab", batch_size=batch_size)
    whole = net.log_likelihood(["abc", "abcd", "ab"])
    torch.testing.assert_close(given_ab.total, whole.total[:2] - whole.total[2])
    assert given_ab.symbols.tolist() == [1, 2]
    assert torch.equal(given_ab.mean, given_ab.total / given_ab.symbols)


def test_scores_and_evaluation_agree():
    net = LanguageModel("byte", hidden=16)
    text = "naïve text, read by bytes" * 4
    symbols = net.tokenizer.encode(text)
    scored, found = net.log_likelihood([text]), hs.evaluate(net, symbols)
    assert found["loss"] == pytest.approx(-float(scored.mean[0]), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(found["bits"])  # a symbol is a byte


# ---------------------------------------------------------------------------------------------------- saved models


class Words:
    def encode(self, text):
        return [len(word) for word in text.split()]

    def decode(self, ids):
        return " ".join("x" * i for i in ids)

    vocab_size = 12


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abc é"), "byte", BPE], ids=["char", "byte", "bpe"])
def test_a_tokenizer_travels_with_the_model(tokenizer, tmp_path):
    net = LanguageModel(tokenizer, hidden=8, layers=2, norm="layer", seed=3)
    hs.save(net, tmp_path / "m")
    again = hs.load(tmp_path / "m")
    assert type(again) is LanguageModel and again.config() == net.config()
    assert again.generate("a c", 30) == net.generate("a c", 30)
    with pytest.raises(InputError, match="tokenizer: got Words, for a file that needs none"):
        hs.load(tmp_path / "m", tokenizer=Words())


def test_a_tokenizer_of_another_package_is_given_again(tmp_path):
    net = LanguageModel(Words(), hidden=8)
    assert net.generate("a bb", 5).startswith("x xx")
    with pytest.warns(UserWarning, match=r"the file holds no .*Words, .*hs.load\(path, tokenizer=...\)"):
        hs.save(net, tmp_path / "m")
    with pytest.raises(InputError, match="tokenizer: got None for a model with a tokenizer of another package"):
        hs.load(tmp_path / "m")
    assert hs.load(tmp_path / "m", tokenizer=Words()).generate("a bb", 5) == net.generate("a bb", 5)


def test_models_without_a_tokenizer_and_of_characters_are_saved_as_before(tmp_path):
    for net in (LanguageModel(9, hidden=8), CharLM(3, hidden=8, symbols=list("abc"))):
        hs.save(net, tmp_path / "m")
        again = hs.load(tmp_path / "m")
        assert type(again) is type(net) and again.symbols == net.symbols
        assert torch.equal(again.generate(PROMPT.clamp(max=2), 20), net.generate(PROMPT.clamp(max=2), 20))
    assert net.config() == {"vocab_size": 3, "symbols": list("abc"), "hidden": 8}
    assert isinstance(net, LanguageModel) and net.generate("ab", 5)[:2] == "ab"


def test_a_model_around_a_module_of_ones_own_reads_text_and_is_loaded_into_another(tmp_path):
    net, other = (LanguageModel(CharTokenizer("abc"), cell=nn.GRU(8, 8), seed=i) for i in range(2))
    hs.save(net, tmp_path / "m")
    assert hs.load(tmp_path / "m", into=other).generate("ab", 40) == net.generate("ab", 40)
    with pytest.raises(InputError, match="tokenizer: got Words beside into="):
        hs.load(tmp_path / "m", into=other, tokenizer=Words())


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda net: LanguageModel("char"), "tokenizer: got 'char'"),
        (lambda net: LanguageModel(0), "tokenizer: got 0; expected an integer >= 1"),
        (lambda net: LanguageModel(None), "tokenizer: got NoneType; expected an object with encode"),
        (lambda net: LanguageModel(5, task="step"), "task: got 'step'; expected nothing"),
        (lambda net: LanguageModel(5, bidirectional=True), "bidirectional"),
        (lambda net: LanguageModel(5, tie_weights=1), "tie_weights: got 1; expected True or False"),
        (lambda net: LanguageModel(5).generate("a", 3), "prompt: got text, but the model has no symbols"),
        (lambda net: LanguageModel(5).generate_stream("a", 3), "prompt: got text, but the model has no symbols"),
        (lambda net: net.generate("z", 3), r"prompt: got characters \['z'\]"),
        (lambda net: net.generate("a", 3, top_k=0), "top_k: got 0"),
        (lambda net: net.generate("a", 3, top_p=1.5), "top_p: got 1.5"),
        (lambda net: net.generate("a", 3, top_p=0), "top_p: got 0"),
        (lambda net: net.generate("a", 3, samples=0), "samples: got 0; expected an integer >= 1, or None"),
        (lambda net: net.generate("a", 3, samples=2, seed="x"), "seed: got 'x'"),
        (lambda net: net.generate("a", 3, stop=""), "stop: got ''"),
        (lambda net: net.generate("a", 3, stop=[1]), "stop: got list"),
        (lambda net: net.generate(PROMPT, 3, stop="a"), "stop: got strings for a prompt of symbols"),
        (lambda net: net.generate_stream("a", 0), "length: got 0"),
        (lambda net: net.log_likelihood("abc"), "texts: got str; expected a list"),
        (lambda net: net.log_likelihood([]), "texts: got an empty list"),
        (lambda net: net.log_likelihood(["ab", "z"]), r"texts\[1\]: got characters \['z'\]"),
        (lambda net: net.log_likelihood(["ab", "a"]), r"texts\[1\]: got 1 symbol; expected at least 2, or a prompt="),
        (lambda net: net.log_likelihood(["ab", ""]), r"texts\[1\]: got shape \(0,\)"),
        (lambda net: net.log_likelihood(["ab"], batch_size=0), "batch_size: got 0"),
    ],
)  # fmt: skip
def test_what_a_language_model_cannot_use_is_named(call, says):
    with pytest.raises(InputError, match=says):
        call(letters())


def test_a_character_model_is_loaded_with_a_tokenizer_that_it_was_given_later(tmp_path):
    model = CharLM(3, symbols=list("abc"), hidden=4)
    for tokenizer in (CharTokenizer("xyz"), None):
        model.keep_tokenizer(tokenizer)
        hs.save(model, tmp_path / "m")
        again = hs.load(tmp_path / "m")
        assert type(again) is CharLM and again.symbols == model.symbols and again.vocab_size == 3
    with pytest.raises(InputError, match="tokenizer: got str"):
        model.keep_tokenizer("abc")


def test_options_that_are_numbers_of_numpy_are_saved(tmp_path):
    model = LanguageModel("byte", hidden=4, dropout=np.float32(0.25), seed=np.int64(3), tie_weights=np.bool_(True))
    hs.save(model, tmp_path / "m")
    again = hs.load(tmp_path / "m")
    assert again.config()["dropout"] == 0.25 and again.config()["seed"] == 3 and again.config()["tie_weights"] is True


def test_a_function_from_tensor_to_text_is_not_ignored_beside_stop_strings():
    model = LanguageModel(CharTokenizer("abc"), hidden=4)
    assert model.generate("a", 3, decode=lambda ids: "text") == "text"
    with pytest.raises(InputError, match="decode: got a function beside stop="):
        model.generate("a", 3, stop="c", decode=lambda ids: "text")
