"""`hbll`: Hierarchical Block-Local Learning for recurrent networks (design section 3).

One step, for every layer of the stack:

1. boundary states by consistency sweeps, all blocks at once (`solve.solve_states`);
2. the blocks rolled from those constants, local losses, no graph between blocks (`local.run_layer`);
3. feedback messages by a reverse scan, corrected block-locally until they agree (`solve.solve_feedback`);
4. the gradient of every block's own objective, summed.

How many sweeps and corrections are spent, and how hard the boundaries are pulled together, is decided
by what is measured (`controller.py`), unless given.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from hbll_seq.batch import Batch
from hbll_seq.cells import PRECISIONS, Captures, Cell, SymbolCell, in_precision
from hbll_seq.chain import run_chain, step_chain
from hbll_seq.errors import InputError
from hbll_seq.grouped import deployed_loss, step_grouped
from hbll_seq.jump import Jump
from hbll_seq.kernels import graphs
from hbll_seq.kernels.roll import fused
from hbll_seq.local import LayerPlan, LayerRecord, run_layer
from hbll_seq.models.recurrent import SequenceModel, sequential
from hbll_seq.objective import objective
from hbll_seq.rules import fastest_block
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.controller import Controller
from hbll_seq.rules.execute import forward_backward, per_block
from hbll_seq.scheduler import activation_bytes, memory_bytes, to_blocks
from hbll_seq.solve import Effort
from hbll_seq.tree import ROWS, auto_block

EXECUTIONS = ("auto", "parallel", "sequential")
CARRIES = ("calibrated", "own", "learned", "blended", "none")
# Finest tolerances with bfloat16 products. Rounding leaves 1e-10 .. 6e-6 on fresh and trained cells, up to 1e-4 with
# the recurrent weights doubled; boundaries that agree to 1e-4 cost the gradient less than bfloat16 does (docs/notes).
FINEST_BF16 = 1e-4


@register
class HBLL(Rule[SequenceModel]):
    """Hierarchical block-local learning.

    Args:
        block_size: steps a block K, or "auto" (from length and batch), or "measured": what takes the least time on this
            machine for this model and shape, tried on copies at the first batch (`fastest_block`).
        sweeps: consistency sweeps S, or "auto": as many as the tolerance needs.
        feedback: feedback corrections c, or "auto".
        pull: weight of the pull to the posterior, or "auto": only where sweeps cannot close the gaps.
        tolerance: relative inconsistency of the boundaries that the controller aims at.
        feedback_tolerance: relative squared residual of the feedback messages aimed at.
        carry: "calibrated" (the cell's own, scaled per unit by what earlier sweeps measured), "own",
            "learned" (the trained jump's, which then also gives the first guess of the boundaries),
            "blended" (own and learned, weighted per unit by what earlier sweeps measured), or
            "none" (Jacobi sweeps, no carry in the feedback's scan either).
        execution: "parallel", all blocks at once; "sequential", one after the other: exact boundaries, no sweeps, depth
            2 T (with whole credit that is BPTT by this package's kernels, and said to be: see `depth` in the history);
            "auto", what is faster for the cell, batch and device by `Cell.chain_from`, parallel where any of the
            options about blocks, sweeps and memory is given.
        group: blocks processed at a time, or None for all at once.
        memory: budget for the activations of the blocks in flight, in bytes or as "512MB"; decides `group`.
        most: the most sweeps, and the most corrections, that "auto" may spend.
        check_every: steps between two comparisons with the deployed chain; 0 for never.
        discount: factor on the feedback message that enters a block. 1 is the whole credit of BPTT; 0 leaves each
            block its own loss, the credit of truncated BPTT at less cost; in between, credit from k
            blocks ahead counts discount^k. "auto": 1 for blocks without targets of their own, so that credit for a
            distant outcome is whole; for the others it rises from 0 to 1 over the run (`Rule.progress`): a block learns
            first from what it sees itself, then from what is asked further and further on (see docs/notes).
        precision: "float32", or "bf16": the products inside blocks, forward and back, take factors rounded to
            bfloat16 (`cells.mixed`). Weights, gates, states, messages, scans, losses and gradients stay float32, the
            read-out and the deployed chain too. The two tolerances are then at least 1e-4. On a CPU it gives up the
            compiled rolls: it is meant for GPUs, and has not been measured on one.
        capture: record the rolls of cells that are rolled step by step (your own, minGRU, a GRU of more than 512 units)
            as CUDA graphs, so that a level is one launch (`cells.captured`). On CUDA only, float32 products only; a
            recording is made for every shape of batch and keeps its activations. Not yet run on a GPU.
    """

    name = "hbll"

    def __init__(
        self,
        block_size: int | str = "auto",
        sweeps: int | str = "auto",
        feedback: int | str = "auto",
        pull: float | str = "auto",
        *,
        tolerance: float = 3e-4,
        feedback_tolerance: float = 1e-3,
        carry: str = "calibrated",
        execution: str = "parallel",
        group: int | None = None,
        memory: int | str | None = None,
        most: int = 8,
        check_every: int = 50,
        discount: float | str = "auto",
        precision: str = "float32",
        capture: bool = False,
    ) -> None:
        if block_size != "measured":
            _whole("block_size", block_size, 1, 'an integer >= 1, "auto" or "measured"')
        elif execution != "parallel" or group is not None or memory is not None:
            raise InputError("block_size", '"measured" beside execution, group or memory', "one of them alone")
        _whole("sweeps", sweeps, 0)
        _whole("feedback", feedback, 0)
        if pull != "auto" and not (isinstance(pull, int | float) and pull >= 0):
            raise InputError("pull", repr(pull), 'a number >= 0 or "auto"')
        if precision not in PRECISIONS:
            raise InputError("precision", repr(precision), f"one of {PRECISIONS}")
        finest = FINEST_BF16 if precision == "bf16" else 0.0
        for name, value in (("tolerance", tolerance), ("feedback_tolerance", feedback_tolerance)):
            if not value > 0:
                raise InputError(name, value, "a number > 0")
            if value < finest:
                raise InputError(name, f'{value} with precision="bf16"', f"at least {finest}: rounding leaves no less")
        if carry not in CARRIES:
            raise InputError("carry", repr(carry), f"one of {CARRIES}")
        if execution not in EXECUTIONS:
            raise InputError("execution", repr(execution), f"one of {EXECUTIONS}")
        if group is not None:
            _whole("group", group, 1)
        if group is not None and memory is not None:
            raise InputError("memory", "given beside group", "one of the two")
        self.memory = None if memory is None else memory_bytes(memory)
        if discount != "auto" and not (isinstance(discount, int | float) and 0 <= discount <= 1):
            raise InputError("discount", repr(discount), 'a number in 0..1 or "auto"')
        if capture and (precision != "float32" or execution == "sequential"):
            beside = f'precision="{precision}"' if precision != "float32" else 'execution="sequential"'
            raise InputError("capture", f"True beside {beside}", "float32 products and blocks in parallel")
        self.captures = Captures() if capture else None
        self.discount = discount
        self.block_size, self.sweeps, self.feedback, self.pull = block_size, sweeps, feedback, pull
        self.carry, self.group, self.check_every = carry, group, check_every
        self.execution, self.precision = execution, precision
        self.controller = Controller(tolerance, feedback_tolerance, most, finest)
        self.measured: dict[str, int] = {}  # block sizes found, by steps (up to a power of two) and sequences
        self.jumps: list[Jump] = []
        self.records: list[LayerRecord] = []
        self.keep_solutions = False  # records keep states and messages (for credit diagrams and tests)

    def setup(self, model: SequenceModel, generator: torch.Generator) -> None:
        """Make the jump encoders, where the carry needs them; refuse a model that cannot have the precision."""
        for cell in model.cells:
            in_precision(cell, self.precision)
        device = next(model.parameters()).device
        if self.captures is not None and graphs.recorder(device) is None:
            raise InputError("capture", f"True on device {device.type!r}", "a CUDA device, or capture=False")
        if self.carry in ("learned", "blended"):
            like = next(model.parameters())
            self.jumps = [Jump(cell, generator).to(like) for cell in model.cells]

    def parameters(self) -> list[torch.nn.Parameter]:
        """Of the jump encoders."""
        return [p for jump in self.jumps for p in jump.parameters()]

    def _block(self, model: SequenceModel, data: Batch) -> int:
        batch, steps = data.x.shape[:2]
        if isinstance(self.block_size, int):
            return min(self.block_size, steps)
        if self.block_size == "measured":
            return min(self._measured(model, data), steps)
        block = min(auto_block(steps, batch), steps)
        if self.memory is not None:  # a group has to have rows enough for the machine too
            rows = self.memory // max(activation_bytes(cell, torch.float32) for cell in model.cells)
            while block > 16 and block * ROWS > rows:
                block //= 2
        return block

    def _measured(self, model: SequenceModel, batch: Batch) -> int:
        def twin(block: int) -> HBLL:
            rule = copy.copy(self)
            rule.block_size, rule.check_every = block, 0
            rule.controller, rule.jumps = copy.deepcopy(self.controller), copy.deepcopy(self.jumps)
            rule.captures = None if self.captures is None else Captures()
            return rule

        shape = fastest_block.shape(batch)
        if shape not in self.measured:
            c = self.controller
            options = (self.sweeps, self.feedback, self.pull, self.carry, self.precision, self.captures is not None,
                       c.initial, c.feedback_tolerance, c.most)  # fmt: skip
            self.measured[shape] = fastest_block.measured(model, batch, options, twin)
        return self.measured[shape]

    def plan(
        self, layer: int, cell: Cell, batch: Batch, like: Tensor, block: int, discount: float | Tensor = 1.0
    ) -> LayerPlan:
        """What this step will do in `layer`, in blocks of `block` steps."""
        size = len(batch.x)
        c = self.controller
        sweeps = c.sweeps(layer) if isinstance(self.sweeps, str) else Effort(self.sweeps, self.sweeps, 0.0)
        feedback = c.feedback(layer) if isinstance(self.feedback, str) else Effort(self.feedback, self.feedback, 0.0)
        pull = c.pull if isinstance(self.pull, str) else self.pull
        own, learned = {
            "calibrated": lambda: c.mix(layer, learned=False),
            "blended": lambda: c.mix(layer, learned=True),
            "own": lambda: (1.0, 0.0),
            "learned": lambda: (0.0, 1.0),
            "none": lambda: (0.0, 0.0),
        }[self.carry]()
        jump = self.jumps[layer] if self.jumps else None
        group = self.group
        if self.memory is not None:
            group = max(1, self.memory // (activation_bytes(cell, like.dtype) * block * size))
        return LayerPlan(
            block, sweeps, feedback, pull, discount, own, learned, jump=jump, group=group, precision=self.precision,
            captures=None if self.keep_solutions else self.captures,  # what is kept must outlast the next replay
        )  # fmt: skip

    def _discounts(self, model: SequenceModel, batch: Batch, block: int) -> float | Tensor:
        """A number, or `(n, B, 1)`: what every block does to the message that enters it."""
        if not isinstance(self.discount, str):
            return float(self.discount)
        if model.task == "sequence":
            return 1.0
        if batch.mask is None:
            return self.progress
        counted = to_blocks(batch.mask.unsqueeze(-1).float(), block).amax(0)  # (n, B, 1): any target in the block
        return 1.0 - (1.0 - self.progress) * counted

    def _in_order(self, model: SequenceModel, batch: Batch) -> bool:
        """Whether this step goes through the blocks one after the other."""
        if self.execution != "auto" or self.keep_solutions:
            return self.execution == "sequential" and not self.keep_solutions
        asked = (self.block_size, self.sweeps, self.feedback, self.pull) != ("auto",) * 4
        asked = asked or self.carry != "calibrated" or self.precision != "float32" or self.captures is not None
        if asked or self.group is not None or self.memory is not None:
            return False
        cells = model.cells
        return batch.x.device.type == "cpu" and all(len(batch.x) * c.hidden_size >= c.chain_from for c in cells)

    def _inside(self, model: SequenceModel, batch: Batch, in_order: bool) -> bool:
        """Whether the loss is taken where the blocks are (`grouped.py`): with one layer only, a stack needs outputs."""
        if len(model.cells) > 1 or self.jumps or self.keep_solutions:
            return False
        if not in_order and (self.group is not None or self.memory is not None):
            return True
        cell, table = model.cells[0], model.embedding
        if self.precision != "float32" or cell.recipe is None or not fused(model.readout.weight):
            return False
        return table is None or SymbolCell.pays(cell, table.weight, batch.x.numel())

    def step(self, model: SequenceModel, batch: Batch) -> StepResult:
        """See `Rule.step`."""
        self.records = []
        pull = self.controller.pull if isinstance(self.pull, str) else float(self.pull)  # of this step
        block = self._block(model, batch)
        discount, in_order = self._discounts(model, batch, block), self._in_order(model, batch)

        def execute(layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None) -> Tensor:
            self.records.append(LayerRecord(keep=self.keep_solutions))
            plan, record = self.plan(layer, cell, batch, state, block, discount), self.records[-1]
            if in_order:
                return run_chain(cell, x, state, plan, record)
            return run_layer(cell, x, state, lengths, plan, record)

        losses: Tensor | None
        grouped = self.group is not None or self.memory is not None
        if self._inside(model, batch, in_order):
            self.records = [LayerRecord()]
            plan = self.plan(0, model.cells[0], batch, model.readout.weight, block, discount)
            inside = step_chain if in_order else step_grouped
            loss, losses = inside(model, batch, plan, self.records[0])
        else:
            lookup = not self.jumps and self.precision == "float32"
            loss, per_step = forward_backward(model, batch, execute, lookup=lookup)
            losses = per_block(per_step, batch.mask, block)
        if not in_order:
            self.controller.observe(self.records)
        deployed = None
        if self.check_every and not in_order and self.controller.steps % self.check_every == 0:
            deployed = (
                deployed_loss(model, batch) if grouped and len(model.cells) == 1 else self._deployed(model, batch)
            )
            self.controller.compare(loss, deployed)
        self.controller.steps += 1
        metrics = {
            "sweeps": float(max(r.sweeps for r in self.records)),
            "corrections": float(max(r.corrections for r in self.records)),
            "inconsistency": max(r.residuals[-1] for r in self.records),
            "feedback_residual": max(r.feedback_residuals[-1] for r in self.records),
            "fallbacks": max(r.fallbacks for r in self.records),
            "tolerance": self.controller.tolerance,
            "pull": pull,
            "discount": float(torch.as_tensor(discount).mean()),
            "carry_weight": self.controller.carry_weight(),
            "depth": float(sum(r.depth.total for r in self.records)),
        }
        if deployed is not None:
            metrics["deployed_gap"] = deployed - loss
        if losses is None and not math.isfinite(loss):
            losses = self._broken()
        return StepResult(loss, metrics, losses)

    def _broken(self) -> Tensor | None:
        """Where a whole-sequence loss is not finite: 0 for a block whose end state is, NaN for one whose is not."""
        for record in self.records:
            if record.end is not None and not torch.isfinite(record.end).all():
                fine = torch.isfinite(record.end).flatten(1).all(1)
                return torch.where(fine, 0.0, math.nan)
        return None

    @staticmethod
    def _deployed(model: SequenceModel, batch: Batch) -> float:
        with torch.no_grad():
            out = model(batch.x, batch.lengths, execute=sequential)
            return float(objective(model.objective, out, batch)[0])

    def state_dict(self) -> dict[str, Any]:
        """The controller's state and the jump encoders."""
        jumps = {f"jump.{i}.{k}": v for i, jump in enumerate(self.jumps) for k, v in jump.state_dict().items()}
        return {**self.controller.state_dict(), **jumps, "blocks": dict(self.measured)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the controller and the jump encoders (after `setup`)."""
        self.controller.load_state_dict(state)
        self.measured = {name: int(block) for name, block in state.get("blocks", {}).items()}
        for i, jump in enumerate(self.jumps):
            jump.load_state_dict({k: state[f"jump.{i}.{k}"] for k in jump.state_dict()})


def _whole(name: str, value: int | str, least: int, expected: str | None = None) -> None:
    if value != "auto" and not (isinstance(value, int) and not isinstance(value, bool) and value >= least):
        raise InputError(name, repr(value), expected or f'an integer >= {least} or "auto"')
