"""`Plan` holds the orders for one layer in one update; `Record` reports on their execution."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from hbll_seq.cells import Captures
from hbll_seq.engine.blocks import Depth
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.solve import Feedback, States


@dataclass
class Plan:
    """The orders for one layer in one update.

    Attributes:
        block: time steps of an execution block, K, which run at once. In order, of a segment (see `group`).
        sweeps, feedback: effort of the two loops.
        execution: "parallel", "exact-forward", "sequential" or "pytorch", see `engine.schedule`.
        credit: time steps of a credit block, at whose ends the discount acts; `block` divides it, or the discount is 1.
        pull: weight of the consistency term (mean over boundaries, summed over units).
        discount: factor on the feedback message that enters a credit block at its end, a number or `(m, B, 1)`.
        own: weight, `(M,)` or a number, of the cell's own carry in G; 0 are Jacobi sweeps.
        group: execution blocks in flight, or None for all. In order: segments of `block * group` time steps, or one.
        precision: precision of the products inside blocks, see `cells.mixed`; states and messages stay float32.
        captures: store of rolls recorded as CUDA graphs (`cells.captured`), or None to launch them step by step.
        probe: also measure the amplification of the backward pass (`Record.amplification`).
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
        """Set credit blocks to execution blocks by default."""
        self.credit_block: int = self.block if self.credit is None else self.credit

    def whole_credit(self) -> bool:
        """Return whether no message is discounted."""
        return bool((torch.as_tensor(self.discount) == 1).all())


@dataclass
class Record:
    """The report on one layer in one update.

    Attributes:
        layer: number of the layer; a module may call a layer twice in an update, or not at all.
        keep: whether `states` and `feedback` (and so all activations) are kept after the update.
        ran: the execution that gave boundaries and gradient: that of the plan, or its replacement.
        boundaries, messages: "exact", "within tolerance", or "forced": outside it, because the user fixed the effort.
        gave_up: unknowns that did not converge, so that the update switched: "states", "messages", both or neither.
        residuals: relative inconsistency before each sweep and at the end.
        feedback_residuals: relative residual of each backward pass.
        statistics: `(2, M)`, sums over sweeps and blocks, per unit, of the products p*p and p*e, where p is the change
            of a block's end that the cell's carry predicts and e the change that the roll showed.
        amplification: largest message of a sequence over the sum of its time steps' own gradients, if it was measured.
            Above 1 the backward pass expanded messages, and rounding errors with them.
        end: `(n, B, S)` state, or `(n, B, d)` hidden output, at every block's end.
        last: `(B, S)` state after the last time step, or None if the last block is not full.
        start: first time step of the last block, and the state `(B, S)` there, of a layer run in blocks; or None.
    """

    keep: bool = False
    layer: int = 0
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
    last: Tensor | None = None
    start: tuple[int, Tensor] | None = None
    states: States | None = None
    feedback: Feedback | None = None

    def in_order(self, ran: str, steps: int, last: Tensor | None = None) -> None:
        """Report time steps gone through one after another by `ran`: nothing was solved for."""
        self.ran, self.last, self.residuals, self.feedback_residuals = ran, last, [0.0], [0.0]
        self.depth.steps += steps
