"""Whether a change of the code's shape changed a result: short seeded runs, compared bit for bit with a record.

    python -m benchmarks.same --record [FILE]    before the change
    python -m benchmarks.same --check [FILE]     after every step of it, on the same machine
    python -m benchmarks.same --check --only memory resume

FILE is `build/same.json` where none is given. Bits hold on one machine, with one build of torch, one number of threads;
a check elsewhere is refused. Cases go through the public names alone, so that moving a file does not touch them.
"""

import argparse
import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hbll_seq as hs

THREADS = 2
FIGURES = (
    "loss", "grad_norm", "lr", "sweeps", "corrections", "inconsistency", "feedback_residual", "fallbacks", "depth",
    "discount", "pull", "schedule", "boundaries", "messages", "gradient_cosine", "block_loss", "deployed_gap",
    "amplification", "val_loss", "val_accuracy",
)  # fmt: skip
Digest = dict[str, str]
CASES: dict[str, Callable[[], Digest]] = {}


def case(run: Callable[[], Digest]) -> Callable[[], Digest]:
    CASES[run.__name__.replace("_", "-")] = run
    return run


def digest(values: Iterable[Tensor]) -> str:
    """Of dtypes, shapes and bits."""
    found = hashlib.sha256()
    for v in values:
        found.update(f"{v.dtype}{tuple(v.shape)}".encode())
        found.update(v.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def of(model: nn.Module, run: hs.History) -> Digest:
    series = {k: hashlib.sha256(repr(v).encode()).hexdigest()[:16] for k, v in run.history.items() if k in FIGURES}
    return {"weights": digest(model.state_dict().values()), **series}


def symbols(cell: Any = "gru", task: str = "next", **options: Any) -> tuple[nn.Module, Tensor, Tensor | None]:
    """A model of 12 symbols and data `(24, 90)`; lengths that no block size divides."""
    g = torch.Generator().manual_seed(3)
    model = hs.models.SequenceModel(12, 12, hidden=16, cell=cell, task=task, seed=1, **options)
    x = torch.randint(0, 12, (24, 90), generator=g)
    return model, x, x[:, 0].clone() if task == "sequence" else None


def features(cell: Any, **options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """Regression of 3 values a step from 5 features."""
    g = torch.Generator().manual_seed(4)
    model = hs.models.SequenceModel(
        5, 3, hidden=16, cell=cell, task="step", objective="mse", input_kind="features", seed=1, **options
    )
    x = torch.randn(24, 90, 5, generator=g)
    return model, x, x[:, :, :3].cumsum(1) / 10


def fitted(model: nn.Module, x: Any, y: Any = None, **options: Any) -> Digest:
    settings: dict[str, Any] = dict(steps=8, batch_size=6, block_size=16, seed=5, progress=False) | options
    if settings["block_size"] is None:
        del settings["block_size"]
    return of(model, hs.fit(model, x, y, **settings))


class Mine(nn.Module):
    """A cell of a user's own."""

    hidden_size = 16

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(7)
        self.w = nn.Parameter(torch.randn(16, 21, generator=g) / 5)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.5 * h + torch.sin(torch.cat((x, h), -1) @ self.w.t())


@case
def hbll_by_execution() -> Digest:
    found: Digest = {}
    for execution in ("auto", "sequential", "exact-forward", "parallel"):
        one = fitted(*symbols(), execution=execution, validation=0.25, record_every=2)
        found |= {f"{execution} {k}": v for k, v in one.items()}
    return found


@case
def cells() -> Digest:
    found: Digest = {}
    for cell in ("gru", "lstm", "elman", "mingru", "own"):
        for execution in ("sequential", "parallel"):
            one = fitted(*features(Mine() if cell == "own" else cell), execution=execution, record_every=4)
            found |= {f"{cell} {execution} {k}": v for k, v in one.items()}
    return found


@case
def cells_in_double() -> Digest:
    found: Digest = {}
    for cell in ("gru", "lstm", "elman", "mingru"):
        model, x, y = features(cell)
        one = fitted(model.double(), x.double(), y.double())
        found |= {f"{cell} {k}": v for k, v in one.items()}
    return found


@case
def stack() -> Digest:
    x, lengths = symbols()[1], torch.arange(67, 91)
    found: Digest = {}
    for execution in ("sequential", "parallel"):
        for cell in ("gru", "lstm"):
            one = fitted(symbols(cell, layers=2)[0], (x, lengths), execution=execution, measure_cosine=4)
            found |= {f"{cell} {execution} {k}": v for k, v in one.items()}
    return found


@case
def one_target() -> Digest:
    x, lengths = symbols()[1], torch.arange(67, 91)
    found: Digest = {}
    for cell in ("gru", "lstm", "elman"):
        for execution in ("sequential", "parallel"):
            model, _, y = symbols(cell, "sequence")
            one = fitted(model, (x, lengths), y, execution=execution, validation=0.25)
            found |= {f"{cell} {execution} {k}": v for k, v in one.items()}
    return found


@case
def memory() -> Digest:
    found: Digest = {}
    for cell in ("gru", "lstm"):
        for execution in ("sequential", "parallel"):
            one = fitted(*symbols(cell), execution=execution, memory="200KB", check_every=2)
            found |= {f"{cell} {execution} {k}": v for k, v in one.items()}
    return found


@case
def other_rules() -> Digest:
    found: Digest = {}
    for rule in ("bptt", "tbptt", "dsf"):
        for cell in ("gru", "lstm", "own"):
            block = 16 if rule == "tbptt" else None
            one = fitted(*features(Mine() if cell == "own" else cell), rule=rule, block_size=block)
            found |= {f"{rule} {cell} {k}": v for k, v in one.items()}
        model, x, y = symbols("gru", "sequence", layers=2)
        one = fitted(model, x, y, rule=rule, block_size=block)
        found |= {f"{rule} stack {k}": v for k, v in one.items()}
    return found


@case
def kernels_of_torch() -> Digest:
    return fitted(*symbols(), rule="bptt", kernels="torch", block_size=None)


@case
def bfloat16() -> Digest:
    return fitted(*symbols(), precision="bf16")


@case
def resume() -> Digest:
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = dict(steps=8, batch_size=6, block_size=16, seed=5, progress=False,
                                        checkpoint=Path(folder) / "run", checkpoint_every=4)  # fmt: skip
        model, x, _ = symbols("lstm")

        def stop(run: hs.History, step: int) -> bool:
            return step == 5

        hs.fit(model, x, callbacks=[type("Stop", (), {"on_step_end": staticmethod(stop)})()], **settings)
        again = symbols("lstm")[0]
        return of(again, hs.fit(again, x, resume=True, **settings))


@case
def published() -> Digest:
    found: Digest = {}
    for task in ("next", "sequence"):
        model, x, y = symbols("gru", task)
        one = fitted(model, x[:, :40], y, rule="hbll-v1", sweeps=2, block_size=None)
        found |= {f"{task} {k}": v for k, v in one.items()}
    return found


def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(6)
    return torch.rand(24, 1, 8, 8, generator=g), torch.randint(0, 4, (24,), generator=g)


@case
def layered() -> Digest:
    found: Digest = {}
    x, y = images()
    text = symbols()[1][:, :16]
    for rule, options in (
        ("hbll", {}), ("hbll", {"sweeps": 2}), ("hbll", {"sweeps": 0, "tree": 0.5}), ("hbll", {"batched": False}),
        ("bp", {}), ("bp-deep", {}),
    ):  # fmt: skip
        for name, model, data in (
            ("mlp", hs.models.MLP((1, 8, 8), 4, hidden=10, layers=8, seed=2), (x, y)),
            ("gpt", hs.models.GPT(12, hidden=16, heads=2, layers=4, context=16, seed=2), (text, None)),
        ):
            paths = {"paths": "any"} if rule == "hbll" else {}  # the default when these were recorded
            one = fitted(model, *data, rule=rule, block_size=None, **paths, **options)
            found |= {f"{rule} {options} {name} {k}": v for k, v in one.items()}
    return found


@case
def algorithm_1() -> Digest:
    """The published rule over depth, with messages and noise; recorded where these options were those of "hbll"."""
    found: Digest = {}
    x, y = images()
    off = {"sweeps": "pipelined", "right": 0.0, "step": 0.0, "noise": 0.0}
    for options in (
        {"right": 0.5},
        {"step": None},
        {"right": 0.2, "step": 0.5, "noise": 0.1},
        {"sweeps": 0, "noise": 0.1},
    ):
        for name, model in (
            ("mlp", hs.models.MLP((1, 8, 8), 4, hidden=10, layers=8, seed=2)),
            ("vit", hs.models.ViT((1, 8, 8), 4, patch=4, hidden=16, heads=2, layers=4, seed=2)),
        ):
            one = fitted(model, x, y, rule="hbll-v1", block_size=None, **(off | options))
            found |= {f"{options} {name} {k}": v for k, v in one.items()}
    return found


@case
def credit() -> Digest:
    model, x, y = symbols("lstm", "sequence")
    fitted(model, x, y, steps=20)
    found: Digest = {}
    for kind in ("knockout", "posterior", "gradient"):
        result = hs.credit(model, x[:9], y[:9], kind=kind, block_size=16)
        found[kind] = digest(result.nodes)
    found["lags"] = digest([hs.lag_map(symbols()[0], x[:9], block_size=16).values])
    net = hs.models.MLP((1, 8, 8), 4, hidden=10, layers=8, seed=2)
    pictures, labels = images()
    for kind in ("knockout", "posterior", "gradient"):
        found[f"depth {kind}"] = digest(hs.credit(net, pictures[:9], labels[:9], kind=kind).nodes)
    return found


@case
def gradients_and_predictions() -> Digest:
    model, x, _ = symbols("gru", layers=2)
    found = {rule: digest(hs.gradient(model, x, rule=rule, progress=0.5).values()) for rule in ("hbll", "bptt", "dsf")}
    found["evaluate"] = repr(hs.evaluate(model, x))
    found["predict"] = digest(hs.predict(model, x[:3]))
    letters = hs.models.CharLM(12, hidden=16, symbols=list("abcdefghijkl"), seed=1)
    found["text"] = letters.generate("abc", 40)
    return found


def machine() -> dict[str, Any]:
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line][:1]
    return {"cpu": cpu, "system": platform.machine(), "torch": torch.__version__, "threads": THREADS}


def differences(was: Digest, now: Digest) -> list[str]:
    changed = [k for k in was if k in now and was[k] != now[k]]
    return changed + [f"{k} (gone)" for k in was if k not in now] + [f"{k} (new)" for k in now if k not in was]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--record", action="store_true")
    which.add_argument("--check", action="store_true")
    parser.add_argument("file", nargs="?", default="build/same.json")
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES))
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    file = Path(asked.file)
    record = {"machine": machine(), "cases": {}} if asked.record else json.loads(file.read_text())
    if record["machine"] != machine():
        raise SystemExit(f"recorded on {record['machine']}, this is {machine()}: bits need not agree")
    bad = 0
    for name in asked.only:
        now = CASES[name]()
        if asked.record:
            record["cases"][name] = now
            print(f"{name}: {len(now)} figures recorded", flush=True)
            continue
        found = differences(record["cases"].get(name, {}), now)
        bad += bool(found)
        print(
            f"{name}: {'same, ' + str(len(now)) + ' figures' if not found else 'DIFFERS: ' + ', '.join(found)}",
            flush=True,
        )
    if asked.record:
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(json.dumps(record, indent=1))
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
