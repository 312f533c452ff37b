"""`LastGood`: weights to return to when an update is interrupted or goes wrong."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class LastGood:
    """Two copies of a model's weights: from before the current update, and from the last update with a finite loss.

    Call `begin` before every update and `end` after it. Then, whenever the run stops:

    - after `undo_unfinished` no weight belongs to an unfinished update;
    - after `restore` the weights are those with which the rule last found a finite loss and gradient; before the first
      such update, those the run began with.

    Weights are put back in place, so that the optimiser and the user keep their tensors. Only the weights come back:
    the optimiser's state, the rule's own parameters and the model's buffers stay as they are.

    Cost: two copies of the weights in memory, one copying of them an update.

    Attributes:
        weights: the parameters to protect.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self.weights = list(weights)
        self._good = [p.detach().clone() for p in self.weights]
        self._before = [p.detach().clone() for p in self.weights]
        self._unfinished = False

    def begin(self) -> None:
        """Remember the current weights; an update may change them from now on."""
        torch._foreach_copy_(self._before, [p.detach() for p in self.weights])
        self._unfinished = True

    def end(self, finite: bool) -> None:
        """Declare the update finished. `finite`: its loss and gradients were, so the weights before it are good."""
        self._unfinished = False
        if finite:
            self._good, self._before = self._before, self._good

    def undo_unfinished(self) -> None:
        """Put back the weights of `begin` if no `end` followed."""
        if self._unfinished:
            self._put_back(self._before)

    def restore(self) -> None:
        """Put back the good weights."""
        self._put_back(self._good)

    def _put_back(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_([*self.weights], values)
