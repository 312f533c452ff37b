"""A run that is killed at random moments and resumed ends with the weights of one that was never stopped."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

import hbll_seq as hs

RUN = """
import sys, torch, hbll_seq as hs
torch.set_num_threads(1)
x = torch.randint(0, 5, (40, 60), generator=torch.Generator().manual_seed(0))
net = hs.models.SequenceModel(5, 5, hidden=8, task="next", timescale=20.0)
print("begun", flush=True)
slow = type("Slow", (), {"on_step_end": staticmethod(lambda run, step: __import__("time").sleep(0.004))})()
hs.fit(net, x, steps=60, batch_size=4, block_size=8, seed=3, progress=False, checkpoint=sys.argv[1], checkpoint_every=1,
       resume=True, callbacks=[slow])
hs.save(net, sys.argv[2])
"""


def killed_and_resumed(folder, kills, seed):
    """Start the run until it ends, killing it the first `kills` times some moments after its first update."""
    state, done = random.Random(seed), 0
    while True:
        run = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder / "run"), str(folder / "model")], stdout=subprocess.PIPE, text=True
        )
        assert run.stdout is not None and run.stdout.readline() == "begun\n"
        if done < kills:
            time.sleep(state.uniform(0.0, 0.25))
            run.send_signal(signal.SIGKILL)
            done += run.wait(60) == -signal.SIGKILL
        else:
            assert run.wait(300) == 0
        run.stdout.close()
        if (folder / "model").exists():
            return done


def check(tmp_path, kills, seed):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    killed_and_resumed(tmp_path / "whole", 0, seed)
    done = killed_and_resumed(tmp_path / "cut", kills, seed)
    one, other = (hs.load(tmp_path / name / "model").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    print(f"{done} kills; the same weights")


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_ends_as_if_never_stopped(tmp_path):
    check(tmp_path, 2, seed=0)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_run_killed_many_times_ends_as_if_never_stopped(tmp_path):
    check(tmp_path, 40, seed=1)
