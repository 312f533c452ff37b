"""`Plan` tells how to run one layer in one step, `Record` says afterwards how it went."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hbll_seq.cells import Captures
from hbll_seq.engine.blocks import Depth
from hbll_seq.engine.solve import Effort, Feedback, States


@dataclass
class Plan:
    """How to run one layer this step.

    Attributes:
        block: steps of an execution block, K: what runs at once. In order, steps of a segment (see `group`).
        sweeps, feedback: effort of the two loops.
        execution: "parallel", "exact-forward" or "sequential", see `engine.schedule`.
        credit: steps of a credit block, at whose ends the discount acts; `block` divides it, or the discount is 1.
        pull: weight of the consistency term (mean over boundaries, summed over units).
        discount: factor on the feedback message that enters a credit block at its end, a number or `(m, B, 1)`.
        own: weight, `(M,)` or a number, of the cell's own carry in G; 0 are Jacobi sweeps.
        group: execution blocks in flight, or None for all. In order: segments of `block * group` steps, or one.
        precision: of the products inside blocks, see `cells.mixed`; states and messages are float32 with either.
        captures: where rolls recorded as CUDA graphs are kept (`cells.captured`), or None to launch them step by step.
        probe: also measure how far the way back amplifies (`Record.amplification`).
    """

    block: int
    sweeps: Effort
    feedback: Effort
    execution: str = "parallel"
    credit: int | None = None
    pull: float = 0.0
    discount: float | Tensor = 1.0
    own: Tensor | float = 1.0
    group: int | None = None
    precision: str = "float32"
    captures: Captures | None = None
    probe: bool = False

    def __post_init__(self) -> None:
        """Credit blocks are execution blocks unless said otherwise."""
        self.credit_block: int = self.block if self.credit is None else self.credit

    def whole_credit(self) -> bool:
        """Whether no message is discounted."""
        return bool((torch.as_tensor(self.discount) == 1).all())


@dataclass
class Record:
    """What happened in one layer in one step.

    Attributes:
        keep: whether `states` and `feedback` (and so all activations) are kept after the step.
        ran: the execution that gave boundaries and gradient: that of the plan, or what the step switched to.
        boundaries, messages: "exact", "within tolerance", or "forced": outside it, because the user fixed the effort.
        gave_up: what did not converge, so that the step switched: "states", "messages", both or neither.
        residuals: relative inconsistency before each sweep and at the end.
        feedback_residuals: relative residual of each backward pass.
        statistics: `(2, M)`, sums over sweeps and blocks, per unit, of the products p*p and p*e, where p is the change
            of a block's end that the cell's carry predicts and e the change that the roll showed.
        amplification: largest message of a sequence over the sum of its steps' own gradients, where it was measured:
            above 1 something expanded on the way back, and rounding errors with it.
        end: `(n, B, S)` state, or `(n, B, d)` hidden output, at every block's end.
    """

    keep: bool = False
    ran: str = "parallel"
    boundaries: str = "exact"
    messages: str = "exact"
    gave_up: list[str] = field(default_factory=list)
    depth: Depth = field(default_factory=Depth)
    residuals: list[float] = field(default_factory=list)
    sweeps: int = 0
    fallbacks: float = 0.0
    feedback_residuals: list[float] = field(default_factory=list)
    corrections: int = 0
    statistics: Tensor | None = None
    amplification: float | None = None
    end: Tensor | None = None
    states: States | None = None
    feedback: Feedback | None = None
