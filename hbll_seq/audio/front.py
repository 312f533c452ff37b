"""Front ends: a wave `(samples,)` becomes a network's time steps `(T, D)`.

All are causal. A sound in chunks gives the same time steps as the whole (`Front.stream`); left-over samples wait for
the next chunk (`Front.flush` at the end of the sound). Spectra, mel filters and cosines are torchaudio's.
"""

import inspect
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hbll_seq.audio.backend import torchaudio
from hbll_seq.audio.samples import as_samples, as_waves
from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError, warn


class Front(ABC):
    """The base class of front ends.

    Attributes:
        size: D.
        window: samples per time step.
        hop: samples between two time steps.
        rate: samples per second of the waves, None if any will do. Sounds that bring another rate are resampled.
    """

    size: int
    window: int
    hop: int
    rate: int | None = None

    @abstractmethod
    def steps(self, wave: Tensor) -> Tensor:
        """Return the time steps `(T, D)` of all whole windows of `(samples,)`; T may be 0."""

    @abstractmethod
    def config(self) -> dict[str, int | str]:
        """Return the constructor arguments."""

    def __call__(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the time steps of unequal waves, padded with zeros: `(n, T, D)` float32 and lengths `(n,)` int64.

        The end of a wave is filled with zeros to a whole time step, so no sample is lost. Integers are scaled by their
        full range (`audio.samples`). A pair (wave, samples per second) is resampled to the front end's rate.

        Raises:
            InputError: a wave that is empty, not finite, or not one-dimensional; names its position.
        """
        found = []
        for wave in as_waves(waves, self.rate):
            count = max(0, math.ceil((len(wave) - self.window) / self.hop)) + 1
            found.append(
                self.steps(functional.pad(wave.float(), (0, self.window + (count - 1) * self.hop - len(wave))))
            )
        lengths = torch.tensor([len(one) for one in found])
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), lengths

    def stream(self, chunk: Tensor, waiting: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the time steps `(m, D)` that `chunk` completes, m >= 0, and the samples that wait for more."""
        samples = as_samples(chunk, "chunk", least=0).float()
        before = samples[:0] if waiting is None else as_samples(waiting, "waiting", least=0).to(samples)
        samples = torch.cat([before, samples])  # a copy: the caller may fill its buffer anew
        out = self.steps(samples)
        return out, samples[len(out) * self.hop :]

    def flush(self, waiting: Tensor | None, steps: int) -> Tensor:
        """Return the last time step of a sound that ends, `(1, D)`, or `(0, D)` if `stream` returned it already.

        All time steps of a sound are then those that `__call__` gives.

        Args:
            waiting: the samples that `stream` left; None for none.
            steps: time steps that `stream` returned for this sound so far; 0 or not is all that counts.
        """
        samples = as_samples(torch.zeros(0) if waiting is None else waiting, "waiting", least=0).float()
        heard = self.window - self.hop if steps else 0  # samples that an earlier time step contains
        if len(samples) <= heard:
            return samples.new_zeros(0, self.size)
        return self.steps(functional.pad(samples, (0, self.window - len(samples))))


class Frames(Front):
    """A front end of raw samples, `samples` per time step."""

    def __init__(self, samples: int = 16) -> None:
        self.size = self.window = self.hop = integer("samples", samples)

    def steps(self, wave: Tensor) -> Tensor:
        """See `Front.steps`."""
        return wave[: len(wave) // self.hop * self.hop].view(-1, self.size)

    def config(self) -> dict[str, int | str]:
        """See `Front.config`."""
        return {"kind": "frames", "samples": self.size}


class LogMel(Front):
    """A front end of ln(mel spectrogram + 1e-6): Hann window, power, triangular filters on the HTK mel scale.

    Time steps are those of `torchaudio.transforms.MelSpectrogram(rate, window, hop_length=hop, center=False)`, window
    and hop in samples.

    Args:
        rate: samples per second.
        mels: D. Filters too narrow to hold any frequency of the window are always silent, and warned of.
        window: milliseconds per time step.
        hop: milliseconds between two time steps, at most `window`.
    """

    _bank: Tensor  # (frequencies, mels)

    def __init__(self, rate: int, mels: int = 40, window: int = 32, hop: int = 16) -> None:
        rate, mels = integer("rate", rate), integer("mels", mels)
        window, hop = integer("window", window), integer("hop", hop)
        self.rate, self.size = rate, mels
        self.window, self.hop = rate * window // 1000, rate * hop // 1000
        if self.hop < 1 or self.window < 2:
            raise InputError("hop", f"{hop} ms at {rate} samples a second", "at least one sample, window at least two")
        if self.hop > self.window:
            raise InputError("hop", f"{hop} ms", f"at most the window, {window} ms: samples between would be lost")
        self._given: dict[str, int | str] = {"kind": "logmel", "rate": rate, "mels": mels, "window": window, "hop": hop}
        if torch.empty(0).is_meta:  # `load` asks how large it would be
            self._hann, self._bank = torch.empty(self.window), torch.empty(self.window // 2 + 1, mels)
            return
        self._hann = torch.hann_window(self.window)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of silent filters: below, in the words of this class
            self._bank = torchaudio().functional.melscale_fbanks(self.window // 2 + 1, 0.0, rate / 2, mels, rate)
        silent = int((self._bank.amax(0) == 0).sum())
        if silent:
            came = f"{silent} of {mels} mel filters hold no frequency of a window of {self.window} samples"
            warn(f"{came}: fewer mels, or a longer window", UserWarning)

    def steps(self, wave: Tensor) -> Tensor:
        """See `Front.steps`."""
        if len(wave) < self.window:
            return wave.new_zeros(0, self.size)
        power: Tensor = torchaudio().functional.spectrogram(
            wave, 0, self._hann.to(wave), self.window, self.hop, self.window, 2.0, False, center=False
        )  # (frequencies, T)
        return torch.log(power.T @ self._bank.to(wave) + 1e-6)

    def config(self) -> dict[str, int | str]:
        """See `Front.config`."""
        return self._given


class MFCC(LogMel):
    """A front end of mel-frequency cepstral coefficients: the orthonormal DCT-II of `LogMel`'s time steps.

    Args:
        rate: samples per second.
        coefficients: D, at most `mels`.
        mels: mel bands they are computed from.
        window: milliseconds per time step.
        hop: milliseconds between two time steps.
    """

    def __init__(self, rate: int, coefficients: int = 13, mels: int = 40, window: int = 32, hop: int = 16) -> None:
        super().__init__(rate, mels, window, hop)
        coefficients = integer("coefficients", coefficients, most=self.size, extra=", the number of mels")
        self.size = coefficients
        self._given = {**self._given, "kind": "mfcc", "coefficients": coefficients}
        self._dct: Tensor = torchaudio().functional.create_dct(coefficients, mels, "ortho")  # (mels, coefficients)

    def steps(self, wave: Tensor) -> Tensor:
        """See `Front.steps`."""
        if len(wave) < self.window:
            return wave.new_zeros(0, self.size)
        return super().steps(wave) @ self._dct.to(wave)


def make(config: dict[str, int | str]) -> Front:
    """Make the front end that `Front.config` described."""
    kinds: dict[str, type[Frames] | type[LogMel]] = {"frames": Frames, "logmel": LogMel, "mfcc": MFCC}
    if not isinstance(config, dict):
        raise InputError("front", type(config).__name__, "a Front, or its config()")
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError("front", repr(kind), f"one of {tuple(kinds)}")
    options: dict[str, Any] = {str(name): value for name, value in config.items() if name != "kind"}
    known = inspect.signature(kinds[kind]).parameters
    needed = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    if not set(needed) <= set(options) <= set(known):
        raise InputError(
            "front", f"{kind} with {sorted(options)}", f"options among {sorted(known)}, {needed} with them"
        )
    return kinds[kind](**options)
