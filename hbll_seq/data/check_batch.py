"""Check of a `Batch` made by the user, with the rules that `fit` has for its data."""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.batch import Batch
from hbll_seq.data.checks import check_dtype, check_lengths, check_shape, check_values, dtype_of
from hbll_seq.data.expected import Expected
from hbll_seq.data.targets import check_labels
from hbll_seq.data.tensors import plain
from hbll_seq.errors import InputError


def check_batch(batch: Any, model: Expected) -> Batch:
    """Return the batch with x and y in the model's dtypes; it stays on its device.

    Raises:
        InputError: no `Batch`; tensors whose shapes, dtypes or ranges `Batch` does not allow; tensors on another
            device than the model.
    """
    if not isinstance(batch, Batch):
        raise InputError("batch", type(batch).__name__, "a hbll_seq.Batch(x, lengths, y, mask)")
    where = next(model.parameters()).device
    x, y, lengths = _tensor(batch.x, "batch.x", where), _tensor(batch.y, "batch.y", where), batch.lengths
    lengths = _tensor(lengths, "batch.lengths", torch.device("cpu"))
    mask = None if batch.mask is None else _tensor(batch.mask, "batch.mask", where)
    x, full = check_shape(check_dtype(x, model), None, model)
    if x.shape != batch.x.shape:
        raise InputError("batch.x", f"shape {tuple(batch.x.shape)}", "a batch axis too: (B, T), (B, T, D)")
    check_values(x, model)
    lengths = full if model.input_kind == "array" else check_lengths(lengths, len(x), x.shape[1])
    steps = () if model.task == "sequence" else (x.shape[1],)
    values = (model.output_size,) if model.objective == "mse" else ()
    if y.shape != (len(x), *steps, *values):
        raise InputError("batch.y", f"shape {tuple(y.shape)}", f"{(len(x), *steps, *values)}")
    if mask is not None and (not steps or mask.shape != (len(x), *steps) or mask.dtype != torch.bool):
        expected = f"{(len(x), *steps)} of torch.bool" if steps else "None: there is one target a sequence"
        raise InputError("batch.mask", f"shape {tuple(mask.shape)} of {mask.dtype}", expected)
    if model.objective == "cross_entropy":
        y = check_labels(y, model, mask)
    else:
        y = y.to(dtype_of(model))
        if not torch.isfinite(y if mask is None else y[mask]).all():
            raise InputError("batch.y", "NaN or infinity", f"finite numbers in {y.dtype}")
    return Batch(x.to(torch.int64) if model.input_kind == "symbols" else x, lengths, y, mask)


def _tensor(value: Any, name: str, where: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        raise InputError(name, type(value).__name__, "a tensor")
    if value.device != where:
        raise InputError(name, f"a tensor on {value.device}", f"on {where}: batch.to(device)")
    return plain(value, name)
