"""Set-ups that cost time, or that several files share: trained models, folders of recordings, a server for downloads.

A plugin (`conftest.py` names it), so a test gets them by their names. Nothing here is run for a test that does not ask.
"""

import io
import os
import subprocess
import sys
import urllib.error
import wave
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch

import hbll_seq as hs

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


@pytest.fixture(scope="session")
def short_run() -> hs.History:
    """Four steps of training, with validation and gradient cosines."""
    model = hs.models.CharLM(6, hidden=6)
    return hs.fit(model, torch.arange(300) % 6, steps=4, validation=0.2, progress=False, measure_cosine=2)


@pytest.fixture(scope="session")
def attributions() -> dict[str, object]:
    """Credit of every kind, a lag map and the costs of paths, of untrained models."""
    lm, net = hs.models.CharLM(6, hidden=8), hs.models.MLP(4, 2, hidden=6, layers=7)
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 6, (2, 50), generator=g)
    return {
        **{kind: hs.credit(lm, x, kind=kind, block_size=8) for kind in ("knockout", "posterior", "gradient")},
        "lag": hs.lag_map(lm, x, block_size=8),
        "depth": hs.credit(net, torch.randn(3, 4, generator=g), torch.zeros(3).long()),
        "paths": hs.evaluate_paths(net, torch.randn(30, 4, generator=g), torch.arange(30) % 2),
    }


STAGES = """
import sys
from benchmarks.device.__main__ import main
for stage in sys.argv[2:]:
    assert main(["--dry", "--inside", "0", "--budget", "300", "--run", "r", "--out", sys.argv[1], "--stage", stage]) == 0
"""


@pytest.fixture(scope="session")
def dry_run(tmp_path_factory) -> dict[str, list[dict[str, object]]]:
    """Lines of a dry run of all stages of `benchmarks.device`, by stage, in two processes at a time (half a minute)."""
    from benchmarks.device import stages
    from benchmarks.device.lines import read

    out = tmp_path_factory.mktemp("out")
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    parts = {"one": ["correct"], "two": ["gpu-speed", "profile", "cpu-threads"]}
    running = [
        subprocess.Popen([sys.executable, "-c", STAGES, out / name, *names], env=environment, stdout=subprocess.PIPE)
        for name, names in parts.items()
    ]
    for one in running:
        said = one.communicate(timeout=400)[0].decode()
        assert one.returncode == 0, said
    lines = [line for name in parts for line in read(out / name / "device.jsonl")]
    return {stage: [line for line in lines if line["stage"] == stage] for stage in stages.STAGES}
