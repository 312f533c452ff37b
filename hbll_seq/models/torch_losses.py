"""Torch's own losses, by name or as modules; and the choice of a loss for what the user gave.

The mean goes over the targets that count: padding, masked targets and ignored labels are left out before torch's module
sees them.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hbll_seq.data.batch import Batch
from hbll_seq.data.pairs import Pairs
from hbll_seq.data.read_targets import Kind
from hbll_seq.errors import InputError
from hbll_seq.models.given_loss import GivenLoss, Scored, steps

NAMES: dict[str, type[nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss, "nll": nn.NLLLoss, "ctc": nn.CTCLoss,
    "mse": nn.MSELoss, "l1": nn.L1Loss, "smooth_l1": nn.SmoothL1Loss, "huber": nn.HuberLoss,
    "bce": nn.BCELoss, "bce_with_logits": nn.BCEWithLogitsLoss, "poisson_nll": nn.PoissonNLLLoss,
}  # fmt: skip
LABELS = (nn.CrossEntropyLoss, nn.NLLLoss)
EXPECTED = f"one of {sorted(NAMES)}, a module, or a callable (out, y) or (out, y, lengths)"


def make_loss(loss: Any, ignore_index: int) -> GivenLoss:
    """Return the loss for a name, a module or a callable.

    Raises:
        InputError: none of these, or a module with parameters, which nothing would train.
    """
    if isinstance(loss, str):
        if loss not in NAMES:
            raise InputError("loss", repr(loss), EXPECTED)
        kind = NAMES[loss]
        loss = kind(ignore_index=ignore_index) if issubclass(kind, LABELS) else kind()
    elif isinstance(loss, nn.Module):
        if any(p.requires_grad for p in loss.parameters()):
            raise InputError("loss", f"a {type(loss).__name__} with parameters", "parameters in the model alone")
        if type(loss) in NAMES.values():
            loss = copy.deepcopy(loss)  # moved to the model's device
    if isinstance(loss, type) or not callable(loss):
        raise InputError("loss", f"{loss!r}"[:80], EXPECTED)
    if type(loss) in NAMES.values():
        if loss.reduction not in ("mean", "sum"):
            raise InputError("loss", f"reduction={loss.reduction!r}", 'reduction="mean" or "sum": a scalar')
        return CTC(loss) if type(loss) is nn.CTCLoss else Rows(loss, "labels" if isinstance(loss, LABELS) else "values")
    return GivenLoss(loss)


class TorchLoss(GivenLoss):
    """One of torch's own losses."""

    known = True

    def __init__(self, module: Any, kind: Kind) -> None:
        self.ignored = getattr(module, "ignore_index", None)
        self.function, self.kind, self._module = module, kind, module
        self.summed = module.reduction == "sum"
        self.classes: int | None = None
        self._each = copy.copy(module)  # shares its tensors
        self._each.reduction = "none"

    def move(self, function: Any) -> None:
        """See `GivenLoss`."""
        self._module._apply(function)
        self._each = copy.copy(self._module)
        self._each.reduction = "none"

    def named(self) -> str:
        """See `GivenLoss`."""
        return next(name for name, kind in NAMES.items() if type(self.function) is kind)

    def classes_last(self, out: Tensor, y: Tensor) -> Tensor:
        """Return outputs with classes on their last axis."""
        return out

    def check_targets(self, data: Pairs) -> None:
        """Refuse labels outside the classes, once these are known."""
        labels = data.labels()
        if self.kind == "values" or labels.is_floating_point():
            return
        if self.ignored is not None:
            labels = labels[labels != self.ignored]
        if not labels.numel():
            return
        low, high = (int(v) for v in labels.aminmax())
        if low < 0 or (self.classes is not None and high >= self.classes):
            last = "" if self.classes is None else f"..{self.classes - 1}"
            raise InputError("y", f"labels in {low}..{high}", f"labels in 0{last}, as the outputs have")


class Rows(TorchLoss):
    """A loss of one target for each output: a mean over all that count.

    Outputs `(..., V)` go with labels `(...)`, also in torch's layout `(B, V, ...)` where only that fits; values go with
    outputs of their own shape, or with one axis of size 1 more or less.
    """

    def __call__(self, out: Tensor, lengths: Tensor | None, batch: Batch) -> Scored:
        """See `GivenLoss`."""
        out, y, mask = self._matched(out, lengths, batch)
        weight = batch.weight
        if weight is not None:
            weight = weight.view(-1, *[1] * (y.ndim - 1)).expand(y.shape)
        classes = self.kind == "labels" and not y.is_floating_point()
        if mask is not None:
            out, y = out[mask], y[mask]
            weight = None if weight is None else weight[mask]
        if classes:
            out, y = out.reshape(-1, out.shape[-1]), y.reshape(-1)
        elif self.kind == "labels":
            out, y = out.reshape(-1, out.shape[-1]), y.reshape(-1, y.shape[-1])
            weight = None if weight is None else weight.reshape(-1, out.shape[-1])[:, 0]
        size = self._size(y, weight)
        if weight is None:
            return Scored(self.function(out, y), size, out, y)
        each = self._each(out, y)
        total = (each * weight.reshape(each.shape)).sum()
        if self.summed:
            return Scored(total, size, out, y)
        # 0 / 0 where only sequences of weight 0 have targets in this batch
        return Scored(total / torch.as_tensor(size).clamp(min=torch.finfo(total.dtype).tiny), size, out, y)

    def classes_last(self, out: Tensor, y: Tensor) -> Tensor:
        """See `TorchLoss`; torch's layout `(B, V, ...)` is taken for labels `(B, ...)` that only it fits."""
        hard = self.kind == "labels" and not y.is_floating_point()
        torchs = hard and out.ndim == y.ndim + 1 > 2 and out.shape[:-1] != y.shape and out.shape[2:] == y.shape[1:]
        return out.movedim(1, -1) if torchs else out

    def _size(self, y: Tensor, weight: Tensor | None) -> float | Tensor:
        """Return what the mean divides by: targets that count, by their weights."""
        if self.kind == "labels" and not y.is_floating_point():
            table, ignored = getattr(self._module, "weight", None), y.eq(-100 if self.ignored is None else self.ignored)
            if table is None and weight is None:
                return (~ignored).sum()
            each = torch.ones_like(y, dtype=torch.float64) if table is None else table[y.clamp(0, len(table) - 1)]
            each = each if weight is None else each * weight.reshape(-1)
            return each.masked_fill(ignored, 0).sum()
        if weight is not None:
            return weight.sum()
        return float(len(y) if self.kind == "labels" else y.numel())

    def _matched(self, out: Tensor, lengths: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return outputs, targets and mask of equal leading shapes; of labels, outputs `(..., V)`."""
        y, mask = batch.y, batch.mask
        lengths = batch.target_lengths if lengths is None else lengths
        hard = self.kind == "labels" and not y.is_floating_point()
        out = self.classes_last(out, y)
        if not hard and out.shape != y.shape and self.kind == "values":
            if out.shape == (*y.shape, 1):
                out = out.squeeze(-1)
            elif y.shape == (*out.shape, 1):
                y = y.squeeze(-1)
        deep = y.ndim > 1 and out.ndim == y.ndim + hard
        if (
            deep
            and lengths is None
            and y.shape[:2] == batch.x.shape[:2]
            and _longest(batch) == out.shape[1] < y.shape[1]
        ):
            lengths = batch.lengths  # packed, where the longest sequence is on another rank
        if lengths is not None and deep:
            out, y, mask = self._steps(out, y, mask, lengths, batch.target_lengths, hard)
        if (out.shape[:-1] if hard else out.shape) != y.shape:
            self._refuse(out, y, hard)
        return out, y, mask

    def _steps(
        self, out: Tensor, y: Tensor, mask: Tensor | None, lengths: Tensor, targets: Tensor | None, hard: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cut outputs and targets to the same steps; leave out those after each length."""
        if targets is not None and not torch.equal(targets, lengths):
            i = int((targets != lengths).nonzero()[0])
            came = f"{int(targets[i])} targets of a sequence with {int(lengths[i])} outputs"
            raise InputError("y", came, "one target for each output")
        width, low, high = min(out.shape[1], y.shape[1]), int(lengths.min()), int(lengths.max())
        if high > width:
            self._refuse(out, y, hard)
        out, y, mask = out[:, :width], y[:, :width], None if mask is None else mask[:, :width]
        if low < width:
            inside = (torch.arange(width)[None] < lengths[:, None]).to(y.device)
            mask = inside if mask is None else mask & inside.view(*inside.shape, *[1] * (mask.ndim - 2))
        return out, y, mask

    def _refuse(self, out: Tensor, y: Tensor, hard: bool) -> None:
        expected = f"{tuple(out.shape[:-1]) if hard else tuple(out.shape)} for outputs of shape {tuple(out.shape)}"
        raise InputError("y", f"shape {tuple(y.shape)}", expected)


class CTC(TorchLoss):
    """Connectionist temporal classification: label sequences shorter than the outputs, aligned in every way.

    Outputs `(B, T, V)` are scores, or log-probabilities: `log_softmax` is applied, and changes the latter nothing.
    """

    def __init__(self, module: nn.CTCLoss) -> None:
        super().__init__(module, "sequences")
        self.blank, self._infinite = module.blank, module.zero_infinity

    def __call__(self, out: Tensor, lengths: Tensor | None, batch: Batch) -> Scored:
        """See `GivenLoss`."""
        y, n = batch.y, batch.target_lengths
        if out.ndim != 3:
            raise InputError("model", f"outputs of shape {tuple(out.shape)}", "(B, T, V) scores for CTC")
        if n is None:
            n = torch.full((len(y),), y.shape[1])
        lengths = steps(out, lengths, batch)
        self.check_alignment(needed(y.cpu(), n), lengths, " of a batch")
        scores = functional.log_softmax(out, -1).transpose(0, 1)
        if batch.weight is None:
            return Scored(self.function(scores, y, lengths, n), float(len(y)))
        each = self._each(scores, y, lengths, n)
        if self.summed:
            return Scored((each * batch.weight).sum(), float(len(y)))
        size = batch.weight.sum()
        return Scored((each / n.clamp(min=1).to(each) * batch.weight).sum() / size, size)

    def check_alignment(self, need: Tensor, steps: Tensor, of: str = "") -> None:
        """Refuse sequences that need more steps than there are, unless `zero_infinity` says to leave them out.

        Raises:
            InputError: names the first one.
        """
        short = need > steps
        if self._infinite or not bool(short.any()):
            return
        i = int(short.nonzero()[0])
        raise InputError(
            "y", f"labels of sequence {i}{of} that need {int(need[i])} outputs (one each, and one between equal ones)",
            f"at most {int(steps[i])}, its outputs; nn.CTCLoss(zero_infinity=True) leaves such sequences out",
        )  # fmt: skip

    def check_targets(self, data: Pairs) -> None:
        """See `TorchLoss`; the blank is no label."""
        if bool((data.labels() == self.blank).any()):
            raise InputError("y", f"label {self.blank} among the targets", f"other labels: {self.blank} is the blank")
        super().check_targets(data)


def _longest(batch: Batch) -> int:
    """Return the time steps of the packed sequences of a batch, of which some may have none here."""
    return max(1, int(batch.lengths.max()))


def needed(y: Tensor, lengths: Tensor) -> Tensor:
    """Return the outputs that label sequences `(B, L)` need: one a label, and a blank between equal neighbours."""
    inside = torch.arange(y.shape[1])[None] < lengths[:, None]
    again = (y[:, 1:] == y[:, :-1]) & inside[:, 1:]
    return lengths + again.sum(1)
