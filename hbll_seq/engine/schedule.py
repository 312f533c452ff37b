"""The schedule of one call: execution, block size and groups, chosen in this file alone.

Read `choose` as a table, first match first:

    fixed by the user's options                               as given
    a small LSTM on a CPU, with whole credit                  pytorch: oneDNN runs it, under autograd
    a GPU, or a cell without compiled rolls                   parallel: the machine has room, or every step has a price
    a CPU with compiled rolls                                 the least of `engine.cost` over the three executions
    a run whose states (messages) would not converge before   exact-forward (sequential)
"""

import math
from dataclasses import dataclass

import torch

from hbll_seq.cells import Cell
from hbll_seq.cells.lstm import LSTMCell
from hbll_seq.engine import cost
from hbll_seq.engine.memory import activation_bytes
from hbll_seq.engine.options import Options
from hbll_seq.errors import InputError
from hbll_seq.tree import ROWS

# An LSTM with fewer values B * T * d than this is left to oneDNN: about 1.1 to 2.4 times as fast there, and 0.6
# to 0.95 times as fast above and for long narrow sequences (`python -m benchmarks.layers`)
ONEDNN, NARROW, LONG = 1 << 20, 32, 1024

SWEEPS = 2.0  # the usual number at the default tolerance, for dynamics that forget


@dataclass(frozen=True)
class Layer:
    """The properties of a layer that decide: kind of cell, sizes, and whether it has compiled rolls here.

    Attributes:
        gates: gates with a recurrent product.
        parts: vectors of state per unit.
        hidden: units.
        compiled: whether it has rolls of K time steps in one call.
        bytes: bytes of activations that a row keeps per time step.
        onednn: whether PyTorch runs it by oneDNN.
    """

    gates: int
    parts: int
    hidden: int
    compiled: bool
    bytes: int
    onednn: bool = False

    @classmethod
    def of(cls, cell: Cell, like: torch.Tensor) -> "Layer":
        """Describe a cell, for inputs and weights like `like`."""
        compiled = cell.compiled(like)
        gates = cell.recipe.gates if cell.recipe is not None else 1
        onednn = compiled and isinstance(cell, LSTMCell) and torch.backends.mkldnn.is_available()
        return cls(
            gates, cell.state_size // cell.hidden_size, cell.hidden_size, compiled, activation_bytes(cell, like.dtype),
            onednn,
        )  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A shape of batch: B sequences of T time steps, the time steps of a credit block; `whole` if no message is
    discounted.
    """

    batch: int
    steps: int
    credit: int
    whole: bool = True


@dataclass(frozen=True)
class Schedule:
    """The schedule of one call.

    Attributes:
        execution: "sequential", "exact-forward", "parallel", or "pytorch": PyTorch's own layer under autograd.
        block: time steps of an execution block; in order, of a credit block.
        group: execution blocks in flight, or None for all.
    """

    execution: str
    block: int
    group: int | None = None


def choose(
    layer: Layer, shape: Shape, device: str, machine: cost.Machine, options: Options, *, avoid: str = ""
) -> Schedule:
    """Return the schedule of one layer's next update.

    Args:
        layer, shape: the layer and its batch.
        device: "cpu", "cuda", ...
        machine: the CPU.
        options: the user's options.
        avoid: "states" or "messages" that did not converge in earlier updates of the run, or "".
    """
    execution = _asked(options, avoid)
    if execution is None and _small_lstm(layer, shape, options):
        return Schedule("pytorch", shape.credit)
    if execution is None:
        execution, block = _fastest(layer, shape, device, machine, options, avoid)
    else:
        block = shape.credit if execution == "sequential" else _block(layer, shape, options)
    return Schedule(execution, block, _group(layer, shape, block, options))


def _small_lstm(layer: Layer, shape: Shape, options: Options) -> bool:
    """Return whether oneDNN is faster than a compiled call, and free to run."""
    free = options.budget is None and options.group is None and options.precision == "float32"
    if not (layer.onednn and shape.whole and free):
        return False
    narrow = layer.hidden <= NARROW and shape.steps >= LONG
    return shape.batch * shape.steps * layer.hidden < ONEDNN and not narrow


def _block(layer: Layer, shape: Shape, options: Options) -> int:
    """Return the time steps of the blocks that run at once: as given, else the credit block, shorter if memory is
    short.
    """
    if isinstance(options.execution_block, int):
        block = min(options.execution_block, shape.steps)
        if not shape.whole and shape.credit < shape.steps and shape.credit % block:
            got = f"{block} for credit blocks of {shape.credit} steps"
            raise InputError("execution_block", got, "a divisor, or discount=1: messages are discounted between them")
        return block
    block = min(shape.credit, shape.steps)
    if options.budget is not None:  # a group needs enough rows for the machine
        rows = options.budget // layer.bytes
        while block > 16 and block * ROWS > rows and block % 2 == 0:
            block //= 2
    return block


def _fitting(shape: Shape, wanted: int) -> int:
    """Return time steps near `wanted` at whose ends messages may be discounted, if they are."""
    if shape.whole or shape.credit >= shape.steps:
        return min(wanted, shape.steps)
    return _divisor(shape.credit, wanted)


def _divisor(credit: int, wanted: int) -> int:
    """Return the largest divisor of `credit` up to `wanted`; `credit` itself if all of them are much smaller."""
    found = max(k for k in range(1, min(credit, wanted) + 1) if credit % k == 0)
    return found if 4 * found >= min(wanted, credit) else credit


def _asked(options: Options, avoid: str) -> str | None:
    """Return the execution that options fix, or None for the fastest."""
    if options.execution == "parallel" and options.sweeps == "auto" and avoid:
        return "exact-forward" if avoid == "states" else "sequential"
    if options.execution == "exact-forward" and options.feedback == "auto" and avoid == "messages":
        return "sequential"
    if options.execution not in ("auto", "measured"):
        return options.execution
    if options.sweeps != "auto" or options.feedback != "auto" or options.capture:
        return "parallel"  # these options concern nothing else
    return None


def _fastest(
    layer: Layer, shape: Shape, device: str, machine: cost.Machine, options: Options, avoid: str
) -> tuple[str, int]:
    block = _block(layer, shape, options)
    if device != "cpu" or not layer.compiled:
        return {"": "parallel", "states": "exact-forward", "messages": "sequential"}[avoid], block
    work = cost.Work(layer.gates, layer.parts, layer.hidden)
    kept = _group(layer, shape, shape.credit, options)
    again = kept is not None and kept * shape.credit < shape.steps  # released segments are rolled again
    found = {("sequential", shape.credit): cost.sequential(work, shape.batch, shape.steps, machine, again=again)}
    for size in _sizes(layer, shape, options):
        for execution, sweeps in (("exact-forward", math.inf), ("parallel", 1.0 if layer.gates == 0 else SWEEPS)):
            if avoid == "messages" or (avoid and execution == "parallel"):
                continue
            group = _group(layer, shape, size, options)
            found[execution, size] = cost.parallel(
                work, shape.batch, shape.steps, size, machine, sweeps=sweeps, group=group
            )
    return min(found, key=lambda one: found[one])


def _sizes(layer: Layer, shape: Shape, options: Options) -> list[int]:
    """List candidate execution blocks: as given, or powers of two that leave at least two blocks."""
    if options.execution_block != "auto" or options.budget is not None:
        return [_block(layer, shape, options)]
    sizes = [_fitting(shape, 1 << i) for i in range(4, 14) if 2 << i <= shape.steps]
    return sorted(set(sizes)) or [_block(layer, shape, options)]


def _group(layer: Layer, shape: Shape, block: int, options: Options) -> int | None:
    """Return the number of blocks in flight under a budget."""
    if options.budget is None:
        return options.group
    return max(1, options.budget // (layer.bytes * block * shape.batch))
