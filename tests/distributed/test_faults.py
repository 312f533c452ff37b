"""A rank that dies or does not answer: a named error on the others, and a restarted run that goes on as if nothing was."""

import contextlib
import datetime
import os
import pathlib
import random
import signal
import subprocess
import sys

import killed_run
import pytest
import torch
import torch.distributed as dist
from process_pool import Pool

HERE = pathlib.Path(__file__).parent
SECONDS = 300  # for a run under torchrun, on a busy machine


def silent(group, who: int = 1, parts: int | None = None) -> str:
    """Run a layer on one rank of two alone."""
    import hbll_seq as hs
    from hbll_seq import distributed as hd

    few = dist.new_group([0, 1], timeout=datetime.timedelta(seconds=5))
    if dist.get_rank() == who:
        return "silent"
    try:
        with hd.time_sharded(few, micro_batches=parts):
            hs.nn.GRU(2, 2)(torch.zeros(3, 2))
        return "nothing"
    except hs.LostRankError as error:
        return str(error)


def dying(group) -> str:
    """Die in the backward pass, on rank 1."""
    import hbll_seq as hs
    from hbll_seq import distributed as hd

    with hd.time_sharded():
        out, _ = hs.nn.GRU(2, 2, batch_first=True)(torch.ones(1, 3, 2))
    if dist.get_rank() == 1:
        os._exit(1)
    try:
        out.sum().backward()
        return "nothing"
    except hs.LostRankError as error:
        return str(error)


def test_a_rank_that_does_not_answer_ends_the_call_within_the_timeout():
    pool = Pool(2)
    try:
        found = pool.run(2, silent)
        assert found[0].startswith("rank 0 of 2: another rank failed, or did not answer in time, in a gather of")
        assert found[1] == "silent"
        found = pool.run(2, silent, 0, 2)
        assert found[1].startswith("rank 1 of 2: another rank failed, or did not answer in time, in a receipt of")
        answers = pool.answers(2, dying)
        assert answers[0][0] and "--max-restarts" in answers[0][1]
        assert answers[1] == (False, "it ended with status 1")
    finally:
        pool.kill()


def under_torchrun(folder: pathlib.Path, ranks: int, moment: str) -> tuple[list[torch.Tensor], int]:
    folder.mkdir(exist_ok=True)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "--max-restarts", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(HERE / "killed_run.py"), str(folder), moment,
    ]  # fmt: skip
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    said = folder / "said.txt"  # no pipe: a process that outlives torchrun would hold it open
    with open(said, "wb") as file:
        started = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            status = started.wait(SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)  # torchrun and all that it started
            started.wait(10)
    assert status == 0, f"status {status} (None: longer than {SECONDS} s)\n{said.read_text()[-3000:]}"
    return torch.load(folder / "weights.pt"), int(torch.load(folder / "lives.pt"))


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_run_whose_rank_is_killed_goes_on_from_its_checkpoint(pair: Pool, tmp_path):
    killed, lives = under_torchrun(tmp_path / "killed", 2, "update")
    assert lives == 1
    whole = pair.run(2, killed_run.whole, str(tmp_path))
    assert same(killed, whole[0]) and same(killed, whole[1])


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path):
    draw = random.Random(0)
    whole, _ = under_torchrun(tmp_path / "whole", 3, "never")
    for i in range(20):
        moment = draw.uniform(0.0, 2.0)
        killed, lives = under_torchrun(tmp_path / f"killed{i}", 3, f"{moment:.3f}")
        assert lives == 1 and same(killed, whole), moment  # it was alive to be killed
