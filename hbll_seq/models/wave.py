"""`WaveModel`: a model of the next sample of a sound, over mu-law levels."""

from typing import Any

import torch
from torch import Tensor

from hbll_seq.audio import mu_law_decode, mu_law_encode
from hbll_seq.audio.samples import as_samples
from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError
from hbll_seq.models.continuation import continued
from hbll_seq.models.own_options import own_options
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember
from hbll_seq.models.sampler import Sampler

LOUDEST = 8.0  # 18 dB over full scale: more is not a loud wave in -1..1 but integers in floats


@remember
class WaveModel(SequenceModel):
    """A model of the next sample: one of `levels` mu-law codes, predicted from all earlier ones.

    Train it on codes (`prepare`) with `fit(model, codes, rule=...)`, like a text.

    Args:
        rate: samples per second.
        levels: number of codes V.
        options: as for `SequenceModel` (hidden, cell, layers, embedding, timescale, dropout, norm, seed, ...).
    """

    def __init__(self, rate: int, levels: int = 256, **options: Any) -> None:
        rate, levels = integer("rate", rate, extra=" samples a second"), integer("levels", levels, least=2)
        decided = {"input_size": levels, "output_size": levels, "task": "next", "input_kind": "symbols"}
        options = own_options(options, "a model of the next sample", decided)
        super().__init__(levels, levels, task="next", **options)
        self.rate, self.levels = rate, levels
        if self._config is not None:
            self._config = {"rate": rate, "levels": levels, **options}

    def prepare(self, wave: Tensor) -> Tensor:
        """Return the codes `(samples,)` int64 of a wave `(samples,)` in -1..1; integers are scaled (`audio.samples`).

        Values slightly beyond 1 are clipped, as mu-law does.

        Raises:
            InputError: not one-dimensional, empty, not finite, or too loud for a wave in -1..1.
        """
        wave = as_samples(wave)
        loudest = float(wave.detach().abs().max())
        if loudest > LOUDEST:
            hint = "samples in -1..1 (divide by the full range, or give the integers as they are)"
            raise InputError("wave", f"samples up to {loudest:g}", hint)
        return mu_law_encode(wave, self.levels)

    def generate(
        self, samples: int, *, prompt: Tensor | None = None, temperature: float = 1.0, seed: int = 0
    ) -> Tensor:
        """Generate a sound sample by sample in constant memory.

        Args:
            samples: samples to add, >= 1.
            prompt: wave `(m,)` to continue; None starts from one sample of silence.
            temperature: 0 takes the most likely level, 1 samples from the model's distribution.
            seed: seed of the sampling; the global random state is not touched.

        Returns:
            Wave `(m + samples,)`, float32 in -1..1; its prompt is rounded to mu-law levels.
        """
        samples = integer("samples", samples)
        sampler = Sampler(temperature, seed)
        silence = prompt is None
        codes = self.prepare(torch.zeros(1) if prompt is None else prompt)
        with torch.no_grad():  # also puts the mode back if an interrupt keeps an inner one from doing so
            out = [*codes.tolist(), *continued(self, codes, samples, sampler)]
        return mu_law_decode(torch.tensor(out[1:] if silence else out), self.levels)
