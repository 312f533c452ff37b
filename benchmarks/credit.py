"""Does credit find the cause? `python -m benchmarks.credit`: tasks whose cause is known, small trained models.

Per model and 256 fresh sequences: how often the block with the most credit holds a cause (each kind; the share of blocks
that hold one is chance), Spearman's correlation of the fast with the exact knockout within each sequence, and the
same peaks after every weight tensor has been shuffled. About ten minutes on one thread.
"""

import argparse
import copy
from statistics import mean

import torch
from scipy.stats import spearmanr
from torch import Tensor

import hbll_seq as hs
from hbll_seq.datasets import synthetic

Data = tuple[Tensor, Tensor, Tensor]  # x, y, cause (B, T) bool


def recall(n: int, steps: int, g: torch.Generator) -> Data:
    """Name the first of T symbols."""
    x, y = synthetic.recall(n, steps, 4, g)
    cause = torch.zeros(n, steps, dtype=torch.bool)
    cause[:, 0] = True
    return x, y, cause


def adding(n: int, steps: int, g: torch.Generator) -> Data:
    """Add the two marked numbers."""
    x, y = synthetic.adding(n, steps, g)
    return x, y, x[:, :, 1] > 0


def tones(n: int, steps: int, g: torch.Generator, frame: int = 8, length: int = 4, classes: int = 4) -> Data:
    """A burst of `length` frames of one of `classes` pitches, somewhere in noise; name the pitch. x `(n, T, frame)`."""
    y = torch.randint(classes, (n,), generator=g)
    start = torch.randint(steps - length + 1, (n,), generator=g)
    t = torch.arange(steps * frame)
    frames = torch.arange(steps)
    cause = (frames >= start[:, None]) & (frames < start[:, None] + length)
    phase = torch.rand(n, 1, generator=g)
    wave = torch.sin(6.2832 * ((y[:, None] + 1) * t / (2.5 * frame) + phase)).view(n, steps, frame)
    noise = 0.2 * torch.randn(n, steps, frame, generator=g)
    return noise + wave * cause.unsqueeze(-1), y, cause


TASKS = {  # draw, options of the model, training steps, steps T, block K
    "recall": (recall, dict(input_size=8, output_size=4, timescale=200.0), 400, 128, 8),
    "adding": (adding, dict(input_size=2, output_size=1, input_kind="features", objective="mse", timescale=100.0), 2000, 64, 4),
    "tones": (tones, dict(input_size=8, output_size=4, input_kind="features", timescale=100.0), 600, 64, 4),
}  # fmt: skip


def shuffled(model: hs.models.SequenceModel, seed: int) -> hs.models.SequenceModel:
    """A copy with the entries of every weight tensor permuted."""
    other, g = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.copy_(p.flatten()[torch.randperm(p.numel(), generator=g)].view_as(p))
    return other


def hits(result: hs.Credit, cause: Tensor) -> float:
    """Percentage of peaks on a block that holds a cause."""
    return 100 * float(in_blocks(cause, result.block_size).gather(1, result.peak()[:, None]).float().mean())


def in_blocks(cause: Tensor, block: int) -> Tensor:
    """`(B, T)` bool to `(B, n)`; T a multiple of the block."""
    return cause.view(len(cause), -1, block).any(2)


def rank_correlation(one: Tensor, other: Tensor) -> list[float]:
    """Spearman's correlation of each row."""
    return [float(spearmanr(a, b).statistic) for a, b in zip(one, other, strict=True)]


def measure(task: str, cell: str, rule: str, seed: int, test: int) -> dict[str, float | str]:
    """Train one model and look at its credit."""
    draw, options, updates, steps, block = TASKS[task]
    g = torch.Generator().manual_seed(seed)
    x, y, _ = draw(6000, steps, g)
    model = hs.models.SequenceModel(hidden=32, cell=cell, task="sequence", seed=seed, **options)
    hs.fit(model, x, y, rule=rule, steps=updates, batch_size=32, lr=1e-2, progress=False, seed=seed)
    x, y, cause = draw(test, steps, g)
    figures = hs.evaluate(model, x, y)
    options = dict(block_size=block)
    row: dict[str, float | str] = {
        "task": task, "cell": cell, "rule": rule, "loss": figures["loss"],
        "chance": 100 * float(in_blocks(cause, block).float().mean()),
    }  # fmt: skip
    for how in (None, "mean", "skip", "swap"):  # None: "mean+swap" in batches as large as these
        fast, exact = (hs.credit(model, x, y, withheld=how, exact=e, **options) for e in (False, True))
        name = how or "default"
        row[name], row[f"{name} exact"] = hits(fast, cause), hits(exact, cause)
        row[f"{name} rho"] = mean(rank_correlation(fast.block, exact.block))
    row["posterior"] = hits(hs.credit(model, x, y, kind="posterior", **options), cause)
    row["gradient"] = hits(hs.credit(model, x, y, kind="gradient", **options), cause)
    row["shuffled"] = hits(hs.credit(shuffled(model, seed), x, y, **options), cause)
    return row


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    p.add_argument("--cells", nargs="+", default=["gru", "lstm"])
    p.add_argument("--rules", nargs="+", default=["hbll", "bptt"])
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--test", type=int, default=256)
    a = p.parse_args()
    print(f"{torch.get_num_threads()} threads, {a.test} sequences each; percentages of peaks on a cause\n")
    first = True
    for task in a.tasks:
        for cell in a.cells:
            for rule in a.rules:
                for seed in range(a.seeds):
                    row = measure(task, cell, rule, seed, a.test)
                    if first:
                        print("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
                        first = False
                    print(
                        "| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()) + " |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
