"""`Encoder`: from the time steps of a front end to those of the recurrent layers of a `Transcriber`.

Three stages, each left out if not asked for: *filters* for raw frames, whose outputs are squared, averaged over some
time steps and put on a logarithmic scale; *normalisation*, which takes the mean of each feature away; *convolutions*
with a ReLU, which may take several time steps at a time (stride).

A causal encoder reads no later time step than its output's own, so that a sound in chunks gives the same as the whole
(`Encoder.stream`). All stages read zeros before the first time step and after the last one.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

PRIOR = 25  # time steps that the learned level counts for in a running mean
LEVEL = -4.0  # where that level starts, a faint sound in nats
FLOOR = 1e-6  # added to a power before its logarithm: -60 dB of a wave in -1..1


class Window(NamedTuple):
    """Time steps that one output reads: `kernel` of them, `stride` after those of the output before."""

    kernel: int
    stride: int
    causal: bool

    def left(self) -> int:
        """Return the zeros before the first time step."""
        return self.kernel - self.stride if self.causal else (self.kernel - self.stride) // 2

    def steps(self, lengths: Tensor) -> Tensor:
        """Return the outputs of sequences with these lengths: one for every `stride` time steps that began."""
        return (lengths + self.stride - 1) // self.stride

    def padded(self, x: Tensor) -> Tensor:
        """Return `(B, C, T)` with the zeros that its outputs read before and after it."""
        whole = -(-x.shape[-1] // self.stride) * self.stride
        left = self.left()
        return functional.pad(x, (left, self.kernel - self.stride - left + whole - x.shape[-1]))


class Filters(nn.Module):
    """Filters over raw frames: ln(mean square of their outputs over `pool` time steps + 1e-6).

    They start as waves of random phase under a Hann window, of norm 1, their frequencies evenly spaced on the mel scale
    (of 8,000 samples a second), and are trained as all weights.

    Args:
        size: samples per time step D.
        channels: filters C.
        kernel: time steps that a filter reads.
        pool: time steps of the mean.
        stride: time steps between two outputs.
        causal: whether no later time step is read.
    """

    def __init__(self, size: int, channels: int, kernel: int, pool: int, stride: int, causal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, channels, kernel, bias=False)
        with torch.no_grad():
            t = torch.arange(kernel * size)
            top = math.log1p(4000 / 700)
            cycles = 700 / 8000 * torch.expm1(torch.linspace(0.15, 0.97, channels) * top)  # a sample
            waves = torch.sin(2 * math.pi * (cycles[:, None] * t + torch.rand(channels)[:, None]))
            waves = waves * torch.hann_window(kernel * size)
            waves = waves / torch.linalg.vector_norm(waves, dim=1, keepdim=True)
            self.conv.weight.copy_(waves.view(channels, kernel, size).transpose(1, 2))
        self.windows = Window(kernel, 1, causal), Window(pool, stride, causal)

    def outputs(self, x: Tensor, stage: int) -> Tensor:
        """Return the first stage's squares, or the logarithms of the second one's means, of padded `(B, C, T)`."""
        if stage == 0:
            return self.conv(x).square()
        return torch.log(functional.avg_pool1d(x, self.windows[1].kernel, self.windows[1].stride) + FLOOR)


class Convolution(nn.Module):
    """A convolution over time with a ReLU; arguments as for `Filters`."""

    def __init__(self, size: int, channels: int, kernel: int, stride: int, causal: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(size, channels, kernel, stride)
        self.windows = (Window(kernel, stride, causal),)

    def outputs(self, x: Tensor, stage: int) -> Tensor:
        """See `Filters.outputs`."""
        return functional.relu(self.conv(x))


class Mean(NamedTuple):
    """The mean `(D,)` of the time steps so far, and how many they were."""

    value: Tensor
    steps: int


class Encoded(NamedTuple):
    """The position of an encoder between two chunks: time steps that later outputs read, by stage; and the mean."""

    kept: list[Tensor]
    mean: Mean | None


class Encoder(nn.Module):
    """The stages of the module's docstring.

    Args:
        size: D of the front end.
        filters: (channels, kernel, pool, stride), or None.
        normalise: "utterance" takes away the mean over a recording; "running" the mean over its time steps so far and
            25 more at a learned level, without which the first ones would be lost; None nothing.
        conv: (channels, kernel, stride) of every convolution.
        causal: whether no later time step is read.

    Attributes:
        width: features of the outputs.
        stride: time steps of the front end per output.
    """

    def __init__(
        self, size: int, filters: tuple[int, int, int, int] | None, normalise: str | None,
        conv: tuple[tuple[int, int, int], ...], causal: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.filters = None if filters is None else Filters(size, *filters, causal)
        self.normalise = normalise
        width = size if filters is None else filters[0]
        self.level = nn.Parameter(torch.full((width,), LEVEL)) if normalise == "running" else None
        made = []
        for channels, kernel, stride in conv:
            made.append(Convolution(width, channels, kernel, stride, causal))
            width = channels
        self.convolutions = nn.ModuleList(made)
        self.width = width
        self.stride = 1
        for module in self.modules():
            for window in getattr(module, "windows", ()):
                self.stride *= window.stride

    def steps(self, lengths: Tensor) -> Tensor:
        """Return the outputs of sequences with these lengths."""
        for module in self.modules():
            for window in getattr(module, "windows", ()):
                lengths = window.steps(lengths)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs `(B, T', C)`, zero after each length, and their lengths.

        Args:
            x: `(B, T, D)`, zero after each length.
            lengths: `(B,)` on the CPU.
        """
        if self.filters is not None:
            x, lengths = self._whole(self.filters, x, lengths)
        x = self._normalised(x, lengths)
        for module in self.convolutions:
            x, lengths = self._whole(module, x, lengths)
        return x, lengths

    @staticmethod
    def _whole(module: nn.Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(module, Filters | Convolution)
        x = x.transpose(1, 2)
        for stage, window in enumerate(module.windows):
            x, lengths = module.outputs(window.padded(x), stage), window.steps(lengths)
            x = _zero_after(x, lengths)
        return x.transpose(1, 2), lengths

    def _normalised(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.normalise is None:
            return x
        if self.level is None:
            mean = x.sum(1, keepdim=True) / lengths.to(x.device)[:, None, None]
        else:
            counts = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None] + PRIOR
            mean = self.level + (x - self.level).cumsum(1) / counts
        return _zero_after((x - mean).transpose(1, 2), lengths).transpose(1, 2)

    @torch.no_grad()
    def stream(self, x: Tensor, where: Encoded | None, *, end: bool) -> tuple[Tensor, Encoded]:
        """Return the outputs `(m, C)` that the time steps `(n, D)` complete, m >= 0, and the new position.

        Args:
            x: the next time steps.
            where: None at the start.
            end: whether these were the last ones.
        """
        modules = [*([] if self.filters is None else [self.filters]), *self.convolutions]
        kept = itertools.repeat(None) if where is None else iter(where.kept)
        mean, left = None if where is None else where.mean, list[Tensor]()
        if self.filters is None:
            x, mean = self._normalised_on(x, mean)
        for module in modules:
            assert isinstance(module, Filters | Convolution)
            x = x.T[None]  # (1, C, n)
            for stage, window in enumerate(module.windows):
                before = next(kept)
                x = torch.cat([x.new_zeros(1, x.shape[1], window.left()) if before is None else before, x], -1)
                if end:
                    x = functional.pad(x, (0, -(x.shape[-1] - window.left()) % window.stride))
                count = max(0, (x.shape[-1] - window.left()) // window.stride)
                left.append(x[..., count * window.stride :])
                if not count and where is not None and not end:  # nothing new for the stages after this one
                    return x.new_zeros(0, self.width), Encoded([*left, *kept], mean)
                x = module.outputs(x[..., : window.left() + count * window.stride], stage) if count else x.new_zeros(
                    1, module.conv.out_channels, 0
                )  # fmt: skip
            x = x[0].T
            if module is self.filters:
                x, mean = self._normalised_on(x, mean)
        return x, Encoded(left, mean)

    def unlike(self, where: Encoded) -> str | None:
        """Return what of a position `stream` cannot have left, or None."""
        kept = list[tuple[int, int, int]]()  # channels, fewest and most time steps
        for module in [*([] if self.filters is None else [self.filters]), *self.convolutions]:
            assert isinstance(module, Filters | Convolution)
            channels = module.conv.in_channels
            for window in module.windows:
                kept.append((channels, window.left(), window.left() + window.stride - 1))
                channels = module.conv.out_channels
        shapes = [tuple(one.shape) for one in where.kept]
        if len(shapes) != len(kept) or any(
            shape[:2] != (1, channels) or not low <= shape[2] <= high
            for shape, (channels, low, high) in zip(shapes, kept, strict=True)
        ):
            return f"encoder outputs of shapes {shapes}"
        mean = None if where.mean is None else tuple(where.mean.value.shape)
        wanted = None if self.level is None else tuple(self.level.shape)
        if mean is None and self.filters is not None:  # these may not have had an output yet
            return None
        return None if mean == wanted else f"a running mean of shape {mean}"

    def _normalised_on(self, x: Tensor, mean: Mean | None) -> tuple[Tensor, Mean | None]:
        if self.level is None or not len(x):
            return x, mean
        before = Mean(self.level, PRIOR) if mean is None else mean
        counts = torch.arange(before.steps + 1, before.steps + len(x) + 1, device=x.device, dtype=x.dtype)[:, None]
        means = before.value + (x - before.value).cumsum(0) / counts
        return x - means, Mean(means[-1], before.steps + len(x))


def _zero_after(x: Tensor, lengths: Tensor) -> Tensor:
    """Return `(B, C, T)` with zeros after each length."""
    if int(lengths.min()) == x.shape[-1]:
        return x
    after = torch.arange(x.shape[-1])[None] >= lengths[:, None]
    return x.masked_fill(after.to(x.device)[:, None], 0)
