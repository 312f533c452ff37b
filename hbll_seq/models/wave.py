"""`WaveModel`: a model of the next sample of a sound, over mu-law levels."""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.audio import mu_law_decode, mu_law_encode
from hbll_seq.errors import InputError
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember
from hbll_seq.models.symbol_text import SymbolText


@remember
class WaveModel(SequenceModel):
    """Next-sample model: a sample is one of `levels` mu-law codes, predicted from all before it.

    Train it on codes (`prepare`) with `fit(model, codes, rule=...)`, like a text.

    Args:
        rate: samples a second.
        levels: codes V.
        options: as for `SequenceModel` (hidden, cell, layers, embedding, timescale, seed, ...).
    """

    def __init__(self, rate: int, levels: int = 256, **options: Any) -> None:
        if not isinstance(rate, int) or rate < 1:
            raise InputError("rate", repr(rate), "samples a second, an integer >= 1")
        if not isinstance(levels, int) or levels < 2:
            raise InputError("levels", repr(levels), "an integer >= 2")
        super().__init__(levels, levels, task="next", **options)
        self.rate, self.levels = rate, levels
        if self._config is not None:
            self._config = {"rate": rate, "levels": levels, **options}

    def prepare(self, wave: Tensor) -> Tensor:
        """Codes `(samples,)` int64 of a wave `(samples,)` in -1..1.

        Raises:
            InputError: not one-dimensional, empty, or not finite.
        """
        if wave.ndim != 1 or not len(wave):
            raise InputError("wave", f"shape {tuple(wave.shape)}", "(samples,), at least one")
        if not torch.isfinite(wave).all():
            raise InputError("wave", "samples that are not finite", "finite samples in -1..1")
        return mu_law_encode(wave, self.levels)

    @torch.no_grad()
    def generate(
        self, samples: int, *, prompt: Tensor | None = None, temperature: float = 1.0, seed: int = 0
    ) -> Tensor:
        """A sound, sample by sample in constant memory.

        Args:
            samples: how many to add, >= 1.
            prompt: wave `(m,)` to go on from; None starts from one sample of silence.
            temperature: 0 takes the most likely level, 1 samples from the model as it is.
            seed: of the sampling; the global random state is not touched.

        Returns:
            Wave `(m + samples,)`, float32 in -1..1, the prompt as the model heard it.
        """
        if samples < 1:
            raise InputError("samples", samples, "an integer >= 1")
        if not temperature >= 0:
            raise InputError("temperature", temperature, "a number >= 0")
        silence = prompt is None
        codes = self.prepare(torch.zeros(1) if prompt is None else prompt)
        device, generator = self.readout.weight.device, torch.Generator().manual_seed(seed)
        out, state = codes.tolist(), None
        for code in codes:
            logits, state = self.step(code.view(1).to(device), state)
        for _ in range(samples):
            out.append(SymbolText.pick(logits[0], temperature, generator))
            logits, state = self.step(torch.tensor(out[-1:]).to(device), state)
        return mu_law_decode(torch.tensor(out[1:] if silence else out), self.levels)
