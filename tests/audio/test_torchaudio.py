"""What torchaudio does here: it imports beside any torch, only when sound is used, and its numbers are the formulas'."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

import hbll_seq as hs
from hbll_seq import audio
from hbll_seq.audio.backend import torchaudio
from hbll_seq.audio.resampling import resample

# torch's loader of extensions fails as it does beside a CPU build of torch, or finds one for another CUDA
BESIDE = """
import importlib.util, pathlib, sys, torch
import hbll_seq as hs

def load(path):
    if {kind!r} == "no CUDA":
        raise OSError(f"Could not load this library: {{path}}")

class Ops:
    def __getattr__(self, name):
        return load if name == "load_library" else getattr(ops, name)

ops, torch.ops = torch.ops, Ops()
torch.ops._torchaudio = type("Of", (), {{"cuda_version": lambda self: 13000, "is_align_available": lambda self: True}})()
torch.version.cuda = "13.2"
glob = pathlib.Path.glob  # the extension may have been deleted from this installation
pathlib.Path.glob = lambda self, what: [self / what.replace("*", "")] if "torchaudio" in what else glob(self, what)
try:
    import torchaudio
except {error} as failed:
    print("alone:", failed)
assert not any(name == "torchaudio" for name in sys.modules)

assert hs.audio.edit_distance("abc", "ac") == 1
assert hs.audio.LogMel(8000, mels=20)([torch.randn(900)])[0].shape == (1, 7, 20)
from hbll_seq.audio.backend import torchaudio
assert torchaudio().functional.resample(torch.randn(80), 2, 1).shape == (40,)
try:
    torchaudio().functional.forced_align(torch.zeros(1, 3, 4), torch.zeros(1, 2))
except RuntimeError as failed:
    print("missing:", failed)
"""


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("no CUDA", "OSError", "Could not load this library"),
        ("another CUDA", "RuntimeError", "PyTorch has CUDA version 13.2 whereas TorchAudio has CUDA version 13.0"),
    ],
)
def test_it_imports_where_its_extension_cannot_be_loaded(kind, error, said):
    code = BESIDE.format(kind=kind, error=error)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "alone: " in done.stdout and said in done.stdout
    assert "missing: forced_align needs torchaudio's compiled extension" in done.stdout


def test_without_sound_it_is_never_imported():
    code = """
import sys, torch, hbll_seq as hs
model = hs.models.AudioClassifier(2, hs.audio.Frames(4), hidden=4)
hs.fit(model, model.prepare([torch.randn(40), torch.randn(30)]), [0, 1], rule="bptt", steps=1, progress=False)
hs.audio.error_rate(["ab"], ["b"])
assert "torchaudio" not in sys.modules
hs.audio.mu_law_encode(torch.randn(3))
assert "torchaudio" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_import_that_fails_for_another_reason_is_not_hidden(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    held = sys.modules.get("torchaudio._extension")
    with pytest.raises(ImportError):
        torchaudio.__wrapped__()
    assert sys.modules.get("torchaudio._extension") is held


def mel_filters(bins, mels, rate):
    """Triangles from 0 to rate/2, evenly spaced in 2595 log10(1 + f / 700), by their definition."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    f = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    up = (f[:, None] - edges[None, :-2]) / (edges[1:-1] - edges[:-2])
    down = (edges[None, 2:] - f[:, None]) / (edges[2:] - edges[1:-1])
    return torch.minimum(up, down).clamp(min=0)


def log_mel(x, rate, mels, window, hop):
    pieces = x.double().unfold(0, window, hop) * torch.hann_window(window, dtype=torch.float64)
    return torch.log(torch.fft.rfft(pieces).abs().square() @ mel_filters(window // 2 + 1, mels, rate) + 1e-6)


def wave(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize(
    ("rate", "mels", "window", "hop"), [(8000, 20, 32, 16), (16000, 40, 25, 10), (44100, 64, 40, 40)]
)
def test_front_ends_are_their_formulas(rate, mels, window, hop):
    x = wave(rate)
    want = log_mel(x, rate, mels, rate * window // 1000, rate * hop // 1000)
    front = audio.LogMel(rate, mels, window, hop)
    torch.testing.assert_close(front.steps(x), want.float(), rtol=1e-4, atol=1e-4)
    assert front.steps(x[: front.window - 1]).shape == (0, mels)
    k, m = torch.arange(13), torch.arange(mels)
    cosines = torch.cos(math.pi / mels * (m[:, None] + 0.5) * k).double() * math.sqrt(2 / mels)
    cosines[:, 0] /= math.sqrt(2)
    cepstrum = audio.MFCC(rate, 13, mels, window, hop)
    torch.testing.assert_close(cepstrum.steps(x), (want @ cosines).float(), rtol=1e-4, atol=1e-3)


def test_front_ends_are_torchaudio_s_transforms():
    options = {"n_fft": 256, "hop_length": 128, "n_mels": 20, "center": False}
    transforms = torchaudio().transforms
    mel = transforms.MelSpectrogram(8000, **options)(wave(4000))
    torch.testing.assert_close(audio.LogMel(8000, mels=20).steps(wave(4000)), torch.log(mel.T + 1e-6))
    theirs = transforms.MFCC(8000, n_mfcc=13, log_mels=True, melkwargs=options)(wave(4000))
    torch.testing.assert_close(audio.MFCC(8000, 13, mels=20).steps(wave(4000)), theirs.T, rtol=1e-4, atol=1e-4)


def test_front_ends_that_cannot_be_are_named():
    with pytest.raises(hs.InputError, match="coefficients: got 21"):
        audio.MFCC(8000, coefficients=21, mels=20)
    with pytest.raises(hs.InputError, match="hop: got 40 ms; expected at most the window, 32 ms"):
        audio.LogMel(8000, hop=40)
    with pytest.warns(UserWarning, match="of 80 mel filters hold no frequency of a window of 128 samples: fewer mels"):
        audio.LogMel(8000, mels=80, window=16)


@settings(deadline=None, max_examples=30)
@given(levels=st.integers(2, 70_000), seed=st.integers(0, 99))
def test_mu_law_is_its_formula_and_comes_back(levels, seed):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(levels, (50,), generator=g)
    sound, mu = audio.mu_law_decode(codes, levels), levels - 1
    curve = 2 * codes.double() / mu - 1
    torch.testing.assert_close(sound, (curve.sign() * torch.expm1(curve.abs() * math.log1p(mu)) / mu).float())
    assert torch.equal(audio.mu_law_encode(sound, levels), codes)


def test_resampling_keeps_what_both_rates_can_hold(tmp_path):
    """Within 1 % of the amplitude below 80 % of the lower Nyquist frequency, away from the ends."""
    pitches = (200.0, 1000.0, 3000.0)
    sound = {
        rate: sum(0.2 * torch.sin(2 * torch.pi * f * torch.arange(rate) / rate + f) for f in pitches)
        for rate in (8000, 11025, 44100, 48000)
    }
    for rate, x in sound.items():
        wavfile.write(tmp_path / "a.wav", rate, x.numpy())
        got, found = audio.read(tmp_path / "a.wav", 8000)
        assert found == 8000 and len(got) == 8000
        torch.testing.assert_close(got[200:-200], sound[8000][200:-200], rtol=0, atol=0.006)
    high = 0.5 * torch.sin(2 * torch.pi * 5000 * torch.arange(44100) / 44100)  # above what 8 kHz can hold
    assert float(resample(high, 44100, 8000)[200:-200].abs().max()) < 0.01


def test_rates_without_a_common_divisor_take_no_gigabytes(monkeypatch):
    x = wave(2000)
    near = resample(x, 22050, 8000)
    monkeypatch.setattr("hbll_seq.audio.resampling.torchaudio", None)  # would be called otherwise
    odd = resample(x, 22051, 16001)
    assert len(odd) == math.ceil(2000 * 16001 / 22051) and odd.dtype == x.dtype
    assert len(near) == math.ceil(2000 * 8000 / 22050)
