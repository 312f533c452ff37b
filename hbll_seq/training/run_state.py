"""The state of a run in a file: a resumed run equals one that was never stopped, bit for bit.

The file holds weights, optimiser, rule, callbacks, the state carried along streams, history, the number of updates, and
the settings that decide the result. Data order needs no state: batch i is a function of (seed, i). A failed write costs
the run nothing: the old file stays, and training goes on.
"""

import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq import rules
from hbll_seq.checkpoint import WriterLock, split_state, write
from hbll_seq.errors import InputError, warn
from hbll_seq.training.callbacks import Callbacks, CallbackState
from hbll_seq.training.carried import Carried
from hbll_seq.training.history import History
from hbll_seq.training.saved_run import HISTORY, SavedRun
from hbll_seq.training.settings import GROUPS, Differences, plain_settings

Path = str | os.PathLike[str]
ELSEWHERE = {"stateful", "data", "batch_size", "window", "seed"}  # changed, batch i goes on from no saved state


class Trained:
    """Everything that training changes, and the file that keeps it.

    A context: at its end another run may write the file.

    Args:
        run, model, optimizer, rule, callbacks: parts of the run; the optimiser is new.
        settings: settings that decide the result (`training.settings.decisive`); empty without a file.
        path: the file, or None.
        carried: the state carried along streams.
        writes: whether this process writes the file; it reads it in any case.

    Raises:
        InputError: another run is writing the file.
    """

    def __init__(
        self, run: History, model: nn.Module, optimizer: torch.optim.Optimizer, rule: rules.Rule[Any],
        callbacks: Callbacks, settings: dict[str, Any], path: Path | None, carried: Carried, *, writes: bool = True,
    ) -> None:  # fmt: skip
        self.run, self.model, self.optimizer, self.rule, self.callbacks = run, model, optimizer, rule, callbacks
        self._settings, self._path, self._carried = settings, path, carried
        self._fresh = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self._before: dict[str, Tensor] = {}
        self._lock = None if path is None or not writes else WriterLock(path)
        self._writes = writes

    def __enter__(self) -> "Trained":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the file."""
        if self._lock is not None:
            self._lock.release()

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return split_state(
            {
                "model": dict(self.model.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                "rule": self.rule.state_dict(),
                "callbacks": [one.state for one in self.callbacks.state_dict()],
                "carried": self._carried.state_dict(),
            },
            "state",
        )

    def rehearse(self) -> None:
        """Refuse, before the first update, callbacks and rules whose state a file could not restore.

        Raises:
            InputError: names the callback or rule.
        """
        if self._path is None:
            return
        for name, one in [("rule", self.rule), *(("callbacks", one) for one in self.callbacks.stateful())]:
            what = type(one).__name__
            if not callable(getattr(one, "load_state_dict", None)):
                raise InputError(name, f"{what} with state_dict and no load_state_dict", "both, or neither")
            try:
                json.dumps(split_state(one.state_dict(), what)[1])
            except TypeError as error:
                expected = "tensors, arrays, numbers, text, lists, tuples and dictionaries of these, for checkpoint="
                raise InputError(name, f"a state of {what} that cannot be kept ({error})", expected) from error

    def store(self, step: int) -> bool:
        """Write the state after `step` updates; on failure warn, keep the old file, and return False."""
        if self._path is None or not self._writes:
            return False
        try:
            tensors, tree = self._state()
            tensors[HISTORY] = torch.frombuffer(bytearray(self.run.to_json().encode()), dtype=torch.uint8)
            names = [one.name for one in self.callbacks.state_dict()]
            facts = {"tree": tree, "step": step, "callbacks": names, "settings": self._settings}
            write(self._path, tensors, facts)
        except Exception as error:  # a user's state_dict may raise anything
            warn(
                f"checkpoint {os.fspath(self._path)!r} not written ({error}); training goes on, the last one stays",
                UserWarning,
            )
            return False
        return True

    def begin(self, resume: bool | str) -> tuple[int, list[CallbackState]]:
        """Restore the file's state if asked to and if the file exists; release the file on failure.

        Returns:
            The number of updates made, and the callbacks' states for `Callbacks.load_state_dict`.

        Raises:
            InputError: see `restore`.
        """
        if self._path is None or not resume or not os.path.exists(self._path):
            return 0, []
        try:
            return self.restore(changed=resume == "changed")
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def restore(self, changed: bool) -> tuple[int, list[CallbackState]]:
        """Restore the state, with its own settings or, where `changed`, with the current ones.

        Raises:
            InputError: no checkpoint, a damaged one, one of another model, or settings that differ
                without `changed`; nothing has changed then.
        """
        assert self._path is not None
        saved = SavedRun(self._path)
        found = saved.compare(self._settings, self.run)
        if found and not changed:
            raise saved.differs(found)
        saved.check_model(self.model)
        same_rule, same_optimizer = "rule" not in found, self._goes_on(saved, found)
        self._before = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(saved.state["model"])
            if same_rule:
                self.rule.load_state_dict(saved.state["rule"])
            if same_optimizer:
                self.optimizer.load_state_dict(saved.state["optimizer"])
            if not found.keys() & ELSEWHERE:
                self._carried.load_state_dict(saved.state.get("carried"))
        except Exception as error:  # a user's rule or optimiser may raise anything
            self._put_back()
            raise saved.damaged(f"{type(error).__name__}: {error}") from error
        self._apply(saved.group_settings(), found)
        self.run.history, self.run.changes = saved.run.history, saved.run.changes
        noted = found | saved.noted(self.run)
        if not same_optimizer:
            noted["state of the optimizer"] = ["kept", "anew"]
        if self._carried.streams is not None and found.keys() & ELSEWHERE:
            noted["carried state"] = ["kept", "anew"]
        if noted:
            self.run.changes.append({"step": saved.step, "changed": noted})
        return saved.step, saved.callbacks

    def _goes_on(self, saved: SavedRun, found: Differences) -> bool:
        """Return whether the optimiser takes over the saved state: it has the same name and the same parameters.

        Raises:
            InputError: it should, and the state does not fit its parameters.
        """
        if "optimizer" in found:
            return False
        why = saved.misfit(self.optimizer)
        if why and not found.keys() & {"rule", GROUPS}:  # a rule may add parameters, a factory groups
            raise saved.damaged(f"optimizer: {why}")
        return why is None

    def _put_back(self) -> None:
        """Put back the weights from before `restore`."""
        with torch.no_grad():
            for name, value in self.model.state_dict().items() if self._before else ():
                value.copy_(self._before[name])

    def ready(self, states: list[CallbackState]) -> None:
        """Give the callbacks their states after their `on_fit_begin`; check that a file can keep all states.

        Raises:
            InputError: a callback rejects its state, or see `rehearse`; nothing has changed then.
        """
        try:
            self.callbacks.load_state_dict(states)
            self.rehearse()
        except InputError:
            self._put_back()
            raise
        self._before = {}

    def _apply(self, was: list[dict[str, Any]] | None, found: Differences) -> None:
        """Give the optimiser the changed settings; all others in its groups come from the saved state.

        Learning rates are those of a new optimiser: the schedule starts from them.
        """
        for i, (group, fresh) in enumerate(zip(self.optimizer.param_groups, self._fresh, strict=True)):
            group["lr"] = fresh["lr"]
            if was is None:  # an older file records no settings of its groups
                changed = {"weight_decay"} & found.keys() & fresh.keys()
            else:
                before = was[i] if i < len(was) else {}
                changed = {k for k, v in plain_settings(fresh).items() if k not in before or before[k] != v}
            group.update({k: fresh[k] for k in changed})
