"""The log-likelihood of given texts, many at a time, in memory that does not grow with their lengths."""

from typing import NamedTuple

import torch
from torch import Tensor

from hbll_seq.models.recurrent import SequenceModel

ROOM = 1 << 22  # predictions held at once


class LogLikelihood(NamedTuple):
    """Scores of texts.

    Attributes:
        total: `(N,)` float64, the log-probability of each text's symbols that count, in nats.
        symbols: `(N,)` int64, how many they are.
    """

    total: Tensor
    symbols: Tensor

    @property
    def mean(self) -> Tensor:
        """`(N,)` nats a symbol."""
        return self.total / self.symbols


@torch.no_grad()
def log_likelihood(model: SequenceModel, texts: list[Tensor], first: list[int], batch_size: int) -> LogLikelihood:
    """Score texts by the deployed chain.

    Args:
        model: a model of the next symbol.
        texts: symbols `(n,)` int64 each, n >= 2.
        first: place of the first symbol of each text that counts, >= 1.
        batch_size: texts at a time; texts of about the same length go together.
    """
    total, where = torch.zeros(len(texts), dtype=torch.float64), model.readout.weight.device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        some = torch.nn.utils.rnn.pad_sequence([texts[i] for i in rows], batch_first=True).to(where)
        begin, stop = (torch.tensor([v[i] for i in rows]) for v in (first, [len(one) for one in texts]))
        state: list[Tensor] | None = None
        width = max(1, ROOM // (len(rows) * model.output_size))
        for start in range(0, some.shape[1] - 1, width):
            end = min(start + width, some.shape[1] - 1)
            scores, state = model.advance_all(some[:, start:end], state)
            wanted = some[:, start + 1 : end + 1, None]  # (B, width, 1)
            found = torch.log_softmax(scores, -1).gather(-1, wanted)[..., 0].double().cpu()
            places = torch.arange(start + 1, end + 1)
            counts = (places >= begin[:, None]) & (places < stop[:, None])
            total[rows] += torch.where(counts, found, 0.0).sum(1)
    return LogLikelihood(total, torch.tensor([len(one) - n for one, n in zip(texts, first, strict=True)]))
