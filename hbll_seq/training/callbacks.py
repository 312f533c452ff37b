"""Four hooks, early stopping, and what else a run can call: `CSVLogger`, `TensorBoard`, `BestCheckpoint`.

A callback is an object with any of `on_fit_begin(run)`, `on_step_end(run, step)`, `on_validation(run, step)`,
`on_fit_end(run)`, where `run` is the `History` so far. A plain callable serves as `on_validation`.
A hook that returns True stops the training. A callback with `state_dict` and `load_state_dict` resumes from a
checkpoint. Its state may hold tensors, arrays, numbers, text, and lists, tuples and dictionaries of these;
`fit(checkpoint=...)` refuses any other.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hbll_seq.errors import InputError
from hbll_seq.training.history import History
from hbll_seq.training.loggers import BestCheckpoint as BestCheckpoint
from hbll_seq.training.loggers import CSVLogger as CSVLogger
from hbll_seq.training.loggers import TensorBoard as TensorBoard
from hbll_seq.training.loggers import latest, sign_of

HOOKS = ("on_fit_begin", "on_step_end", "on_validation", "on_fit_end")


class EarlyStopping:
    """Stop when a validation figure has not improved for a while.

    Args:
        monitor: name in the history, e.g. "val_loss" or "val_accuracy".
        mode: "min" or "max", what is better; "auto" takes "max" for names that end in "accuracy", "min" for "val_loss"
            and names that end in "loss", "perplexity", "error_rate" or "per_byte", and asks for a mode otherwise.
        min_delta: smallest change that counts as an improvement.
        patience: validations without an improvement before stopping.
        restore_best_weights: leave the model with the best weights seen, also when training ends for another reason.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 5,
        restore_best_weights: bool = True,
        mode: Literal["auto", "min", "max"] = "auto",
    ) -> None:
        self.sign = sign_of(monitor, mode)
        if min_delta < 0:
            raise InputError("min_delta", min_delta, "a number >= 0")
        if patience < 1:
            raise InputError("patience", patience, "an integer >= 1")
        self.monitor, self.min_delta, self.patience = monitor, min_delta, patience
        self.restore_best_weights = restore_best_weights
        self.best = float("inf")
        self.waited = 0
        self._weights: dict[str, Tensor] | None = None

    def on_fit_begin(self, run: History) -> None:
        """Forget earlier runs."""
        self.best, self.waited, self._weights = float("inf"), 0, None

    def on_validation(self, run: History, step: int) -> bool:
        """Compare with the best so far; return True when patience is used up."""
        value = self.sign * latest(run, self.monitor)
        if value < self.best - self.min_delta:
            self.best, self.waited = value, 0
            if self.restore_best_weights and run.model is not None:
                self._weights = {k: v.detach().clone() for k, v in run.model.state_dict().items()}
            return False
        self.waited += 1
        if self.waited >= self.patience:
            run.stopped_reason = "early_stopping"
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the state that makes a resumed run stop where an uninterrupted one would."""
        return {"best": self.best, "waited": self.waited, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self.best, self.waited, self._weights = state["best"], state["waited"], state["weights"]

    def on_fit_end(self, run: History) -> None:
        """Put the best weights back."""
        if self._weights is not None and run.model is not None:
            with torch.no_grad():
                run.model.load_state_dict(self._weights)


class CallbackState(NamedTuple):
    """The state of one callback, and the name of its class (None in files of older versions)."""

    name: str | None
    state: Any


class Callbacks:
    """The callbacks of a run, called in order.

    Attributes:
        needs_validation: whether one of them does nothing without validation data.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        if not isinstance(callbacks, Iterable):
            raise InputError("callbacks", type(callbacks).__name__, "a list of callbacks")
        self._all = list(callbacks)
        self._hooks: dict[str, list[Callable[..., Any]]] = {name: [] for name in HOOKS}
        self.needs_validation = any(isinstance(one, EarlyStopping | BestCheckpoint) for one in self._all)
        for one in self._all:
            found = [(name, getattr(one, name)) for name in HOOKS if callable(getattr(one, name, None))]
            if not found and callable(one):
                found, self.needs_validation = [("on_validation", one)], True
            if not found:
                raise InputError("callbacks", type(one).__name__, f"a callable, or an object with one of {HOOKS}")
            for name, hook in found:
                self._hooks[name].append(hook)

    def __len__(self) -> int:
        """Return the number of callbacks."""
        return len(self._all)

    def call(self, name: str, *args: Any) -> bool:
        """Call every hook of that name; return True if one wants to stop."""
        return any([hook(*args) is True for hook in self._hooks[name]])

    def stateful(self) -> list[Any]:
        """Return the callbacks that have a state."""
        return [one for one in self._all if hasattr(one, "state_dict")]

    def state_dict(self) -> list[CallbackState]:
        """Return the states of all callbacks, None for those without one."""
        return [
            CallbackState(type(one).__qualname__, one.state_dict() if hasattr(one, "state_dict") else None)
            for one in self._all
        ]

    def load_state_dict(self, states: list[CallbackState]) -> None:
        """Restore states returned by `state_dict`. Callbacks may have been added, removed or moved since.

        A callback takes the first unused state of its class. Files of older versions do not name classes: their states
        are taken in order.

        Raises:
            InputError: a callback rejects its state.
        """
        left = list(states)
        for one in self._all:
            at = next((i for i, s in enumerate(left) if s.name in (None, type(one).__qualname__)), None)
            if at is None:
                continue
            mine = left.pop(at)
            if mine.state is not None and hasattr(one, "load_state_dict"):
                try:
                    one.load_state_dict(mine.state)
                except Exception as error:  # the user's code may raise anything
                    what = f"a state of {type(one).__name__} that it does not take ({type(error).__name__}: {error})"
                    raise InputError("checkpoint", what, "one that its state_dict gave") from error
