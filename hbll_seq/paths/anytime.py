"""Any-time prediction: go on along longer paths until the answer is confident.

The first nodes of the short path are paths too: (4,), (4, 6) and (4, 6, 7) for N = 8. Each costs one module more than
the one before it and starts from its state. So an answer that is confident after the first module saves all the others.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.inputs import as_sequences
from hbll_seq.data.scalars import integer, number
from hbll_seq.errors import InputError
from hbll_seq.models.layered import Layered


class Anytime(NamedTuple):
    """Answers and their cost.

    Attributes:
        labels: `(N,)` int64.
        confidence: `(N,)` probability of the label.
        modules: `(N,)` number of modules run for each input, from 1 to all of the short path.
    """

    labels: Tensor
    confidence: Tensor
    modules: Tensor


@torch.no_grad()
def predict_anytime(model: Layered, x: Tensor, confidence: float = 0.9, batch_size: int = 256) -> Anytime:
    """Classify along the short path; each input stops at the first node whose answer is confident enough.

    Args:
        model: a classifier with one label an input, trained for every path (rule "hbll" with `paths="any"`).
        x: `(N, *input_shape)`, as for the model.
        confidence: least probability of an answer, 0..1; the last node answers whatever its confidence.
        batch_size: inputs at a time.

    Raises:
        InputError: a model trained for its full path alone, another kind of model, inputs that `predict` would not
            take, or another argument out of range.
    """
    if not isinstance(model, Layered):
        raise InputError("model", type(model).__name__, "a Layered")
    if model.task != "sequence" or model.objective != "cross_entropy":
        raise InputError("model", f"task {model.task!r} with {model.objective}", "a classifier with one label an input")
    if model.trained_for == "full":
        wanted = 'one trained for every path: hs.fit(model, ..., rule="hbll", paths="any")'
        raise InputError("model", "a network trained for its full path alone", wanted)
    confidence, batch_size = number("confidence", confidence, most=1.0), integer("batch_size", batch_size)
    x = as_sequences(x, model)[0].to(next(model.parameters()).device)
    spine = model.path("short")
    parts = []
    was = model.training
    model.eval()
    try:
        for rows in x.split(batch_size):
            labels = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            sure, used = labels.float(), labels.clone()
            open_ = torch.arange(len(rows), device=rows.device)  # not yet answered
            z = model.embed(rows)
            for k, node in enumerate(spine):
                z = model.layers[node - 1](z)
                p, best = torch.softmax(model.head(z), -1).max(-1)
                done = p >= confidence if k + 1 < len(spine) else torch.ones_like(p, dtype=torch.bool)
                labels[open_[done]], sure[open_[done]], used[open_[done]] = best[done], p[done].float(), k + 1
                open_, z = open_[~done], z[~done]
                if not len(open_):
                    break
            parts.append(Anytime(labels, sure, used))
    finally:
        model.train(was)
    return Anytime(*(torch.cat(column) for column in zip(*parts, strict=True)))
