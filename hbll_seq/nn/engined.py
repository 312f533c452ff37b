"""What makes a module a layer of `hbll_seq.nn`: an engine of its own, and the way its cells run.

Engine state is no part of a state_dict: weights alone decide what a layer computes. It survives copies and pickles.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.cells import Cell, own_precision
from hbll_seq.engine import Engine, Execute, Options
from hbll_seq.engine.execution import sequential, told
from hbll_seq.errors import InputError
from hbll_seq.nn.projected import Projected
from hbll_seq.nn.stack import Between, run_stack

# Finer than a rule's: a layer stands in for PyTorch's, and where credit does not fade errors of messages add up from
# block to block (a float64 GRU over 1,000 time steps: 3e-4 left a weight's gradient 50 % off)
FINE = 1e-8


class Engined(nn.Module):
    """A mixin: a module whose recurrent layers run by an engine.

    With gradient they run by the execution that a rule set (`executing`), or by the module's own engine with whole
    credit: the gradient is BPTT's to the engine's tolerances. Without gradient they run as the deployed chain.
    """

    @property
    def engine(self) -> Engine:
        """The engine of this module: its options, and the records of its latest pass."""
        engine = vars(self).get("_engine")
        if not isinstance(engine, Engine):
            engine = vars(self)["_engine"] = Engine(layer_options({}))
        return engine

    def __prepare_scriptable__(self) -> "Engined":
        """Refuse `torch.jit.script`, which calls this first; it cannot compile an engine.

        Raises:
            InputError: always.
        """
        came = f"torch.jit.script of a {type(self).__module__.split('.')[0]}.nn.{type(self).__name__}"
        wanted = "a GRU, LSTM or RNN after hs.revert(model); or torch.export, hs.export"
        raise InputError("model", came, wanted)

    def set_engine(self, options: dict[str, Any]) -> None:
        """Give the module a new engine with these options (`Options`), before its first pass.

        Raises:
            InputError: an unknown option or a value out of range.
        """
        vars(self)["_engine"] = Engine(layer_options(options))

    def set_execution(self, execute: Execute | None, first: int = 0) -> None:
        """Run the cells by `execute`, numbered from `first`, until another call; None for the module's own engine."""
        vars(self)["_execution"] = None if execute is None else (execute, first)

    def run_cells(
        self, layers: Sequence[Sequence[Cell | Projected]], x: Tensor, starts: Sequence[Tensor | None],
        lengths: Tensor | None, *,
        between: Between, ends: bool,
    ) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
        """Run a stack of cells; arguments and results as for `run_stack`."""
        weights = [p for cells in layers for cell in cells for p in cell.parameters()]
        wanted = torch.is_grad_enabled() and any(one.requires_grad for one in (x, *starts, *weights) if one is not None)
        with torch.set_grad_enabled(wanted), own_precision(x):
            execute = self._execute(x) if wanted else sequential
            return run_stack(layers, x, starts, lengths, execute, between=between, ends=ends)

    def _execute(self, x: Tensor) -> Execute:
        given = vars(self).get("_execution")
        if given is not None:
            execute, first = given

            def shifted(
                layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
            ) -> tuple[Tensor, Tensor | None]:
                found: tuple[Tensor, Tensor | None] = execute(first + layer, cell, x, state, lengths, end=end)
                return found

            return told(shifted, getattr(execute, "engine", None))
        engine = self.engine
        engine.renew()
        credit, discount = engine.credit_block(x.shape[1], len(x)), engine.options.discount

        def own(
            layer: int, cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None, *, end: bool
        ) -> tuple[Tensor, Tensor]:
            return engine.layer(layer, cell, x, state, lengths, credit, float(discount), end=end)

        return told(own, engine)


def layer_options(options: dict[str, Any]) -> Options:
    """Return the options of a layer's own engine: credit is whole unless a discount is given, and tolerances are fine.

    Raises:
        InputError: an unknown option or a value out of range.
    """
    known = Options.names()
    for name in options:
        if name not in known:
            raise InputError(name, "an option that the engine does not have", f"one of {sorted(known)}")
    if options.get("execution") == "measured":
        raise InputError("execution", '"measured" for a layer', "another one: only a rule's updates can be timed")
    if options.get("discount") == "auto":
        raise InputError(
            "discount", '"auto" for a layer', "a number from 0 to 1: a layer does not see a run's progress"
        )
    exact = {} if options.get("precision") == "bf16" else {"tolerance": FINE, "feedback_tolerance": FINE}
    return Options(**{"discount": 1.0, **exact, **options})
