"""Spoken digits, strings of digits, spoken words: splits, lengths, refusals."""

import hashlib
import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_fixtures import write_wave

from hbll_seq import datasets
from hbll_seq.datasets import DownloadError, speech_commands
from hbll_seq.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")


def test_fsdd_waves_lengths_and_splits(voices):
    by_speaker = datasets.load("fsdd", path=voices, held_out="bob", steps=4, samples_per_step=4)
    assert by_speaker.test_y.tolist() == [0, 1, 0, 1] and by_speaker.test_x.shape == (4, 4, 4)
    assert by_speaker.test_lengths.tolist() == [3] * 4  # 10 samples, 4 a step
    wanted = torch.cat([torch.arange(-4, 6) / 5, torch.zeros(6)])
    torch.testing.assert_close(by_speaker.test_x[1].flatten(), wanted)
    assert not by_speaker.train_x[0].any()  # silence stays silent, and finite
    official = datasets.load("fsdd", path=voices, held_out=None, steps=2, samples_per_step=3, normalise="rms")
    assert len(official.test_y) == 4 and len(official.train_y) == 4
    assert official.train_lengths.tolist() == [2] * 4
    torch.testing.assert_close(official.train_x.pow(2).mean((1, 2)), torch.ones(4))


def test_fsdd_refuses(voices):
    with pytest.raises(InputError, match="'eve'; expected None or one of ann, bob"):
        datasets.load("fsdd", path=voices, held_out="eve")
    with pytest.raises(InputError, match="steps: got 0"):
        datasets.load("fsdd", path=voices, steps=0)
    with pytest.raises(InputError, match="'peak' or 'rms'"):
        datasets.load("fsdd", path=voices, normalise="max")
    write_wave(voices / "3_bob_1.wav", [1, 2], rate=16000)
    with pytest.raises(InputError, match="3_bob_1.wav: 16000 Hz"):
        datasets.load("fsdd", path=voices, held_out="ann")
    (voices / "3_bob_1.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match="3_bob_1.wav .*PCM WAV"):
        datasets.load("fsdd", path=voices, held_out="ann")


def test_fsdd_as_recorded(real_data):
    real_data("fsdd")
    d = datasets.load("fsdd")
    assert d.train_x.shape[1:] == d.test_x.shape[1:] == (512, 8) and d.classes == 10
    assert Counter(d.test_y.tolist()) == dict.fromkeys(range(10), 50)
    assert float(d.train_x.abs().max()) == 1 and int(d.train_lengths.max()) == 512
    after = torch.arange(512) >= d.train_lengths[:, None]  # (n, T)
    assert not d.train_x[after].any()
    official = datasets.load("fsdd", held_out=None, steps=64)
    assert len(official.test_y) == 200 and len(official.train_y) == 1800


def test_fsdd_with_every_speaker_held_out_in_turn(voices):
    folds = datasets.load("fsdd", path=voices, split="leave-one-speaker-out", steps=4, samples_per_step=4)
    assert sorted(folds) == ["ann", "bob"]
    for speaker, fold in folds.items():
        alone = datasets.load("fsdd", path=voices, held_out=speaker, steps=4, samples_per_step=4)
        for part in ("train_x", "train_y", "train_lengths", "test_x", "test_y", "test_lengths"):
            assert torch.equal(getattr(fold, part), getattr(alone, part))
        assert speaker in fold.source
    official = datasets.load("fsdd", path=voices, split="official", steps=4, samples_per_step=4)
    assert len(official.test_y) == 4 and "takes 0-4" in official.source
    with pytest.raises(InputError, match="split: got 'random'"):
        datasets.load("fsdd", path=voices, split="random")


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(digits=st.integers(1, 3), more=st.integers(0, 500), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_digit_strings_begin_with_the_answer(voices, digits, more, width, seed):
    delay = 4096 * (digits - 1) + more
    options = dict(path=voices, digits=digits, delay=delay, samples_per_step=width, n=5, n_test=3, held_out="bob")
    data = datasets.load("digitstrings", noise=0.0, seed=seed, **options)
    again = datasets.load("digitstrings", noise=0.0, seed=seed, **options)
    assert torch.equal(data.train_x, again.train_x) and torch.equal(data.test_y, again.test_y)
    assert data.train_x.shape[2] == width and data.test_x.shape[0] == 3 and data.train_lengths is None
    whole = data.test_x.flatten(1)
    digit = torch.arange(-4, 6) * 1.0  # every recording is this, louder for digit 1, ten samples long
    torch.testing.assert_close(whole[:, :10], (0.2 * digit / digit.square().mean().sqrt()).expand(3, 10))
    assert whole[:, -100:].any(1).all()  # the question
    between = whole[:, 10 : 4096 + delay].abs() > 0
    assert (between.sum(1) <= 10 * (digits - 1) + 40 * width).all()
    assert (data.test_cause == 5 // width).all()


def test_digit_strings_refuse(voices):
    with pytest.raises(InputError, match="delay: got 9600; expected an integer >= 12288, room for 3 digits"):
        datasets.load("digitstrings", path=voices, digits=4, held_out="ann")
    with pytest.raises(InputError, match="'eve'; expected one of ann, bob"):
        datasets.load("digitstrings", path=voices, held_out="eve")
    with pytest.raises(InputError, match="noise: got nan"):
        datasets.load("digitstrings", path=voices, held_out="ann", noise=float("nan"))


def test_speech_commands_parts_and_lengths(words):
    data = datasets.load("speechcommands", path=words)
    assert data.names == ["no", "yes"] and data.rate == 16000
    assert [[len(w) for w in part.waves] for part in data[:3]] == [[20, 20], [21, 21], [22, 22]]
    assert all(part.labels.tolist() == [0, 1] for part in data[:3])
    slow = datasets.load("speechcommands", path=words, words=["yes"], rate=8000)
    assert slow.names == ["yes"] and len(slow.train.waves[0]) == 10
    assert "train 2, validation 2, test 2" in repr(data)


def test_speech_commands_refuse(words, tmp_path):
    with pytest.raises(InputError, match=r"words: got \['maybe'\]; expected some of no, yes"):
        datasets.load("speechcommands", path=words, words=["maybe", "no"])
    with pytest.raises(InputError, match="HBLL_SEQ_DATA not set, and no earlier download.*download=True"):
        datasets.load("speechcommands")
    (words / "no" / "dd_nohash_0.wav").write_text("no sound")
    with pytest.raises(InputError, match="(?s)1 unreadable files.*dd_nohash_0.wav"):
        datasets.load("speechcommands", path=words)
    with pytest.raises(InputError, match="validation_list.txt"):
        datasets.load("speechcommands", path=tmp_path)


def test_speech_commands_download_resumes_and_unpacks(words, serve, monkeypatch, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for file in sorted(words.rglob("*.*")):
            tar.add(file, file.relative_to(words))
    body = packed.getvalue()
    monkeypatch.setattr(speech_commands, "SHA256", hashlib.sha256(body).hexdigest())
    serve(body, cut=len(body) // 2)
    with pytest.raises(DownloadError, match="are kept, and the same call resumes"):
        datasets.load("speechcommands", download=True)
    server = serve(body)
    data = datasets.load("speechcommands", download=True)
    assert server.asked == [len(body) // 2] and len(data.train.waves) == 2
    assert len(datasets.load("speechcommands").train.waves) == 2 and len(server.asked) == 1
    assert not list(Path(os.environ["HBLL_SEQ_CACHE"]).rglob("*.gz*"))


def test_an_archive_that_reaches_outside_leaves_nothing(serve, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside.txt"), io.BytesIO(b""))
    monkeypatch.setattr(speech_commands, "SHA256", hashlib.sha256(packed.getvalue()).hexdigest())
    serve(packed.getvalue())
    with pytest.raises(DownloadError, match="could not unpack"):
        datasets.load("speechcommands", download=True)
    left = [p.name for p in Path(os.environ["HBLL_SEQ_CACHE"]).rglob("*") if p.is_file()]
    assert left == ["speech_commands_v0.02.tar.gz"]
