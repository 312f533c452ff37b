"""`LastGood`: the weights that a run goes back to when an update is interrupted or goes wrong."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class LastGood:
    """Copies of a model's weights from before the update being made, and from the last update whose loss was finite.

    Around every update call `begin`, and `end` when it is made. Guaranteed then, whenever the run stops:

    - after `undo_unfinished` no weight is part of an update that was not made to its end;
    - after `restore` the weights are those with which the rule last found a finite loss and gradient; before the first
      such update, those the run began with.

    Weights are put back in place, so that the optimiser and the user keep their tensors. Only the weights come back:
    the optimiser's state, the rule's own parameters and the model's buffers stay as they are.

    Cost: two copies of the weights in memory, one copying of them an update.

    Attributes:
        weights: the parameters that are looked after.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self.weights = list(weights)
        self._good = [p.detach().clone() for p in self.weights]
        self._before = [p.detach().clone() for p in self.weights]
        self._unfinished = False

    def begin(self) -> None:
        """Remember the weights as they are; an update may change them from now on."""
        torch._foreach_copy_(self._before, [p.detach() for p in self.weights])
        self._unfinished = True

    def end(self, finite: bool) -> None:
        """Declare the update finished; `finite`: loss and gradients were, so the weights it began with are good."""
        self._unfinished = False
        if finite:
            self._good, self._before = self._before, self._good

    def undo_unfinished(self) -> None:
        """Put back the weights of `begin`, where no `end` came since."""
        if self._unfinished:
            self._put_back(self._before)

    def restore(self) -> None:
        """Put back the good weights."""
        self._put_back(self._good)

    def _put_back(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_([*self.weights], values)
