"""The state of a run in a file: a resumed run equals one that was never stopped, bit for bit.

Weights, optimiser, rule, callbacks, history and step. Data order needs none: batch i is a function
of (seed, i). A write that fails costs the run nothing: the file before it stays, and training goes on.
"""

import os
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from hbll_seq import rules
from hbll_seq.checkpoint import join_state, read, split_state, write
from hbll_seq.errors import InputError, warn
from hbll_seq.training.callbacks import Callbacks
from hbll_seq.training.history import History

HISTORY = "history"  # bytes of its JSON as a tensor: a header of safetensors holds 100 MB, a long history more


class Trained:
    """Everything that changes while a model is trained."""

    def __init__(
        self,
        run: History,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rule: rules.Rule[Any],
        callbacks: Callbacks,
    ) -> None:
        self.run, self.model, self.optimizer, self.rule, self.callbacks = run, model, optimizer, rule, callbacks

    def store(self, path: str | os.PathLike[str], step: int) -> bool:
        """Write the state after `step` steps; on failure warn, keep the file there was, and return False."""
        try:
            tensors, tree = split_state(
                {
                    "model": dict(self.model.state_dict()),
                    "optimizer": self.optimizer.state_dict(),
                    "rule": self.rule.state_dict(),
                    "callbacks": self.callbacks.state_dict(),
                },
                "state",
            )
            tensors[HISTORY] = torch.frombuffer(bytearray(self.run.to_json().encode()), dtype=torch.uint8)
            write(path, tensors, {"tree": tree, "step": step, "rule": self.rule.name})
        except (OSError, SafetensorError, TypeError, ValueError) as error:  # the latter two: a state that is not JSON
            warn(
                f"checkpoint {os.fspath(path)!r} not written ({error}); training goes on, the last one stays",
                UserWarning,
            )
            return False
        return True

    def restore(self, path: str | os.PathLike[str]) -> tuple[int, list[Any]]:
        """Put the state back; return the step reached, and the callbacks' states for `Callbacks.load_state_dict`.

        Raises:
            InputError: no checkpoint, or one of another rule, optimiser or model; nothing has changed then.
        """
        tensors, facts = read(path)
        if facts.get("rule") != self.rule.name:
            raise InputError("checkpoint", f"a run of rule {facts.get('rule')!r}", f"one of rule {self.rule.name!r}")
        was = History.from_json(tensors[HISTORY].numpy().tobytes().decode())
        if was.config["optimizer"] != self.run.config["optimizer"]:
            raise InputError(
                "checkpoint", f"a run of optimizer {was.config['optimizer']!r}", f"{self.run.config['optimizer']!r}"
            )
        state = join_state(tensors, facts["tree"])
        before: dict[str, Tensor] = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        try:
            self.model.load_state_dict(state["model"])
            self.rule.load_state_dict(state["rule"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            # a mismatch of sizes is found after the sizes that match were copied
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    value.copy_(before[name])
            raise InputError(
                "checkpoint", "weights or state of another model", f"those of this one ({error})"
            ) from error
        self.run.history = was.history
        return int(facts["step"]), state["callbacks"]
