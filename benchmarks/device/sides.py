"""The sides of the tables of times: each a closure that makes one training step, on any device.

The task is that of `benchmarks.rivals`: the next of V random symbols, one recurrent layer between embedding and read-out.

* `nn`: PyTorch's own layer (cuDNN on a GPU) by BPTT, what a user has.  `nn bf16`: the same with its weights in bfloat16.
* `one call`: our kernels, the whole sequence in one call each way: the exact rival of everything parallel.
* `parallel`: all blocks at once; `parallel bf16` its products in bfloat16; `parallel graphs` its rolls as CUDA graphs.
* `default`: what the rule does if nothing is asked of it.
* `minGRU scan`, `ParaGRU`, `compiled loop`: see `plain`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.device import plain
from benchmarks.rivals import V
from hbll_seq import rules, step
from hbll_seq.data.batch import Batch
from hbll_seq.errors import InputError
from hbll_seq.models import CharLM
from hbll_seq.rules.base import lookup

Step = Callable[[], dict[str, Any]]  # one training step; the rule's metrics, if any


class OwnCell(nn.Module):
    """A cell as a user may write one: a leaky integrator with a gate, rolled step by step."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.input_size = self.hidden_size = d
        self.gate, self.write = nn.Linear(2 * d, d), nn.Linear(2 * d, d)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """`(N, d)`, `(N, d)` -> `(N, d)`."""
        xh = torch.cat([x, h], 1)
        keep = torch.sigmoid(self.gate(xh) + 1)
        return keep * h + (1 - keep) * torch.tanh(self.write(xh))


def model(cell: str, d: int, layers: int = 1) -> CharLM:
    """A language model of one of the named cells, or of "own"."""
    if cell != "own":
        return CharLM(V, hidden=d, cell=cell, layers=layers)
    torch.manual_seed(0)
    return CharLM(V, cell=nn.ModuleList([OwnCell(d) for _ in range(layers)]), embedding=d)


def has(rule: str, **options: Any) -> bool:
    """Whether a rule of this version of the package takes these options and values."""
    try:
        rules.make(rule, **options)
    except InputError:
        return False
    return True


OPTIONAL = ("kernels", "check_every", "tolerance", "feedback_tolerance")  # left away where a version has no such option


def make_rule(name: str, options: dict[str, Any]) -> Any:
    """A rule of this version of the package; options that make another side or check of it must be there."""
    known = inspect.signature(lookup(name)).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in known.values())
    return rules.make(name, **{k: v for k, v in options.items() if anything or k in known or k not in OPTIONAL})


def how(name: str, steps: int) -> tuple[str, dict[str, Any]]:
    """Rule and options of a side."""
    if name == "nn":
        return "bptt", {"kernels": "torch"}
    options: dict[str, Any] = {"check_every": 0}
    if name == "one call":
        options |= {"execution": "sequential", "discount": 1.0}
        if not has("hbll", execution="exact-forward"):  # before there was one, "sequential" went block by block
            options["block_size"] = steps
        return "hbll", options
    base, _, extra = name.partition(" ")
    options["execution"] = {"default": "auto", "parallel": "parallel"}[base]
    more: dict[str, dict[str, Any]] = {"": {}, "bf16": {"precision": "bf16"}, "graphs": {"capture": True}}
    return "hbll", options | more[extra]


def make(name: str, batch: Batch, d: int, cell: str, dtype: torch.dtype = torch.float32) -> Step:
    """The closure; its tensors are where the batch is.

    Args:
        name: of the side.
        batch: of symbols.
        d: units, and width of the embedding.
        cell: "gru", "lstm", "elman", "mingru" or "own".
        dtype: of the model of a side by a rule.
    """
    if name in plain.NAMES:
        return plain.make(name, batch, d, cell)
    rule_name, options = how(name, batch.x.shape[1])
    net = model(cell, d).to(batch.x.device, dtype)
    rule = make_rule(rule_name, options)
    rule.setup(net, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)

    def one() -> dict[str, Any]:
        return dict(step(net, batch, rule, optimizer, progress=0.5).result.metrics)  # half way through a run

    return one


def dtype_of(name: str) -> str:
    """What a side computes in, for its line."""
    if name == "nn bf16":
        return "bfloat16, weights too"
    return "bfloat16 products" if name.endswith("bf16") else "float32"
