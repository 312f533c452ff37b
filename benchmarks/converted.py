"""A recogniser of somebody else's shape, trained as it came and converted: the same losses over 200 steps.

    python -m benchmarks.converted [--seeds 100 101 102] [--steps 200]

The shape is that of Deep Speech 2 (Amodei et al. 2015) at small size: two convolutions over time, the first with stride
2, five bidirectional GRU layers with batch normalisation between them, CTC. The data are made here: strings of labels,
each a noisy constant vector for 5 to 9 frames. Weights, batches and optimiser are the same on both sides.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

import hbll_seq as hs

FEATURES, LABELS, HIDDEN = 20, 12, 48


class DeepSpeech(nn.Module):
    """Convolutions, bidirectional GRU layers with batch normalisation, a linear read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(FEATURES, HIDDEN, 11, stride=2, padding=5), nn.BatchNorm1d(HIDDEN), nn.Hardtanh(0, 20),
            nn.Conv1d(HIDDEN, HIDDEN, 11, padding=5), nn.BatchNorm1d(HIDDEN), nn.Hardtanh(0, 20),
        )  # fmt: skip
        widths = [HIDDEN, *[2 * HIDDEN] * 4]
        self.layers = nn.ModuleList(nn.GRU(w, HIDDEN, batch_first=True, bidirectional=True) for w in widths)
        self.norms = nn.ModuleList(nn.BatchNorm1d(2 * HIDDEN) for _ in range(4))
        self.head = nn.Linear(2 * HIDDEN, LABELS + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities `(B, T / 2, labels + 1)` of frames `(B, T, FEATURES)`."""
        h = self.front(x.transpose(1, 2)).transpose(1, 2)
        for i, layer in enumerate(self.layers):
            h = layer(h)[0]
            if i < len(self.norms):
                h = self.norms[i](h.transpose(1, 2)).transpose(1, 2)
        return torch.log_softmax(self.head(h), -1)


def batch(seed: int, step: int, prototypes: Tensor, size: int = 8) -> tuple[Tensor, Tensor]:
    """Make frames `(size, 200, FEATURES)` and labels `(size, 20)`."""
    g = torch.Generator().manual_seed(1_000_003 * seed + step)
    labels = torch.randint(1, LABELS + 1, (size, 20), generator=g)
    lasts = torch.randint(5, 10, (size, 20), generator=g)
    rows = [prototypes[row].repeat_interleave(last, 0) for row, last in zip(labels, lasts, strict=True)]
    frames = nn.utils.rnn.pad_sequence([row[:200] for row in rows], batch_first=True)
    frames = nn.functional.pad(frames, (0, 0, 0, 200 - frames.shape[1]))
    return frames + 0.7 * torch.randn(frames.shape, generator=g), labels


def train(seed: int, steps: int, converted: bool) -> tuple[list[float], float]:
    """Return the losses of all steps, and the median milliseconds of a step."""
    torch.manual_seed(seed)
    model, prototypes = DeepSpeech(), torch.randn(LABELS + 1, FEATURES)
    if converted:
        hs.convert(model, verbose=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses, times = [], []
    for step in range(steps):
        x, y = batch(seed, step, prototypes)
        start = time.perf_counter()
        scores = model(x).transpose(0, 1)
        sizes = torch.full((len(x),), len(scores)), torch.full((len(x),), y.shape[1])
        loss = nn.functional.ctc_loss(scores, y, *sizes)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        times.append(1e3 * (time.perf_counter() - start))
        losses.append(float(loss.detach()))
    return losses, statistics.median(times)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; loss after 1, 25, 50, 100, 150, 200 steps; ms a step")
    for seed in args.seeds:
        found = {name: train(seed, args.steps, name == "converted") for name in ("PyTorch", "converted")}
        for name, (losses, ms) in found.items():
            at = [losses[i] for i in (0, 24, 49, 99, 149, 199) if i < len(losses)]
            print(f"seed {seed} {name:10} {' '.join(f'{one:.4f}' for one in at)}  {ms:7.1f} ms", flush=True)
        (theirs, _), (ours, _) = found.values()
        gap = [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]
        print(f"seed {seed} relative difference of losses: median {statistics.median(gap):.1e}, most {max(gap):.1e}")


if __name__ == "__main__":
    main()
