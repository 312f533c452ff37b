"""The way a module of the user's is called: `forward(x)` or `forward(x, lengths)`, and the forms of what it returns."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from hbll_seq.errors import InputError

LENGTHS = (
    "lengths", "length", "n", "lens", "x_lengths", "x_length", "x_lens", "x_len", "seq_lengths", "seq_lens", "seq_len",
    "sequence_lengths", "input_lengths", "input_lens", "lengths_x", "n_steps",
)  # fmt: skip
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Return the parameters of a function; None if Python cannot tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def lengths_argument(module: nn.Module) -> str | int | None:
    """Return how lengths are given to a module: by a name, as the second argument (1), or not at all.

    They go to a parameter with a usual name for lengths, or to a second parameter without a default.

    Raises:
        InputError: a `forward` that cannot be called with x, or with x and lengths.
    """
    found = parameters(module.forward)
    if found and all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
        wrapped = getattr(module, "module", None)  # DistributedDataParallel and its like pass everything on
        return lengths_argument(wrapped) if isinstance(wrapped, nn.Module) else None
    if found is None:
        return None
    # a default such as 2 says that the name means something else
    free = [p for p in found[1:] if p.name in LENGTHS and (p.default is None or p.default is p.empty)]
    named = [p.name for p in free if p.kind is not p.POSITIONAL_ONLY]
    positional = [p for p in found if p.kind in POSITIONAL]
    required = [p for p in positional if p.default is p.empty]
    only_named = [p.name for p in found if p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in LENGTHS]
    accepts = len(positional) or any(p.kind is p.VAR_POSITIONAL for p in found)
    if not accepts or only_named or len([p for p in required if p.name not in named]) > (1 if named else 2):
        raise InputError(
            "model", f"forward{inspect.signature(module.forward)} of {type(module).__name__}",
            "forward(x) or forward(x, lengths)",
        )  # fmt: skip
    return named[0] if named else 1 if len(required) == 2 else None


def outputs(found: Any, rows: int) -> tuple[Tensor, Tensor | None]:
    """Return outputs, and their lengths `(rows,)` on the CPU if the module returned any.

    Args:
        found: what the module returned: outputs, `(outputs, lengths)`, or a tuple whose first entry is the outputs.
        rows: B.

    Raises:
        InputError: none of these.
    """
    if isinstance(found, PackedSequence):
        return pad_packed_sequence(found, batch_first=True)
    lengths = None
    if isinstance(found, tuple | list) and found:
        second = found[1] if len(found) > 1 else None
        if isinstance(second, Tensor) and second.shape == (rows,) and not second.is_floating_point():
            if second.dtype != torch.bool:
                lengths = second.detach().to("cpu", torch.int64)
        found = found[0]
        if isinstance(found, PackedSequence):
            return pad_packed_sequence(found, batch_first=True)
    if not isinstance(found, Tensor):
        raise InputError("model", f"a module that returns {_kind(found)}", "outputs, or (outputs, lengths)")
    if found.ndim == 0 or len(found) != rows:
        raise InputError("model", f"outputs of shape {tuple(found.shape)}", f"({rows}, ...), one row a sequence")
    if lengths is not None and found.ndim > 1 and int(lengths.max()) > found.shape[1]:
        raise InputError(
            "model", f"output lengths up to {int(lengths.max())}", f"at most {found.shape[1]}, the outputs' steps"
        )
    return found, lengths


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
