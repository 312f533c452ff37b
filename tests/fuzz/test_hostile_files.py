"""Files made to mislead, with fitting checksums: refused in one sentence, or harmless; and they take no memory."""

import json
import pathlib
import subprocess
import sys

import pytest


def hostile(count: int, seed: int) -> None:
    """In a process of its own, whose memory is this test's alone."""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.hostile", str(count), str(seed)], cwd=root, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{count + 1} hostile files: {result}")
    assert set(result["found"]) == {"refused", "harmless"}
    assert result["found"]["refused"] > count / 2 and sum(result["found"].values()) == count + 1
    assert result["grown_mb"] < 200


def test_hostile_files():
    hostile(300, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_hostile_files(seed):
    hostile(2000, seed)
