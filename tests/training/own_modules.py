"""Modules of a user's own, which tests of `fit` train, and the loop that the user would write."""

import torch
from torch import nn
from torch.nn import functional

from hbll_seq.data.read_pairs import Reading, read_pairs


class Speech(nn.Module):
    """Convolution that halves time, two GRU layers that read both ways, scores for CTC."""

    def __init__(self, bidirectional=True, lengths=True):
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, stride=2, padding=1)
        self.rnn = nn.GRU(6, 8, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(8 * (1 + bidirectional), 5)

    def forward(self, x, lengths):
        h = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        lengths = (lengths + 1) // 2
        packed = nn.utils.rnn.pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False)
        h, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return self.head(h), lengths


class Labeller(nn.Module):
    """An LSTM over symbols with a label for every step."""

    def __init__(self, classes=4):
        super().__init__()
        self.table, self.rnn, self.head = nn.Embedding(7, 5), nn.LSTM(5, 8, batch_first=True), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.rnn(self.table(x))[0])


class Regression(nn.Module):
    """BatchNorm before a GRU, a value for every sequence."""

    def __init__(self):
        super().__init__()
        self.norm, self.rnn, self.head = nn.BatchNorm1d(3), nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        h = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.rnn(h)[0].mean(1))


class Attending(nn.Module):
    """Attention over the outputs of an RNN, a label for every sequence."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)  # a bias of keys has no gradient
        self.head = nn.Linear(8, 3)

    def forward(self, x, lengths):
        h = self.rnn(x)[0]
        padding = torch.arange(x.shape[1])[None] >= lengths[:, None]
        h = h + self.attention(h, h, h, key_padding_mask=padding)[0]
        return self.head(h[torch.arange(len(x)), lengths - 1])


def features(lengths, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, generator=g) for n in lengths]


def labels(shape, classes=4, seed=2):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def label_sequences(lengths, seed=3):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 5, (n,), generator=g) for n in lengths]


def loop(module, x, y, loss, *, kind, steps, batch_size, lr=1e-2, seed=0, clip=1.0):
    """Train as one would by hand: `loss(module, batch)` over the batches that `fit` draws."""
    source = read_pairs(x, y, Reading(kind, next(module.parameters()).dtype))
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    losses = []
    module.train()
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - i / steps)
        optimizer.zero_grad()
        value = loss(module, source.batch(i, batch_size, seed))
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        losses.append(value.item())
    return losses


def ctc(module, batch):
    out, lengths = module(batch.x, batch.lengths)
    log = functional.log_softmax(out, -1).transpose(0, 1)
    return functional.ctc_loss(log, batch.y, lengths, batch.target_lengths)
