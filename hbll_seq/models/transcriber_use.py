"""What a trained `Transcriber` does: transcribe, tell where labels are, score, listen."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hbll_seq.audio import Front
from hbll_seq.audio.error_rates import Unit, error_rate
from hbll_seq.audio.samples import as_waves
from hbll_seq.data.pairs import Pairs
from hbll_seq.data.scalars import choice, flag, integer
from hbll_seq.data.streaming import check_state
from hbll_seq.errors import InputError
from hbll_seq.models.ctc_decoding import BLANK, Run, align, beam, best_path
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.torch_losses import needed
from hbll_seq.models.transcriber_encoder import Encoded, Encoder
from hbll_seq.models.transcripts import Alphabet


class Spoken(NamedTuple):
    """A label and its place in the sound: the samples `start` to `end` of the time steps that name it."""

    label: str
    start: int
    end: int


class Hearing(NamedTuple):
    """The position of a listening model between two chunks; its size does not grow.

    Attributes:
        waiting: samples that do not fill a time step yet.
        heard: time steps of the front end so far.
        encoded: see `transcriber_encoder`.
        state: state of every recurrent layer.
        last: the symbol of the latest time step.
        steps: time steps of the scores so far.
        labels: labels so far.
    """

    waiting: Tensor
    heard: int
    encoded: Encoded | None
    state: list[Tensor] | None
    last: int
    steps: int
    labels: int


class Heard(NamedTuple):
    """What a chunk added.

    Attributes:
        text: the labels that began in it; names begin with a space if others came before.
        labels: the same with their places; a label that goes on ends where the chunk does.
        scores: `(m, V + 1)` scores of the time steps that it completed.
    """

    text: str
    labels: list[Spoken]
    scores: Tensor


class TranscriberUse(nn.Module):
    """The part of a `Transcriber` that does not train."""

    alphabet: Alphabet
    front: Front
    encoder: Encoder
    recurrent: SequenceModel

    def transcribe(self, waves: Any, *, beam_width: int | None = None, batch_size: int = 16) -> list[str]:
        """Return the text of every wave.

        Args:
            waves: a list of waves `(samples,)`, or a tensor `(n, samples)`.
            beam_width: prefixes of a beam search for the most probable text; None for the text of the most probable
                path, which is faster and nearly as good where the model is sure.
            batch_size: waves at a time.

        Raises:
            InputError: waves that the front end refuses, or a size out of range.
        """
        width = None if beam_width is None else integer("beam_width", beam_width, extra=", or None")
        found = []
        for scores in self._scores(waves, batch_size):
            best = [run.label for run in best_path(scores)] if width is None else beam(scores, width)[0][0]
            found.append(self.alphabet.text(best))
        return found

    def error_rate(
        self, waves: Any, transcripts: Any, *, unit: Unit = "label", beam_width: int | None = None, batch_size: int = 16
    ) -> float:
        """Return the edit distance between true and found transcripts, per label (or word) of the true ones.

        Args:
            waves, beam_width, batch_size: see `transcribe`.
            transcripts: as for `fit`.
            unit: "label" or "word".

        Raises:
            InputError: as `transcribe`, or transcripts that `fit` would not take.
        """
        choice("unit", unit, ("label", "word"))
        waves = as_waves(waves, self.front.rate)
        true = [self.alphabet.text(one.tolist()) for one in self.alphabet.all(transcripts, len(waves))]
        found = self.transcribe(waves, beam_width=beam_width, batch_size=batch_size)
        return self._rate(true, found, unit)

    def _rate(self, true: list[str], found: list[str], unit: Unit) -> float:
        split = unit == "label" and self.alphabet.spaced
        pair = ([one.split() for one in side] if split else side for side in (true, found))
        return error_rate(*pair, unit=unit).rate

    def align(self, waves: Any, transcripts: Any = None, *, batch_size: int = 16) -> list[list[Spoken]]:
        """Return where in the sound every label is: of the given transcripts, or of those that the model finds.

        CTC learns to name a label in few time steps, mostly at the end of what tells it from others. So these are times
        of recognition; they do not tell how long a sound lasts.

        Args:
            waves, batch_size: see `transcribe`.
            transcripts: as for `fit`; None for the model's own.

        Raises:
            InputError: as `error_rate`, or a transcript with more labels than the model has outputs for its wave.
        """
        if transcripts is None:
            return [self._places(best_path(one)) for one in self._scores(waves, batch_size)]
        waves = as_waves(waves, self.front.rate)
        given = self.alphabet.all(transcripts, len(waves))
        for i, (wave, ids) in enumerate(zip(waves, given, strict=True)):
            need, most = int(needed(ids[None], torch.tensor([len(ids)]))), self.outputs(len(wave))
            if need > most:
                raise InputError(f"transcripts[{i}]", f"labels that need {need} outputs", f"at most {most}, its wave's")
        scores = self._scores(waves, batch_size)
        return [self._places(align(one, ids.tolist())) for one, ids in zip(scores, given, strict=True)]

    def outputs(self, samples: int) -> int:
        """Return the time steps of the scores for a wave of so many samples."""
        steps = max(0, -(-(samples - self.front.window) // self.front.hop)) + 1
        return int(self.encoder.steps(torch.tensor([steps])))

    def _places(self, runs: list[Run], first: int = 0) -> list[Spoken]:
        """Return runs of time steps, counted from step `first` of the sound, in samples."""
        hop = self.front.hop * self.encoder.stride
        return [
            Spoken(self.alphabet.labels[one.label - 1], (first + one.first) * hop, (first + one.last + 1) * hop)
            for one in runs
        ]

    @torch.no_grad()
    def encode(self, waves: Any) -> tuple[Tensor, Tensor]:
        """Return what the recurrent layers read, `(n, T', C)` zero after each length, and the lengths `(n,)`.

        So `hs.credit(model.recurrent, ...)` explains a label of a model with one direction.
        """
        like = self.recurrent.readout.weight
        x, lengths = self.front(waves)
        with evaluation(self):
            encoded, steps = self.encoder(x.to(like), lengths)
        return encoded.cpu(), steps

    @torch.no_grad()
    def _scores(self, waves: Any, batch_size: int) -> list[Tensor]:
        """Return log-probabilities `(T_i, V + 1)` of every wave, on the CPU, by the deployed chain."""
        batch_size = integer("batch_size", batch_size)
        like = self.recurrent.readout.weight
        x, lengths = self.front(waves)
        found: list[Tensor] = []
        with evaluation(self):
            for part, steps in zip(x.split(batch_size), lengths.split(batch_size), strict=True):
                out = self(part[:, : int(steps.max())].to(like), steps).log_softmax(-1).cpu()
                sizes = self.encoder.steps(steps).tolist()
                found += [one[:n] for one, n in zip(out, sizes, strict=True)]
        return found

    def score(self, source: Pairs, batch_size: int, device: torch.device) -> dict[str, float]:
        """Return loss and error rates over all utterances of weight above 0; the caller sets modes and gradient."""
        total = size = 0.0
        true, found = list[str](), list[str]()
        for batch in source.in_order(batch_size):
            if not batch.targeted():
                continue
            batch = batch.to(device)
            out = self(batch.x, batch.lengths)
            weight = self.target_count(batch)  # type: ignore[operator]  # of the model, see `TimeModel`
            total, size = total + weight * float(self.loss(out, batch)), size + weight  # type: ignore[operator]  # likewise
            assert batch.target_lengths is not None
            counts = torch.ones(len(out)) if batch.weight is None else batch.weight
            rows = out.cpu(), self.encoder.steps(batch.lengths).tolist(), batch.y, batch.target_lengths.tolist(), counts
            for scores, n, ids, m, count in zip(*rows, strict=True):
                if not count:
                    continue
                true.append(self.alphabet.text(ids[:m].tolist()))
                found.append(self.alphabet.text([run.label for run in best_path(scores[:n])]))
        figures = {"loss": total / size, "error_rate": self._rate(true, found, "label")}
        if " " in self.alphabet.labels:
            figures["word_error_rate"] = self._rate(true, found, "word")
        return figures

    @torch.no_grad()
    def listen(self, chunk: Any, where: Hearing | None = None, *, end: bool = False) -> tuple[Heard, Hearing]:
        """Read the next samples `(m,)` of a sound, any number of them, in constant memory and without dropout.

        The texts of all chunks, one after another, are `transcribe`'s of the whole sound (to rounding).

        Args:
            chunk: the samples; none with `end` to close what came before.
            where: what the call before returned; None at the start of a sound.
            end: whether the sound ends here: the last, unfinished time step is filled with zeros.

        Raises:
            InputError: samples that are not finite or of no known range, a `where` that `listen` did not return or that
                a model of other shapes returned, or a bidirectional model.
        """
        self.recurrent.check_causal("listen")
        like = self.recurrent.readout.weight
        where = Hearing(torch.zeros(0), 0, None, None, BLANK, 0, 0) if where is None else where
        if not isinstance(where, Hearing):
            raise InputError("where", type(where).__name__, "what `listen` returned, or None")
        if len(where.waiting) >= self.front.window:
            raise _other(f"{len(where.waiting)} samples that wait")
        steps, waiting = self.front.stream(chunk, where.waiting)
        heard = where.heard + len(steps)
        if flag("end", end):
            steps, waiting = torch.cat([steps, self.front.flush(waiting, heard)]), waiting[:0]
        elif not len(steps):  # most chunks that are shorter than a time step
            return Heard("", [], like.new_zeros(0, self.recurrent.output_size)), where._replace(waiting=waiting)
        if where.encoded is not None and (came := self.encoder.unlike(where.encoded)):
            raise _other(came)
        encoded, after = self.encoder.stream(steps.to(like), where.encoded, end=end)
        scores, state = like.new_zeros(0, self.recurrent.output_size), where.state
        if len(encoded):
            if state is not None:
                sizes = [(1, cell.state_size) for cell in self.recurrent.cells]
                if [tuple(one.shape) for one in state] != sizes:
                    raise _other(f"states of shapes {[tuple(one.shape) for one in state]}")
                state = check_state(state, sizes, like)
            out, state = self.recurrent.advance_all(encoded[None], state)
            scores = out[0]
        runs, last = _continued(scores, where.last)
        labels = self._places(runs, where.steps)
        now = Hearing(waiting, heard, after, state, last, where.steps + len(scores), where.labels + len(runs))
        before = " " if self.alphabet.spaced and where.labels and runs else ""
        return Heard(before + self.alphabet.text([run.label for run in runs]), labels, scores), now


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a while; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _continued(scores: Tensor, last: int) -> tuple[list[Run], int]:
    """Return the labels that begin in `scores`, after a time step that named `last`; and the symbol of the latest."""
    if not len(scores):
        return [], last
    runs = best_path(scores)
    if runs and last != BLANK and runs[0].first == 0 and runs[0].label == last:
        runs = runs[1:]
    return runs, int(scores[-1].argmax())


def _other(came: str) -> InputError:
    return InputError("where", f"the position of another model: {came}", "what `listen` of this model returned")
