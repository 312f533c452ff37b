"""What a whole run spends outside its training steps: `python -m benchmarks.overhead [--steps 2000] [--threads 2]`.

A GRU of 64 units on CPython's own documentation, one window of 1,024 characters a step, validation about ten times on
all of the held-out text, as `fit` does it by default. The time inside `hbll_seq.step` is the run's; the rest is drawing
batches, keeping the last good weights, recording, the bar, and validation, which is shown by itself.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import hbll_seq as hs


def timed(module: Any, name: str, spent: dict[str, float]) -> None:
    """Have a function of a module add its seconds up."""
    inner: Callable[..., Any] = getattr(module, name)

    def outer(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return inner(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    setattr(module, name, outer)


def main() -> None:
    """Print the shares of a run."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    text = hs.datasets.load("pydoc")
    options = dict(batch_size=1, window=1024, progress=False)
    hs.fit(hs.models.CharLM(text.vocab_size, hidden=64), text.train, steps=20, validation=text.valid, **options)
    spent: dict[str, float] = {}
    module = sys.modules["hbll_seq.training.loop"]
    for name in ("step", "evaluate_source"):
        timed(module, name, spent)
    model = hs.models.CharLM(text.vocab_size, hidden=64)
    start = time.perf_counter()
    hs.fit(model, text.train, steps=a.steps, validation=text.valid, **options)
    total = time.perf_counter() - start
    rest = total - sum(spent.values())
    print(f"{a.steps} steps, {a.threads} threads: {total:.2f} s; {1e3 * spent['step'] / a.steps:.2f} ms a step")
    for name, seconds in (("training steps", spent["step"]), ("validation", spent["evaluate_source"]), ("rest", rest)):
        print(f"  {name:15} {seconds:6.2f} s  {100 * seconds / total:5.1f} %")


if __name__ == "__main__":
    main()
