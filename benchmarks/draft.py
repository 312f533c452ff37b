"""Draft-and-verify generation: time against the full path's own greedy generation, same text.

    python -m benchmarks.draft --steps 800 --hidden 64 --layers 8 --length 200

Trains a GPT by hbll on tiny Shakespeare (`HBLL_SEQ_DATA`), then alternates the two ways of writing, five times each for
every draft path and number of symbols ahead, from four prompts; medians of the ratio.
"""

import argparse
import statistics
import time

import torch

import hbll_seq as hs
from hbll_seq.models import GPT


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=800)
    p.add_argument("--hidden", type=int, default=64)
    p.add_argument("--layers", type=int, default=8)
    p.add_argument("--length", type=int, default=200)
    p.add_argument("--context", type=int, default=256)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    text = hs.datasets.load("tinyshakespeare")
    model = GPT(text.vocab_size, context=a.context, hidden=a.hidden, heads=4, layers=a.layers, symbols=text.symbols)
    settings = dict(steps=a.steps, batch_size=4, lr=2e-3, warmup=a.steps // 10, progress=False)
    hs.fit(model, text.train, rule="hbll", paths="any", **settings)
    model.eval()
    print(
        {
            c.nodes: round(c.loss, 4)
            for c in hs.evaluate_paths(model, text.valid[:20000], which=["full", "short", "first"])
        }
    )
    prompts = [text.valid[i : i + 32].long() for i in (0, 5000, 10000, 15000)]
    print("| draft | ahead | accepted % | symbols a call | speed-up (min..max) |")
    print("|---|---|---|---|---|")
    for draft in ("first", "short"):
        for ahead in (1, 2, 4, 8):
            ratios, results = [], []
            for k in range(5):
                prompt = prompts[k % len(prompts)]
                start = time.perf_counter()
                plain = model.generate(prompt, a.length, temperature=0)
                middle = time.perf_counter()
                one = hs.draft_and_verify(model, prompt, a.length, draft=draft, ahead=ahead)
                ratios.append((middle - start) / (time.perf_counter() - middle))
                assert torch.equal(one.text, plain), "the text must be the full path's own"
                results.append(one)
            accepted = sum(r.accepted for r in results) / sum(r.proposed for r in results)
            print(
                f"| {draft} | {ahead} | {100 * accepted:.0f} | {a.length * 5 / sum(r.calls for r in results):.2f} "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
