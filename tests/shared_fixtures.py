"""Set-ups that cost time, or that several files share: folders of recordings, a server for downloads.

A plugin (`conftest.py` names it), so a test gets them by their names. Nothing here is run for a test that does not ask.
"""

import io
import os
import urllib.error
import wave
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

DATA = Path(os.environ.get("HBLL_SEQ_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture
def own_folders(monkeypatch, tmp_path) -> None:
    """Neither the machine's data nor its cache is seen."""
    monkeypatch.delenv("HBLL_SEQ_DATA", raising=False)
    monkeypatch.setenv("HBLL_SEQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real_data(own_folders, monkeypatch) -> Callable[[str], Path]:
    """A function from a set's name to its folder on this machine; it skips the test where there is none."""

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"no {name} under {DATA}: set HBLL_SEQ_DATA")
        monkeypatch.setenv("HBLL_SEQ_DATA", str(DATA))
        return DATA / name

    return folder


class Server:
    """Stands in for `urlopen`: honours Range, and can cut a transfer or ignore or refuse a Range."""

    def __init__(self, body, cut=None, ranges=True):
        self.body, self.cut, self.ranges, self.asked = body, cut, ranges, []

    def __call__(self, request, timeout):
        start = int(request.get_header("Range", "bytes=0-")[6:-1])
        self.asked.append(start)
        if start and self.ranges and start >= len(self.body):
            raise urllib.error.HTTPError(request.full_url, 416, "Range Not Satisfiable", Message(), None)
        start = start if self.ranges else 0
        response = io.BytesIO(self.body[start : self.cut])
        response.status = 206 if start else 200
        response.headers = {"Content-Length": str(len(self.body) - start)}
        return response


@pytest.fixture
def serve(monkeypatch):
    """A function that puts a `Server` of some bytes in the place of the network, and returns it."""

    def install(*args, **options) -> Server:
        server = Server(*args, **options)
        monkeypatch.setattr("urllib.request.urlopen", server)
        return server

    return install


def write_wave(file: Path, samples, rate: int = 8000) -> None:
    """Write mono 16-bit PCM."""
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def voices(tmp_path) -> Path:
    """A folder in the layout of fsdd: two speakers, two digits, takes 0 and 5; 10 samples each, one recording silent."""
    for speaker in ("ann", "bob"):
        for digit in (0, 1):
            for take in (0, 5):
                write_wave(tmp_path / f"{digit}_{speaker}_{take}.wav", (digit + 1) * np.arange(-4, 6) * 100)
    write_wave(tmp_path / "0_ann_0.wav", np.zeros(10))
    return tmp_path


@pytest.fixture
def words(tmp_path) -> Path:
    """A folder in the layout of Speech Commands: two words of three recordings, one a part; and noise."""
    root = tmp_path / "words"
    for word in ("yes", "no", "_background_noise_"):
        (root / word).mkdir(parents=True)
        for i, speaker in enumerate(("aa", "bb", "cc")):
            write_wave(root / word / f"{speaker}_nohash_0.wav", np.full(20 + i, 1000), rate=16000)
    (root / "validation_list.txt").write_text("yes/bb_nohash_0.wav\nno/bb_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/cc_nohash_0.wav\nno/cc_nohash_0.wav\n")
    return root
