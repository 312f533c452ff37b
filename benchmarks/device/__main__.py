"""`python -m benchmarks.device`: check and measure everything on a machine with a GPU, in stages, JSON on disk as it goes.

    python -m benchmarks.device --list               # stages, seconds, jobs
    python -m benchmarks.device                      # all of them; --stage NAME for one
    python -m benchmarks.device --report             # tables of what the file holds
    python -m benchmarks.device --dry                # tiny shapes on a CPU: does every job run?

Lines go to benchmarks/out/device.jsonl, or device.jsonl in `--out DIR`. `--budget` gives every stage so many seconds,
`--total` all of them together. It is looked at between two measurements, and a minute later a stage is ended wherever
it is. See `benchmarks.device`.
"""

import argparse
import os
import pathlib
import secrets
import time

import torch

from benchmarks.device import dry, report, supervise, where
from benchmarks.device.jobs import Clock, run_jobs
from benchmarks.device.lines import Lines, read
from benchmarks.device.stages import STAGES

OUT = pathlib.Path(__file__).parent.parent / "out"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--stage", choices=["all", *STAGES], default="all")
    p.add_argument("--budget", type=float, help="seconds a stage; the default differs by stage, see --list")
    p.add_argument("--total", type=float, help="seconds for all stages, shared out in proportion to their defaults")
    p.add_argument("--out", type=pathlib.Path, default=OUT, metavar="DIR")
    p.add_argument("--list", action="store_true")
    p.add_argument("--report", action="store_true")
    p.add_argument("--dry", action="store_true", help="tiny shapes on the CPU, Triton by its interpreter")
    p.add_argument(
        "--matmul", choices=["tf32", "ieee"], default="tf32", help="float32 products where speed is measured"
    )
    p.add_argument("--commit", default=where.commit(), help="for lines of a copy that is no checkout")
    p.add_argument("--run", default=secrets.token_hex(4), help=argparse.SUPPRESS)
    p.add_argument("--inside", type=int, metavar="JOB", help=argparse.SUPPRESS)  # a stage's own process, from a job on
    return p.parse_args(given)


def target(a: argparse.Namespace, stage: str) -> tuple[torch.device, str | None]:
    """The device, and why a stage cannot run here, if so."""
    if a.dry or stage == "cpu-threads":
        return torch.device("cpu"), None
    return torch.device("cuda"), None if torch.cuda.is_available() else "no CUDA device; --dry runs tiny shapes without"


def budget(a: argparse.Namespace, stage: str) -> float:
    """Seconds that a stage gets."""
    share = (a.total or 0.0) * STAGES[stage].budget / sum(one.budget for one in STAGES.values())
    return a.budget or share or STAGES[stage].budget


def matmul(a: argparse.Namespace, stage: str) -> str:
    """How float32 is multiplied: "tf32" is allowed to everyone, cuDNN too, or "ieee" is asked of all."""
    return STAGES[stage].matmul or a.matmul


def products(how: str) -> None:
    """Set that for this process."""
    torch.set_float32_matmul_precision("high" if how == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = how == "tf32"


def writer(a: argparse.Namespace, stage: str, device: str) -> Lines:
    """Where a stage's lines go."""
    common = dict(
        run=a.run,
        stage=stage,
        dry=a.dry,
        commit=a.commit,
        matmul=matmul(a, stage),
        time=time.strftime("%Y-%m-%d %H:%M"),
    )
    return Lines(a.out / "device.jsonl", **common, **where.facts(device))


def inside(a: argparse.Namespace) -> int:
    """A stage in its own process."""
    device, _ = target(a, a.stage)
    products(matmul(a, a.stage))
    jobs = STAGES[a.stage].jobs(device, a.dry)
    return run_jobs(jobs, writer(a, a.stage, device.type), Clock(a.budget), a.inside)


def outside(a: argparse.Namespace, stage: str) -> None:
    """Start a stage, and again behind every job that kills it."""
    device, why = target(a, stage)
    lines, seconds = writer(a, stage, device.type if why is None else "cpu"), budget(a, stage)
    print(f"{stage} ({seconds:.0f} s, {lines.common['device']})", flush=True)
    if why is not None:
        lines.write(event="skipped", why=why)
        print(f"  skipped: {why}", flush=True)
        return

    def command(job: int, left: float) -> list[str]:
        options = ["--stage", stage, "--budget", left, "--out", a.out, "--matmul", a.matmul, "--run", a.run]
        options += ["--inside", job, *(["--dry"] if a.dry else []), *(["--commit", a.commit] if a.commit else [])]
        return supervise.python("benchmarks.device", *options)

    done = supervise.supervise(command, lines, seconds)
    lines.write(event="end" if done else "ended early")


def show(a: argparse.Namespace) -> None:
    """`--list`."""
    for name, stage in STAGES.items():
        device, _ = target(a, name)
        jobs = stage.jobs(device, a.dry)
        print(f"{name:12} {budget(a, name):4.0f} s, {len(jobs):3} jobs: {stage.what}")


def main(given: list[str] | None = None) -> int:
    """The command line's status."""
    a = arguments(given)
    if a.dry:
        os.environ.update(dry.environment())
    if a.inside is not None:
        return inside(a)
    if a.list:
        show(a)
    elif a.report:
        print(report.markdown(list(read(a.out / "device.jsonl"))))
    else:
        for stage in STAGES if a.stage == "all" else [a.stage]:
            outside(a, stage)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
