"""Front ends, files, listening in chunks, tones."""

import builtins
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

import hbll_seq as hs
from hbll_seq import audio

FRONTS = [audio.Frames(16), audio.LogMel(8000, mels=20)]
LISTENERS = [
    hs.models.AudioTagger(3, front, hidden=8, timescale=20.0).eval()
    for front in (*FRONTS, audio.LogMel(1000, mels=4, window=30, hop=20))
]


def wave(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=4), kind=st.integers(0, 1))
def test_no_sample_is_lost_and_padding_changes_nothing(sizes, kind):
    front = FRONTS[kind]
    waves = [wave(n, seed=n) for n in sizes]
    x, lengths = front(waves)
    for row, one in enumerate(waves):
        assert (int(lengths[row]) - 1) * front.hop + front.window >= len(one)
        alone, count = front([one])
        torch.testing.assert_close(x[row, : lengths[row]], alone[0])
        assert int(count[0]) == int(lengths[row]) and not x[row, lengths[row] :].any()


@pytest.mark.parametrize("front", FRONTS, ids=["frames", "logmel"])
@pytest.mark.parametrize("chunk", [1, 37, 400, 5000])
def test_listening_in_chunks_is_the_batch(front, chunk):
    model = hs.models.AudioTagger(3, front, hidden=8, timescale=20.0).eval()
    whole = wave(2000)
    with torch.no_grad():
        want = model(front.steps(whole)[None])[0]
    where, heard = None, []
    for piece in whole.split(chunk):
        logits, where = model.listen(piece, where)
        heard.append(logits)
        assert len(where.waiting) < front.window
    torch.testing.assert_close(torch.cat(heard), want, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(samples=st.integers(1, 700), chunk=st.integers(1, 800), kind=st.integers(0, 2), apart=st.booleans())
def test_a_sound_that_ends_is_heard_to_its_end(samples, chunk, kind, apart):
    """Whole time steps are those of `prepare`, whether the end comes with the last samples or after them."""
    model = LISTENERS[kind]
    front = model.front
    whole, waiting, steps = wave(samples), None, []
    for piece in whole.split(chunk):
        found, waiting = front.stream(piece, waiting)
        steps += [found]
    steps.append(front.flush(waiting, sum(map(len, steps))))
    x, lengths = front([whole])
    assert sum(map(len, steps)) == int(lengths)
    torch.testing.assert_close(torch.cat(steps), x[0], rtol=1e-4, atol=1e-4)
    where, heard = None, []
    pieces = [*whole.split(chunk), torch.zeros(0)] if apart else whole.split(chunk)
    for i, piece in enumerate(pieces):
        logits, where = model.listen(piece, where, end=i == len(pieces) - 1)
        heard.append(logits)
    assert len(where.waiting) == 0
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(heard), model(x)[0], rtol=1e-4, atol=1e-5)


def test_a_chunk_goes_through_a_layer_in_one_call(monkeypatch):
    model, calls = hs.models.AudioTagger(3, FRONTS[0], hidden=8, layers=2, timescale=20.0), []
    kind, inner = type(model.cells[0]), type(model.cells[0]).deployed
    monkeypatch.setattr(kind, "deployed", lambda self, x, state: calls.append(x.shape[1]) or inner(self, x, state))
    where, steps = None, []
    for piece in wave(2000).split(900):
        logits, where = model.listen(piece, where)
        steps += [len(logits)] * 2
    assert calls == steps and min(steps) > 1 and not logits.requires_grad


def test_a_saved_listener_comes_back_with_its_front(tmp_path):
    model = hs.models.AudioClassifier(3, audio.LogMel(8000, mels=20), hidden=8, timescale=20.0)
    hs.save(model, tmp_path / "m")
    other = hs.load(tmp_path / "m")
    x, lengths = model.prepare([wave(900), wave(500)])
    again, _ = other.prepare([wave(900), wave(500)])
    assert isinstance(other, hs.models.AudioClassifier)
    torch.testing.assert_close(other(again, lengths), model(x, lengths))


@pytest.mark.parametrize(
    "bad", [torch.zeros(0), torch.zeros(2, 8), torch.tensor([0.0, float("nan")])], ids=["empty", "stereo", "nan"]
)
def test_bad_waves_are_named(bad):
    with pytest.raises(hs.InputError, match=r"waves\[1\]"):
        audio.Frames(4)([wave(9), bad])


def test_tones_hide_their_cue_in_the_noise_where_they_say():
    data = hs.datasets.load("tones", n=64, noise=0.0, seed=3)
    loud = data.x[:, : data.x.shape[1] // 2].square().sum(-1).argmax(1)
    assert ((loud - data.cause).abs() <= 12).all()  # inside the 40 ms of the cue: 20 steps
    again = hs.datasets.load("tones", n=64, noise=0.0, seed=3)
    assert torch.equal(data.x, again.x) and set(data.y.tolist()) == {0, 1, 2, 3}
    with pytest.raises(hs.InputError, match="pitches"):
        hs.datasets.load("tones", pitches=9)


@pytest.fixture(params=["soundfile", "scipy"])
def reader(request, monkeypatch):
    """Both ways of reading."""
    if request.param == "soundfile":
        pytest.importorskip("soundfile")
        return request.param
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "soundfile":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    return request.param


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_widths_channels_and_rates(reader, tmp_path, kind):
    x = np.sin(np.arange(44100) * 2 * np.pi * 440 / 44100) * 0.5
    whole = {np.uint8: x * 127 + 128, np.int16: x * 32767, np.int32: x * (2**31 - 1), np.float32: x}[kind].astype(kind)
    wavfile.write(tmp_path / "a.wav", 44100, np.stack([whole, whole], 1))
    got, rate = audio.read(tmp_path / "a.wav")
    assert rate == 44100 and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), x, atol=0.02 if kind is np.uint8 else 1e-4)
    slow, rate = audio.read(tmp_path / "a.wav", 8000)
    assert rate == 8000 and len(slow) == 8000
    assert float(slow[1000:7000].abs().max()) == pytest.approx(0.5, abs=0.02)


def test_24_bits(reader, tmp_path):
    samples = [0, 2**22, -(2**22)]
    data = b"".join(struct.pack("<i", s)[:3] for s in samples)
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 9, b"WAVE", b"fmt ", 16, 1, 1, 8000, 24000, 3, 24, b"data", 9
    )
    (tmp_path / "a.wav").write_bytes(head + data + b"\0")
    got, _ = audio.read(tmp_path / "a.wav")
    np.testing.assert_allclose(got.numpy(), [0, 0.5, -0.5], atol=1e-6)


def test_one_sample_and_silence_are_fine(reader, tmp_path):
    for name, x in (("one", [100]), ("silent", [0] * 50)):
        wavfile.write(tmp_path / f"{name}.wav", 8000, np.array(x, np.int16))
        assert len(audio.read(tmp_path / f"{name}.wav")[0]) == len(x)


def test_bad_files_are_named_all_of_them(reader, tmp_path):
    for label in ("no", "yes"):
        (tmp_path / label).mkdir()
        wavfile.write(tmp_path / label / "good.wav", 8000, np.ones(50, np.int16))
    waves, labels, names = audio.read_folder(tmp_path, 8000)
    assert len(waves) == 2 and labels.tolist() == [0, 1] and names == ["no", "yes"]
    (tmp_path / "no" / "text.wav").write_text("not sound")
    wavfile.write(tmp_path / "yes" / "empty.wav", 8000, np.zeros(0, np.int16))
    wavfile.write(tmp_path / "yes" / "nan.wav", 8000, np.array([0, np.nan], np.float32))
    with pytest.raises(hs.InputError) as error:
        audio.read_folder(tmp_path, 8000, strict=True)
    assert all(name in str(error.value) for name in ("text.wav", "empty.wav", "nan.wav", "3 unreadable"))
    with pytest.raises(hs.InputError, match="no such file"):
        audio.read(tmp_path / "absent.wav")


def test_what_is_written_is_read(tmp_path):
    audio.write(tmp_path / "a.wav", wave(500), 8000)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], wave(500), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 4), t=st.integers(1, 30), d=st.integers(2, 9), masks=st.integers(0, 2), seed=st.integers(0, 99))
def test_spec_augment_hides_runs_and_nothing_else(n, t, d, masks, seed):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, t + 1, (n,), generator=g)
    x = 1 + torch.rand(n, t, d, generator=g)
    x[torch.arange(t) >= lengths[:, None]] = 0
    before = torch.get_rng_state()
    got = audio.spec_augment(x, lengths, bands=min(2, d - 1), steps=min(5, t), masks=masks, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(
        got, audio.spec_augment(x, lengths, bands=min(2, d - 1), steps=min(5, t), masks=masks, seed=seed)
    )
    for one, other, m in zip(x, got, lengths.tolist(), strict=True):
        hidden = (one[:m] != 0) & (other[:m] == 0)
        bands, spans = hidden.all(0), hidden.all(1)
        assert torch.equal(hidden, bands[None] | spans[:, None])  # whole bands and whole spans
        assert bands.sum() <= 2 * masks and spans.sum() <= min(5, m // 4) * masks
        assert torch.equal(other[:m][~hidden], one[:m][~hidden]) and not other[m:].any()


def test_varied_copies_are_repeatable_and_as_long_as_their_speed():
    waves = [wave(400), wave(1, seed=1), wave(901, seed=2)]
    before = torch.get_rng_state()
    one, two = (audio.vary(waves, copies=3, speed=0.2, seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(one) == 9 and all(torch.equal(p, q) for p, q in zip(one, two, strict=True))
    for i, copy in enumerate(one):  # speed 0.2
        size = len(waves[i % 3])
        assert size / 1.23 - 1 <= len(copy) <= size * 1.23 + 1 and copy.isfinite().all()
    for p, q in zip(audio.vary(waves, speed=0.0, colour=0.0), waves, strict=True):
        torch.testing.assert_close(p, q)
    with pytest.raises(hs.InputError, match=r"waves\[1\]"):
        audio.vary([wave(4), wave(0)])
    with pytest.raises(hs.InputError, match="colour: got -1"):
        audio.vary(waves, colour=-1)


def test_colour_changes_the_spectrum_smoothly():
    x = wave(8000)
    (copy,) = audio.vary([x], speed=0.0, colour=1.0, seed=1)
    gain = torch.fft.rfft(copy).abs() / torch.fft.rfft(x).abs()
    assert float(gain.std()) > 0.1 and float((gain[1:] / gain[:-1]).log().abs().max()) < 0.05


@pytest.mark.parametrize("cut", [1, 30])
def test_a_file_that_ends_too_early_is_refused(reader, tmp_path, cut):
    wavfile.write(tmp_path / "a.wav", 8000, np.ones(100, np.int16))
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:-cut])
    with pytest.raises(hs.InputError, match=f"cut off: {200 - cut} of 200 bytes"):
        audio.read(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(whole[:30])  # in the header
    with pytest.raises(hs.InputError, match="cut off before its sound"):
        audio.read(tmp_path / "a.wav")


def test_clipped_sound_is_read_as_it_is(reader, tmp_path):
    x = np.clip(np.sin(np.arange(200) / 5) * 60000, -32768, 32767).astype(np.int16)
    wavfile.write(tmp_path / "a.wav", 8000, x)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0].numpy(), x / 32768, atol=1e-6)


@pytest.mark.parametrize("front", [hs.audio.Frames(16), hs.audio.LogMel(8000, 12)], ids=["frames", "mel"])
def test_a_front_end_keeps_no_memory_of_the_caller_s(front):
    chunk = torch.arange(500.0)
    steps, waiting = front.stream(chunk, None)
    before = steps.clone(), waiting.clone()
    chunk.zero_()  # a sound card's buffer
    assert torch.equal(steps, before[0]) and torch.equal(waiting, before[1])
