"""How far one training step is from bare matrix products: `python -m benchmarks.bound [--threads 2] [--cell gru]`.

The bound of a shape (B, T, d) is the time `torch.mm` takes for the products of one forward and one backward pass, each as
one product over all B*T steps, with nothing between them:

    recurrent: (B*T, d) x (d, G d) forward; (B*T, G d) x (G d, d) backward; (G d, B*T) x (B*T, d) for its weights
    read-out: (B*T, d) x (d, V) forward; (B*T, V) x (V, d) backward; (V, B*T) x (B*T, d) for its weights

with G = 3 gates (an LSTM: 4) and V = 64 symbols. The input projection is a row of a table here as in the step, which is no
product. No sequence can be rolled like that, step t needs step t - 1: it is a bound, not a rival. Beside it the whole
training step (`hbll_seq.step` of a `CharLM`: rule, read-out, loss, update) with one block that spans the sequence, and the
same with PyTorch's own layer and autograd; all alternate within one process, float32, medians of `--repeats` after two.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import rivals

SHAPES = ["8,4096,128", "32,1024,128", "32,1024,256", "64,256,256"]


def measure(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each side, alternating."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(repeats + 2):
        for name, one in sides.items():
            start = time.perf_counter()
            one()
            if i >= 2:
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(line) for name, line in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="B,T,d")
    parser.add_argument("--cell", default="gru", choices=["gru", "lstm"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    print(f"{a.cell}, {a.threads} threads, torch {torch.__version__}, medians of {a.repeats}, alternating")
    print("| B, T, d | products ms | one call ms | nn ms | one call / products | nn / one call |")
    print("|---|---|---|---|---|---|")
    for shape in a.shapes:
        b, t, d = (int(s) for s in shape.split(","))
        batch = rivals.data(b, t)
        sides = {
            "products": rivals.make("products", batch, d, a.cell),
            "step": rivals.make("bptt", batch, d, a.cell),
            "nn": rivals.make("nn", batch, d, a.cell),
        }
        ms = measure(sides, a.repeats)
        ratios = f"{ms['step'] / ms['products']:.2f} | {ms['nn'] / ms['step']:.2f}"
        print(f"| {b}, {t}, {d} | " + " | ".join(f"{v:.1f}" for v in ms.values()) + f" | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
