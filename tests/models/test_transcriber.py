"""The transcriber in use: it learns, whatever the rule; its gradient is plain PyTorch's; saved, resumed, streamed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import hbll_seq as hs
from hbll_seq.audio import Frames, LogMel

RATE = 8000


def sounds(n, seed=0, least=2, most=4):
    """Strings of three tones, told apart by pitch."""
    g = torch.Generator().manual_seed(seed)
    waves, texts = [], []
    for _ in range(n):
        notes = torch.randint(3, (least + int(torch.randint(most - least + 1, (1,), generator=g)),), generator=g)
        parts = [torch.zeros(400)]
        for note in notes.tolist():
            t = torch.arange(700 + int(torch.randint(300, (1,), generator=g))) / RATE
            parts += [0.3 * torch.sin(6.2832 * 400 * 2**note * t), torch.zeros(400)]
        wave = torch.cat(parts)
        waves.append(wave + 0.01 * torch.randn(len(wave), generator=g))
        texts.append("".join("abc"[k] for k in notes.tolist()))
    return waves, texts


def small(**options):
    front = options.pop("front", None) or LogMel(RATE, mels=12, window=32, hop=16)
    return hs.models.Transcriber("abc", front, **{"hidden": 16, "conv": ((16, 3, 2),), **options})


@pytest.fixture(scope="module")
def learned():
    """A model that streams, and one that does not. Do not train them."""
    found = {}
    for bidirectional in (False, True):
        model = small(hidden=24, bidirectional=bidirectional)
        run = hs.fit(model, *sounds(96), steps=150, batch_size=8, lr=2e-2, progress=False)
        found[bidirectional] = model, run
    return found


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_learns_to_transcribe(learned, bidirectional):
    model, run = learned[bidirectional]
    waves, texts = sounds(32, seed=1)
    assert model.error_rate(waves, texts) < 0.1
    assert model.error_rate(waves, texts, beam_width=4) < 0.1
    figures = hs.evaluate(model, waves, texts)
    assert figures["error_rate"] == model.error_rate(waves, texts) and figures["loss"] < 0.3
    assert run.history["loss"][-1] < run.history["loss"][0]
    assert run.config["objective"] == "ctc"


def test_loss_and_gradient_are_those_of_plain_pytorch():
    """The same network written with nn.Conv1d, nn.GRU and nn.CTCLoss, utterance by utterance."""
    model, (waves, texts) = small(bidirectional=True, layers=2, hidden=5).double(), sounds(5)
    found = hs.gradient(model, waves, texts, rule="hbll")
    plain = nn.GRU(16, 5, num_layers=2, batch_first=True, bidirectional=True).double()
    plain.load_state_dict(model.recurrent.rnn.state_dict())
    conv, readout = model.encoder.convolutions[0].conv, model.recurrent.readout
    losses = []
    for wave, text in zip(waves, texts, strict=True):
        x = model.front([wave])[0].double()
        x = x - x.mean(1, keepdim=True)
        wide = -(-x.shape[1] // 2) * 2
        x = nn.functional.pad(x.transpose(1, 2), (0, 1 + wide - x.shape[1]))
        out = readout(plain(conv(x).relu().transpose(1, 2))[0]).log_softmax(-1)
        y = torch.tensor(["abc".index(one) + 1 for one in text])
        losses.append(nn.functional.ctc_loss(out[0], y, torch.tensor(out.shape[1]), torch.tensor(len(y))))
    loss = torch.stack(losses).mean()
    assert hs.evaluate(model, waves, texts)["loss"] == pytest.approx(float(loss.detach()))
    own = dict(model.named_parameters())
    names = [name for name in own if not name.startswith("recurrent.rnn")]
    wanted = torch.autograd.grad(loss, [own[name] for name in names] + list(plain.parameters()))
    names += [f"recurrent.rnn.{name}" for name, _ in plain.named_parameters()]
    for name, gradient in zip(names, wanted, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [
    {"cell": "lstm"}, {"cell": "mingru", "layers": 2, "norm": "layer"}, {"front": Frames(16), "filters": (8, 4, 4, 4)},
    {"bidirectional": True, "residual": True, "layers": 2, "conv": ()},
], ids=["lstm", "mingru", "raw", "residual"])  # fmt: skip
@pytest.mark.parametrize("rule", ["hbll", "tbptt", "dsf"])
def test_every_rule_trains_every_kind(options, rule):
    model, data = small(**options), sounds(16)
    before = hs.evaluate(model, *data)["loss"]
    hs.fit(model, *data, rule=rule, steps=12, batch_size=4, lr=1e-2, progress=False)
    assert hs.evaluate(model, *data)["loss"] < before


@given(data=st.data(), kind=st.sampled_from(["mel", "raw"]), size=st.integers(1, 6000))
def test_listening_gives_what_the_whole_gives(data, kind, size):
    front, filters = (LogMel(RATE, 12, 32, 16), None) if kind == "mel" else (Frames(16), (6, 4, 4, 4))
    model = small(front=front, filters=filters, layers=2, cell="lstm").eval()
    wave = torch.randn(size, generator=torch.Generator().manual_seed(size))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    where, scores, text, labels = None, [], "", []
    for first, last in zip([0, *cuts], [*cuts, size], strict=True):
        heard, where = model.listen(wave[first:last], where, end=last == size and first == (cuts or [0])[-1])
        scores, text, labels = [*scores, heard.scores], text + heard.text, labels + heard.labels
    torch.testing.assert_close(torch.cat(scores), hs.predict(model, [wave])[0], rtol=1e-4, atol=1e-5)
    assert text == model.transcribe([wave])[0]
    assert [(one.label, one.start) for one in labels] == [(one.label, one.start) for one in model.align([wave])[0]]


def test_text_comes_while_the_sound_goes_on_and_the_state_stays_small(learned):
    model, _ = learned[False]
    waves, texts = sounds(8, seed=2)
    where, text, early, sizes = None, "", "", set()
    for number, chunk in enumerate(torch.cat(waves).split(200)):
        heard, where = model.listen(chunk, where)
        text += heard.text
        early = text if number == 60 else early
        sizes.add(sum(one.numel() for one in (*where.encoded.kept, *where.state)) if where.state else 0)
    assert early and text.startswith(early) and len(text) > len(early)
    assert hs.audio.error_rate(["".join(texts)], [text]).rate < 0.15
    assert len(sizes) <= 3


def test_a_bidirectional_model_does_not_listen(learned):
    with pytest.raises(hs.InputError, match="bidirectional"):
        learned[True][0].listen(torch.zeros(100))


def test_labels_have_places_in_the_sound(learned):
    model, _ = learned[True]
    (wave,), (text,) = sounds(1, seed=5)
    own, given_ = model.align([wave])[0], model.align([wave], [text])[0]
    assert "".join(one.label for one in own) == model.transcribe([wave])[0]
    assert "".join(one.label for one in given_) == text
    starts = [one.start for one in given_]
    assert starts == sorted(starts) and all(0 <= one.start < one.end <= len(wave) + 512 for one in given_)


def test_a_saved_model_is_the_same(learned, tmp_path):
    model, _ = learned[False]
    waves, _ = sounds(4, seed=6)
    hs.save(model, tmp_path / "model.hbll")
    again = hs.load(tmp_path / "model.hbll")
    assert again.config() == model.config()
    assert again.transcribe(waves) == model.transcribe(waves)


def test_a_resumed_run_is_the_whole_run(tmp_path):
    data, options = sounds(24), dict(batch_size=4, lr=1e-2, progress=False, steps=12)
    varied = dict(dropout=0.2, augment=hs.audio.Augment(speed=0.1, noise=(5, 30), bands=3, steps=4))
    whole, parts = small(**varied), small(**varied)
    hs.fit(whole, *data, **options)

    class Stop:
        def on_step_end(self, run, number):
            return number == 5

    hs.fit(parts, *data, checkpoint=tmp_path / "run", checkpoint_every=5, **options, callbacks=[Stop()])
    assert not torch.equal(whole.recurrent.readout.weight, parts.recurrent.readout.weight)
    hs.fit(parts, *data, checkpoint=tmp_path / "run", resume=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_validation_reports_error_rates():
    run = hs.fit(small(), *sounds(16), steps=4, batch_size=4, validation=0.25, validate_every=2, progress=False)
    assert len(run.history["val_error_rate"]) == len(run.history["val_loss"]) == 2


def test_weights_of_utterances_are_repetitions():
    waves, texts = sounds(4)
    model = small().double()
    weighted = hs.gradient(model, waves, texts, sample_weight=[1, 2, 1, 1])
    repeated = hs.gradient(model, [*waves, waves[1]], [*texts, texts[1]])
    for name, value in weighted.items():
        torch.testing.assert_close(value, repeated[name])


@pytest.mark.parametrize("transcripts", [
    ["ab", "c"], [["a", "b"], ["c"]], [[0, 1], [2]], [torch.tensor([0, 1]), torch.tensor([2])],
    [np.array(["a", "b"]), np.array(["c"])],
])  # fmt: skip
def test_transcripts_in_any_form(transcripts):
    model, (waves, _) = small(), sounds(2)
    assert hs.evaluate(model, waves, transcripts) == hs.evaluate(model, waves, ["ab", "c"])


def test_names_longer_than_a_character_stand_between_spaces():
    model = hs.models.Transcriber(["do", "re", "mi"], LogMel(RATE, 12, 32, 16), hidden=8)
    waves, _ = sounds(2)
    assert hs.evaluate(model, waves, ["do re", "mi"]) == hs.evaluate(model, waves, [["do", "re"], ["mi"]])
    assert set(" ".join(model.transcribe(waves)).split()) <= {"do", "re", "mi"}


def test_word_error_rate_where_there_are_spaces():
    model = hs.models.Transcriber("ab ", LogMel(RATE, 12, 32, 16), hidden=8)
    waves, _ = sounds(2)
    figures = hs.evaluate(model, waves, ["a b", "ab"])
    assert figures["word_error_rate"] == model.error_rate(waves, ["a b", "ab"], unit="word")


def test_names_keep_their_spaces_while_the_model_listens():
    model = hs.models.Transcriber(["do", "re", "mi"], LogMel(RATE, 12, 32, 16), hidden=8)
    with torch.no_grad():
        model.recurrent.readout.weight.mul_(30)  # so that many labels are named
    wave = torch.cat(sounds(4)[0])
    where, text = None, ""
    for chunk in wave.split(500):
        heard, where = model.listen(chunk, where)
        text += heard.text
    text += model.listen(wave[:0], where, end=True)[0].text
    assert text == model.transcribe([wave])[0] and len(text.split()) > 2


def test_utterances_of_weight_zero_count_in_no_figure():
    waves, texts = sounds(6)
    model = small()
    weighted = model.make_source(waves, texts, weight=[1, 0, 1, 1, 0, 1])
    kept = hs.evaluate(model, [waves[i] for i in (0, 2, 3, 5)], [texts[i] for i in (0, 2, 3, 5)])
    with torch.no_grad():
        for size in (1, 2, 6):
            assert model.figures(weighted, size) == pytest.approx(kept, rel=1e-5)
