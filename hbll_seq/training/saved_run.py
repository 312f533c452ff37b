"""The contents of a training checkpoint, checked as far as possible before they change anything."""

import json
import os
from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.checkpoint import join_state, read, refused
from hbll_seq.errors import InputError
from hbll_seq.training.callbacks import CallbackState
from hbll_seq.training.history import History
from hbll_seq.training.settings import FROM_CONFIG, GROUPS, NOTED, Differences, differences, in_words

HISTORY = "history"  # its JSON as a tensor of bytes: a safetensors header holds 100 MB, a long history more
_NUMBERS = ("step", "loss", "lr", "grad_norm", "seconds")  # one an update


class SavedRun:
    """The contents of a checkpoint file.

    Attributes:
        step: updates made.
        state: states of "model", "optimizer" and "rule".
        callbacks: states of the callbacks.
        run: the history.
        settings: settings that decided the result, or None in files of older versions.

    Raises:
        InputError: no such file, another kind of file, or a damaged one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        tensors, facts = read(path, "checkpoint")
        if "class" in facts and "tree" not in facts:
            raise refused(
                path, "which is a saved model", "checkpoint",
                "a training checkpoint; take hs.load(that file) as the model and another file as the checkpoint",
            )  # fmt: skip
        try:
            self.step: int = facts["step"]
            if not isinstance(self.step, int) or isinstance(self.step, bool) or self.step < 0:
                raise ValueError(f"step {self.step!r}")
            self.settings: dict[str, Any] | None = facts.get("settings")
            if not isinstance(self.settings, dict | None):
                raise ValueError(f"settings that are a {type(self.settings).__name__}")
            self.state: dict[str, Any] = join_state(tensors, facts["tree"])
            for name in ("model", "rule", "optimizer"):
                if not isinstance(self.state[name], dict):
                    raise ValueError(f"a state of the {name} that is a {type(self.state[name]).__name__}")
            states = list(self.state.pop("callbacks"))
            names = facts.get("callbacks", [None] * len(states))
            self.callbacks = [CallbackState(*one) for one in zip(names, states, strict=True)]
            self.run = _history(tensors[HISTORY])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self.damaged(f"{type(error).__name__}: {error}") from error

    def damaged(self, why: str) -> InputError:
        """Return the error for an unusable state."""
        return refused(self._path, f"which holds no state of such a run, or a damaged one ({why})", "checkpoint")

    def compare(self, settings: dict[str, Any], run: History) -> Differences:
        """Return the settings that differ; older files have only those in the history's configuration."""
        if self.settings is not None:
            return differences(self.settings, settings)
        names = (*FROM_CONFIG, "options")
        now = json.loads(json.dumps({k: run.config[k] for k in names if k in run.config}))
        return differences({k: self.run.config[k] for k in names if k in self.run.config}, now)

    def differs(self, found: Differences) -> InputError:
        """Return the error for settings that differ without `resume="changed"`."""
        what = f"True, but {os.fspath(self._path)!r} was written with other settings: {in_words(found)}"
        if self.settings is None:
            what += " (an older version wrote it: data, dtype, and options left at their defaults were not compared)"
        expected = f'the same settings, or resume="changed" to go on from step {self.step} with the new ones'
        if set(found) == {"steps"}:
            expected += (
                f", here to train on to step {found['steps'][1]}; learning rates and discount are then those of a run "
                "of so many steps from here on, so the result is not that of such a run from its start"
            )
        return InputError("resume", what, expected)

    def noted(self, run: History) -> Differences:
        """Return the changes that are recorded but do not count as different settings."""
        was, now = ({**one.versions, "device": one.config.get("device")} for one in (self.run, run))
        return differences({k: was[k] for k in NOTED if k in was}, {k: now[k] for k in NOTED if k in now})

    def group_settings(self) -> list[dict[str, Any]] | None:
        """Return the saved settings of a new optimiser's groups; None in older files."""
        groups = None if self.settings is None else self.settings.get(GROUPS)
        return groups if isinstance(groups, list) and all(isinstance(g, dict) for g in groups) else None

    def check_model(self, model: nn.Module) -> None:
        """Refuse weights of another model: other names, shapes or types.

        Raises:
            InputError: names the first that differs.
        """
        wanted = {k: (tuple(v.shape), v.dtype) for k, v in model.state_dict().items()}
        saved = self.state["model"]
        found = {k: (tuple(v.shape), v.dtype) if isinstance(v, Tensor) else None for k, v in saved.items()}
        other = [k for k in {**wanted, **found} if wanted.get(k) != found.get(k)]
        if other:
            have, want = (f"{_tensor(one.get(other[0]))}" for one in (found, wanted))
            more = f", and {len(other) - 1} more" if len(other) > 1 else ""
            raise InputError(
                "checkpoint",
                f"weights or state of another model in {os.fspath(self._path)!r}: {other[0]!r} is {have}{more}",
                f"those of this one, where it is {want}",
            )

    def misfit(self, optimizer: torch.optim.Optimizer) -> str | None:
        """Return the reason why the state does not fit this optimiser's parameters, or None if it fits."""
        if type(optimizer).state_dict is not torch.optim.Optimizer.state_dict:
            return None  # a form of its own, which it checks itself
        saved = self.state["optimizer"]
        groups, state = saved.get("param_groups"), saved.get("state")
        if not isinstance(groups, list) or not isinstance(state, dict):
            return "no groups and state"
        counts = [len(g["params"]) if isinstance(g, dict) and isinstance(g.get("params"), list) else -1 for g in groups]
        here = [len(g["params"]) for g in optimizer.param_groups]
        if counts != here:
            return f"groups of {counts} parameters, here {here}"
        names = [name for g in groups for name in g["params"]]
        if names != list(range(len(names))) or not all(isinstance(one, dict) for one in state.values()):
            return "groups or state of another form"
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        plain = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        for index, one in state.items():
            if not isinstance(index, int) or not 0 <= index < len(parameters):
                return f"a state of parameter {index!r}, which there is not"
            shape = parameters[index].shape
            wrong = [k for k, v in one.items() if not isinstance(v, Tensor | None) or _odd(v, shape)] if plain else []
            if wrong:
                return f"{wrong[0]!r} of parameter {index} is not of its shape, {tuple(shape)}"
        return None


def _odd(value: Tensor | None, shape: torch.Size) -> bool:
    return value is not None and value.ndim != 0 and value.shape != shape


def _tensor(one: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "absent" if one is None else f"{str(one[1]).removeprefix('torch.')} {one[0]}"


def _history(text: Tensor) -> History:
    """Return the history from its bytes.

    Raises:
        ValueError, KeyError, TypeError: not a history.
    """
    if text.dtype != torch.uint8 or text.ndim != 1:
        raise ValueError(f"a history that is {text.dtype} {tuple(text.shape)}")
    run = History.from_json(text.numpy().tobytes().decode())
    if not isinstance(run.config, dict) or not isinstance(run.versions, dict) or not isinstance(run.changes, list):
        raise ValueError("a history without configuration or versions")
    if not {"step", "loss"} <= run.history.keys() or not all(isinstance(v, list) for v in run.history.values()):
        raise ValueError("a history without steps or losses")
    for name in _NUMBERS:
        if not all(isinstance(v, int | float) for v in run.history.get(name, [])):
            raise ValueError(f"a history whose {name} are no numbers")
    return run
