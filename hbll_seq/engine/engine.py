"""The engine of one model's recurrent layers: its options, its controller, and the records of the latest update."""

import functools
import os
from typing import Any

import torch
from torch import Tensor

from hbll_seq.cells import Captures, Cell, in_precision
from hbll_seq.data.batch import Batch
from hbll_seq.engine.controller import Controller
from hbll_seq.engine.cost import Machine
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.layer import run_layer
from hbll_seq.engine.one_layer import Head, step_one_layer
from hbll_seq.engine.options import Options
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.engine.schedule import Layer, Schedule, Shape, choose
from hbll_seq.errors import InputError
from hbll_seq.kernels import graphs, machine
from hbll_seq.tree import auto_block

AVOIDED: dict[str, tuple[str, ...]] = {"": (), "states": ("parallel",), "messages": ("parallel", "exact-forward")}
CERTAINTY = ("exact", "within tolerance", "forced")  # from best to worst

REMEMBERED = 1000  # schedules; batches of one run come in few shapes


class Engine:
    """An engine runs layers by the schedule for options, shape and machine, and records the run.

    An update is `begin`, then `layer` for every layer or `one_layer` for all, then the backward pass, then `end`.

    Args:
        options: see `Options`.

    Attributes:
        controller: effort and tolerances, adjusted after every update.
        records: records of the latest update, one per layer.
        pinned: measured schedules (`pin`), by shape; they take precedence over the cost model.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._chosen: dict[tuple[Layer, Shape, str, Machine, str], Schedule] = {}
        self.reset()
        self.captures = Captures() if options.capture else None
        self.begin()

    def check(self, cells: list[Cell], device: torch.device) -> None:
        """Refuse options that this device, or a cell, does not support.

        Raises:
            InputError: a precision that a cell does not have, or recording on a device without it.
        """
        for cell in cells:
            in_precision(cell, self.options.precision)
        if self.captures is not None and graphs.recorder(device) is None:
            raise InputError("capture", f"True on device {device.type!r}", "a CUDA device, or capture=False")

    def credit_block(self, steps: int, batch: int) -> int:
        """Choose the time steps of a credit block; this depends on the task, not on the machine."""
        size = self.options.block_size
        return min(size if isinstance(size, int) else auto_block(steps, batch), steps)

    def begin(self, *, keep: bool = False, probe: bool = False) -> None:
        """Begin an update.

        Args:
            keep: keep states and messages in the records: all blocks run at once, and nothing switches to a schedule
                that has none. The loss goes through `layer`.
            probe: also measure the amplification of the backward pass.
        """
        self.records: list[Record] = []
        self._keep, self._probe = keep, probe

    def renew(self) -> None:
        """Begin an update in a loop that never calls `end`: learn from the latest one, if it was differentiated."""
        if self.records and all(one.feedback_residuals for one in self.records):
            self.end()
        self.begin()

    def left_to_pytorch(self, cell: Cell, rows: int, steps: int, like: Tensor, layers: int) -> bool:
        """Return whether layers like `cell` run by PyTorch in the next pass, with whole credit; if so, record it."""
        credit = self.credit_block(steps, rows)
        shape = Shape(rows, steps, credit, self.options.discount == 1)
        if self.schedule(cell, shape, like).execution != "pytorch":
            return False
        self.renew()
        for layer in range(layers):
            self.records.append(Record(layer=layer))
            self.records[-1].in_order("pytorch", 2 * steps)
        return True

    def pin(self, name: str, schedule: Schedule) -> None:
        """Fix the schedule for batches of the shape that `shape_name` names `name`."""
        self.pinned[name] = schedule

    def schedule(self, cell: Cell, shape: Shape, like: Tensor) -> Schedule:
        """Choose the schedule of a layer in the next update; `like` has its dtype and device."""
        avoid = self.controller.avoid()
        known = self.pinned.get(shape_name(shape.steps, shape.batch, shape.credit))
        if known is not None and known.execution not in AVOIDED[avoid]:
            return known
        cell, device = in_precision(cell, self.options.precision), like.device.type
        asked = (Layer.of(cell, like), shape, device, this_machine(), avoid)
        if asked not in self._chosen:
            if len(self._chosen) >= REMEMBERED:
                self._chosen.clear()
            self._chosen[asked] = choose(*asked[:4], self.options, avoid=avoid)
        return self._chosen[asked]

    def plan(
        self, layer: int, cell: Cell, shape: Shape, like: Tensor, discount: float | Tensor = 1.0, *,
        inside: bool = False,
    ) -> Plan:  # fmt: skip
        """Plan a layer's next update: its schedule and its effort. With `inside` the loss is computed in the layer."""
        o, c = self.options, self.controller
        chosen = self.schedule(cell, shape, like)
        execution, block = chosen.execution, chosen.block
        sweeps = c.sweeps(layer) if o.sweeps == "auto" else _fixed(o.sweeps, o.tolerance)
        n = -(-shape.steps // block)
        feedback = c.feedback(layer, n) if o.feedback == "auto" else _fixed(o.feedback, c.feedback_within(n))
        if execution == "pytorch" and (self._probe or self._keep or inside):  # that gives neither messages nor blocks
            execution = "sequential"
        if self._keep:
            execution, block = "exact-forward" if o.sweeps == "auto" else "parallel", shape.credit
            if o.feedback == "auto":  # enough corrections are exact: nothing to switch to
                feedback = Effort(feedback.least, shape.steps, feedback.tolerance, fixed=True)
        own = {"calibrated": lambda: c.mix(layer), "own": lambda: 1.0, "none": lambda: 0.0}[o.carry]()
        own = own.to(like) if isinstance(own, Tensor) else own  # the model may have changed its dtype since
        return Plan(
            block, sweeps, feedback, execution, shape.credit, self.pull, discount, own, chosen.group, o.precision,
            captures=None if self._keep else self.captures,  # kept states must outlast the next replay
            probe=self._probe,
        )  # fmt: skip

    @property
    def pull(self) -> float:
        """The weight of the consistency term in this update."""
        return self.controller.pull if isinstance(self.options.pull, str) else float(self.options.pull)

    def layer(self, layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, credit: int,
              discount: float | Tensor = 1.0, *, end: bool = False) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Run a layer: return its outputs `(B, T, d)`, and the state after the last time step (see `run_layer`).

        Args:
            layer: its number, counted from the input.
            cell: its cell.
            x: `(B, T, D)`.
            state: `(B, S)` start.
            lengths: `(B,)` valid time steps, or None for all.
            credit: time steps of a credit block.
            discount: factor on the message that enters a credit block, a number or `(m, B, 1)`.
            end: whether the state is wanted.
        """
        plan = self.plan(layer, cell, _shape(x, credit, discount), state, discount)
        record = Record(self._keep, layer)
        self.records.append(record)  # by this name alone: another thread may begin an update now
        return run_layer(cell, x, state, lengths, plan, record, end=end)

    def one_layer(
        self, cell: Cell, head: Head, x: Tensor, state: Tensor, batch: Batch, credit: int, discount: float | Tensor
    ) -> tuple[float, Tensor | None]:
        """Make an update of a model of one layer, its loss computed block by block; see `step_one_layer`."""
        plan = self.plan(0, cell, _shape(x, credit, discount), state, discount, inside=True)
        self.records = [Record()]
        return step_one_layer(cell, head, x, state, batch, plan, self.records[0])

    def end(self) -> None:
        """Learn from the records of the update."""
        self.controller.observe(self.records)

    def exact(self) -> bool:
        """Return whether the latest update's boundaries were those of the deployed chain."""
        return all(r.boundaries == "exact" for r in self.records)

    def amplification(self) -> float | None:
        """Return the worst layer's amplification in the latest update (`Record`); None if it was not measured."""
        found = [one.amplification for one in self.records if one.amplification is not None]
        return max(found) if found else None

    def metrics(self) -> dict[str, float | str]:
        """Sum up the latest update for the history: the worst layer's figures."""
        r = self.records or [Record(ran="no layer was called", residuals=[0.0])]
        ran = dict.fromkeys(
            f"gave up {' and '.join(one.gave_up)}, then {one.ran}" if one.gave_up else one.ran for one in r
        )
        return {
            "schedule": "; ".join(ran),
            "boundaries": max((one.boundaries for one in r), key=CERTAINTY.index),
            "messages": max((one.messages for one in r), key=CERTAINTY.index),
            "sweeps": float(max(one.sweeps for one in r)),
            "corrections": float(max(one.corrections for one in r)),
            "inconsistency": max(one.residuals[-1] for one in r),
            "feedback_residual": max(one.feedback_residuals[-1] if one.feedback_residuals else 0.0 for one in r),
            "fallbacks": max(one.fallbacks for one in r),
            "tolerance": self.controller.tolerance,
            "carry_weight": self.controller.carry_weight(),
            "depth": float(sum(one.depth.total for one in r)),
        }

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or pickle keeps: the options, and what was learned."""
        return {"options": self.options, "state": self.state_dict()}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        """Restore a copy."""
        self.__init__(kept["options"])  # type: ignore[misc]  # the same start as that of a new engine
        self.load_state_dict(kept["state"])

    def state_dict(self) -> dict[str, Any]:
        """Collect the state for a resumed run."""
        pinned = {name: [one.execution, one.block] for name, one in self.pinned.items()}
        return {**self.controller.state_dict(), "pinned": pinned}

    def reset(self) -> None:
        """Forget everything learned of a model: another one is trained."""
        o = self.options
        self.controller = Controller(o.tolerance, o.feedback_tolerance, o.most, o.finest)
        self.pinned: dict[str, Schedule] = {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self.controller.load_state_dict(state)
        pinned = state.get("pinned", {})  # runs from before schedules were measured have none
        self.pinned = {name: Schedule(str(how), int(block)) for name, (how, block) in pinned.items()}


def shape_name(steps: int, batch: int, credit: int) -> str:
    """Name a shape of batch: time steps, rounded up to a power of two, sequences, and time steps of a credit block."""
    return f"{1 << (steps - 1).bit_length()} steps x {batch}, credit {credit}"


def this_machine() -> Machine:
    """Describe the CPU for the cost model, with the threads torch may use now."""
    target = machine.target()
    return Machine(torch.get_num_threads(), target.width, target.registers, *_caches())


@functools.cache
def _caches() -> tuple[int, int]:
    """Return the bytes of a core's first and second cache; usual sizes if the system does not tell."""
    sizes = []
    for name, usual in (("SC_LEVEL1_DCACHE_SIZE", 32 << 10), ("SC_LEVEL2_CACHE_SIZE", 1 << 20)):
        try:
            size = os.sysconf(name)
        except (ValueError, OSError, AttributeError):  # not on this system
            size = 0
        sizes.append(size if size > 0 else usual)
    return sizes[0], sizes[1]


def _fixed(count: int | str, tolerance: float) -> Effort:
    return Effort(int(count), int(count), tolerance, fixed=True)


def _shape(x: Tensor, credit: int, discount: float | Tensor) -> Shape:
    return Shape(x.shape[0], x.shape[1], credit, bool((torch.as_tensor(discount) == 1).all()))
