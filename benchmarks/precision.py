"""What bfloat16 products cost: how far sweeps and corrections get, and how near the gradient is to BPTT's in float32.

    python -m benchmarks.precision [--steps 300] [--cells gru lstm elman own] [--blocks 16 64]

Trains a character model (pydoc, d = 64, batch 8 x 256) by `hbll` in float32, then compares both precisions on one batch that
is held out: untrained, trained, and trained with the recurrent weights doubled. `left` is the inconsistency (and the residual
of the messages) after each of nine sweeps (eight corrections); nothing but rounding is left where it stops falling.
One thread; the numbers do not depend on the machine's speed, and hardly on its kind.
"""

import argparse
import copy

import torch
from torch import Tensor, nn

import hbll_seq as hs
from hbll_seq.data.batch import Batch
from hbll_seq.models import SequenceModel

ROWS, STEPS, WIDTH = 8, 256, 64


class Own(nn.Module):
    """A cell of one's own, its gate in float32 as the documentation asks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.input_size = self.hidden_size = size
        self.gate, self.write = nn.Linear(2 * size, size), nn.Linear(2 * size, size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        both = torch.cat([x, h], 1)
        keep = torch.sigmoid(self.gate(both).float() + 2)
        return keep * h + (1 - keep) * torch.tanh(self.write(both))


def gradient(model: SequenceModel, batch: Batch, rule: hs.Rule) -> Tensor:
    model.zero_grad()
    rule.step(model, batch)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def compare(name: str, model: SequenceModel, batch: Batch, block: int) -> None:
    exact = gradient(model, batch, hs.rules.make("bptt"))
    for precision in ("float32", "bf16"):
        options = dict(block_size=block, precision=precision, check_every=0, discount=1.0)
        auto, far = hs.rules.make("hbll", **options), hs.rules.make("hbll", sweeps=9, feedback=8, **options)
        ours = gradient(model, batch, auto)
        gradient(model, batch, far)
        cosine = float(nn.functional.cosine_similarity(ours, exact, 0))
        one, all_ = auto.records[0], far.records[0]
        print(f"{name} K={block} {precision}: cosine {cosine:.5f} relative error {(ours - exact).norm() / exact.norm():.4f} "
              f"sweeps {one.sweeps} corrections {one.corrections}")  # fmt: skip
        print("   left", *(f"{r:.0e}" for r in all_.residuals), "|", *(f"{r:.0e}" for r in all_.feedback_residuals))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=300)
    p.add_argument("--cells", nargs="*", default=["gru", "lstm", "elman", "own"])
    p.add_argument("--blocks", type=int, nargs="*", default=[16, 64])
    a = p.parse_args()
    torch.set_num_threads(1)
    text = hs.datasets.load("pydoc")
    x = text.valid[: ROWS * (STEPS + 1)].view(ROWS, STEPS + 1)
    batch = Batch(x[:, :-1].contiguous(), torch.full((ROWS,), STEPS), x[:, 1:].contiguous(), None)
    for cell in a.cells:
        torch.manual_seed(0)
        kind = dict(cell=nn.ModuleList([Own(WIDTH)]), embedding=WIDTH) if cell == "own" else dict(cell=cell)
        model = hs.models.CharLM(text.vocab_size, hidden=WIDTH, **kind)
        for block in a.blocks:
            compare(f"{cell} untrained", model, batch, block)
        hs.fit(model, text.train, rule="hbll", steps=a.steps, batch_size=ROWS, window=STEPS, lr=1e-2, progress=False)
        strong = copy.deepcopy(model)
        with torch.no_grad():
            for name, weight in strong.rnn.named_parameters():
                if "weight_hh" in name:
                    weight.mul_(2)
        for block in a.blocks:
            compare(f"{cell} trained", model, batch, block)
            if cell != "own":
                compare(f"{cell} trained, recurrent weights doubled", strong, batch, block)


if __name__ == "__main__":
    main()
