"""`Transcriber`: from sounds to text, trained by connectionist temporal classification (CTC).

A front end makes time steps of a wave, an encoder (`transcriber_encoder`) makes fewer and better ones, recurrent layers
read them, and a linear read-out scores every label and the blank. The loss needs no time stamps: it adds up all
alignments of the transcript (Graves et al. 2006).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hbll_seq.audio import Augment, Front
from hbll_seq.audio.augmenter import augment_from
from hbll_seq.audio.front import Frames, make
from hbll_seq.audio.samples import as_waves
from hbll_seq.cells import Cell
from hbll_seq.data.batch import Batch
from hbll_seq.data.checks import check_lengths
from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.pairs import Pairs
from hbll_seq.data.read_pairs import read_weight
from hbll_seq.data.scalars import choice, integer
from hbll_seq.data.sources import Source
from hbll_seq.data.tensors import as_tensor
from hbll_seq.engine.execution import Execute, sequential
from hbll_seq.errors import InputError
from hbll_seq.models.aliases import with_aliases
from hbll_seq.models.over_time import TimeModel
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember
from hbll_seq.models.torch_losses import CTC
from hbll_seq.models.transcriber_encoder import Encoder
from hbll_seq.models.transcriber_use import TranscriberUse
from hbll_seq.models.transcripts import Alphabet, read_utterances

Convolutions = Sequence[Sequence[int]]


@remember
class Transcriber(TranscriberUse, TimeModel):
    """A recurrent network from sounds to labels, with CTC.

    Train it by `fit(model, waves, transcripts)`, with lists of waves `(samples,)` and of strings. Wherever it takes
    waves, an item may be a pair (wave, samples per second), as `audio.read` returns it. Pairs are resampled to the
    front end's rate, so a list may have several.

    Args:
        labels: the characters that transcripts are made of; or a list of names (phonemes, words), which a transcript
            has between spaces or as a list.
        front: a `hbll_seq.audio.Front`, or its `config()`.
        hidden, layers, cell, timescale, dropout, norm, residual, projection, bidirectional: the recurrent layers, as
            for `SequenceModel`. One that is not bidirectional reads no sound later than its output and can `listen`.
        conv: (channels, kernel, stride) of every convolution before the recurrent layers; kernel and stride in time
            steps, kernel not below stride. A stride shortens time, which makes training faster; labels need time steps.
        filters: (channels, kernel, pool, stride) of filters over raw frames, see `transcriber_encoder.Filters`; "auto":
            (64, 9, 8, 8) for `audio.Frames`, None for other front ends.
        normalise: take away the mean of every feature over the utterance ("utterance"), or over its time steps so far
            ("running", see `transcriber_encoder`); None for neither; "auto": "utterance" if bidirectional, else
            "running". Speakers, rooms and microphones differ in that mean.
        augment: a `hbll_seq.audio.Augment`, or its `config()`: fresh copies of the sounds in every epoch of `fit`, from
            its seed; held-out data, `evaluate` and all use are left alone. None for the sounds as they are.
        seed: seed of the initialisation; the global random state is not touched.

    Attributes:
        alphabet: the labels.
        encoder: see `transcriber_encoder`.
        recurrent: the recurrent layers and the read-out, a `SequenceModel` of the encoder's outputs.

    Raises:
        InputError: an argument that cannot be used.
    """

    task = "step"
    objective = "cross_entropy"
    input_kind = "features"
    whole_layers = False
    own_loss = "CTC"

    @with_aliases
    def __init__(
        self, labels: str | Sequence[str], front: Front | dict[str, int | str], *, hidden: int = 64, layers: int = 1,
        cell: str = "gru", bidirectional: bool = False, conv: Convolutions = ((64, 5, 2),),
        filters: Sequence[int] | Literal["auto"] | None = "auto",
        normalise: Literal["utterance", "running", "auto"] | None = "auto",
        timescale: float | None = None, dropout: float = 0.0, norm: Literal["layer"] | None = None,
        residual: bool = False, projection: int | None = None,
        augment: Augment | dict[str, Any] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.alphabet, self.front = Alphabet(labels), front if isinstance(front, Front) else make(front)
        if not isinstance(cell, str):
            raise InputError("cell", type(cell).__name__, '"gru", "lstm", "elman" or "mingru"')
        if filters == "auto":
            filters = (64, 9, 8, 8) if isinstance(self.front, Frames) else None
        if normalise == "auto":
            normalise = "utterance" if bidirectional else "running"
        if normalise is not None:
            choice("normalise", normalise, ("utterance", "running"))
        if normalise == "utterance" and not bidirectional:
            raise InputError("normalise", '"utterance" for a model that streams', '"running", or bidirectional=True')
        windows = [_sizes(f"conv[{i}]", one, 3) for i, one in enumerate(_listed("conv", conv))]
        bank = None if filters is None else _sizes("filters", filters, 4)
        self.augment = augment_from(augment)
        if self.augment is not None and self.augment.bands >= self.front.size:
            raise InputError(
                "augment", f"bands={self.augment.bands}", f"bands below {self.front.size}, the front end's"
            )
        with SeededDraws(seed):
            self.encoder = Encoder(self.front.size, bank, normalise, tuple(windows), causal=not bidirectional)
        self.recurrent = SequenceModel(
            self.encoder.width, len(self.alphabet) + 1, task="step", input_kind="features", hidden=hidden, cell=cell,
            layers=layers, timescale=timescale, seed=seed, dropout=dropout, norm=norm, residual=residual,
            projection=projection, bidirectional=bidirectional,
        )  # fmt: skip
        self.input_size, self.output_size = self.front.size, len(self.alphabet) + 1
        self._loss = CTC(nn.CTCLoss())
        self._config = dict(
            labels=labels if isinstance(labels, str) else list(labels), front=self.front.config(), hidden=hidden,
            layers=layers, cell=cell, bidirectional=bidirectional, conv=[list(one) for one in windows],
            filters=None if bank is None else list(bank), normalise=normalise,
            timescale=timescale, dropout=dropout, norm=norm, residual=residual, projection=projection,
            augment=None if self.augment is None else self.augment.config(), seed=seed,
        )  # fmt: skip

    def config(self) -> dict[str, Any]:
        """Return the constructor arguments as JSON-able values, for `save`; without `vary`."""
        return dict(self._config)

    @property
    def cells(self) -> list[Cell]:
        """See `TimeModel`."""
        return self.recurrent.cells

    @property
    def targets_in_time(self) -> bool:
        """See `TimeModel`: which time step a label belongs to is not known, so credit is whole."""
        return False

    @property
    def drops(self) -> bool:
        """See `TimeModel`."""
        return self.recurrent.drops

    @property
    def bidirectional(self) -> bool:
        """Whether the recurrent layers have a backward direction, too."""
        return self.recurrent.bidirectional

    def forward(self, x: Tensor, lengths: Tensor | None = None, execute: Execute = sequential) -> Tensor:
        """Return scores `(B, T', V + 1)` of the blank (0) and the labels.

        Args:
            x: time steps of the front end `(B, T, D)`, zero after each length.
            lengths: `(B,)`, or None for all; those of the scores are `output_lengths(lengths)`.
            execute: function that runs a recurrent layer; the default is the deployed chain.
        """
        full = torch.full((len(x),), x.shape[1]) if lengths is None else lengths
        encoded, steps = self.encoder(x, full.cpu())
        return self.recurrent(encoded, None if lengths is None else steps, execute=execute)

    def prepare(self, waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the front end's time steps `(n, T, D)` in the model's dtype, and lengths `(n,)`."""
        steps, lengths = self.front(waves)
        return steps.to(next(self.parameters()).dtype), lengths

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the time steps of the scores for inputs of these lengths."""
        return self.encoder.steps(lengths)

    def training_loss(
        self, batch: Batch, execute: Execute, *, lookup: bool = False
    ) -> tuple[Tensor, Tensor | None, list[Tensor] | None]:
        """See `TimeModel`; the loss of single time steps is not known, and no state is carried."""
        out = self(batch.x, batch.lengths, execute=execute)
        return self.loss(out, batch), None, None

    def loss(self, out: Tensor, batch: Batch) -> Tensor:
        """Return CTC's loss: nats per label of each transcript, averaged over the batch (by weight)."""
        return self._loss(out, self.output_lengths(batch.lengths), batch).loss

    @torch.no_grad()
    def deployed_loss(self, batch: Batch) -> float:
        """See `TimeModel`."""
        return float(self.training_loss(batch, sequential)[0])

    def target_count(self, batch: Batch) -> float:
        """See `Model`: transcripts, by their weights."""
        return float(len(batch.x) if batch.weight is None else batch.weight.sum())

    def task_settings(self) -> dict[str, Any]:
        """See `Model`."""
        augment = None if self.augment is None else self.augment.config()
        return {"task": "transcription", "objective": "ctc", "loss": "ctc", "augment": augment}

    def make_source(
        self, x: Any, y: Any, *, mask: Any = None, window: int | None = None, ignore_index: int = -100,
        weight: Any = None,
    ) -> Source:  # fmt: skip
        """Return utterances from waves and transcripts, see `transcripts`.

        Raises:
            InputError: names the utterance and what is wrong with it.
        """
        if mask is not None:
            raise InputError("mask", "given", "None: a transcript counts whole")
        if window is not None:
            raise InputError("window", f"{window!r}"[:80], "None: an utterance is read whole")
        if ignore_index != -100:
            raise InputError("ignore_index", f"{ignore_index!r}"[:80], "-100, its default: a transcript counts whole")
        if y is None:
            raise InputError("y", "None", "transcripts: a list of strings, one for each wave")
        count = len(y) if hasattr(y, "__len__") else 0
        weights = read_weight(weight, count, next(self.parameters()).dtype)
        waves = as_waves(x, self.front.rate)
        return read_utterances(waves, y, self.alphabet, self.prepare, self.outputs, self.augment, weights)

    def check(self, batch: Any) -> Batch:
        """Return a batch made by the user, after a check.

        Raises:
            InputError: no `Batch` with time steps `(B, T, D)`, labels `(B, L)`, lengths of both; values out of range.
        """
        like = next(self.parameters())
        if not isinstance(batch, Batch):
            raise InputError("batch", type(batch).__name__, "a hbll_seq.Batch(x, lengths, y, None)")
        x = batch.x
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[2] != self.input_size or not x.numel():
            raise InputError("batch.x", f"{getattr(x, 'shape', type(x))}", f"(B, T, {self.input_size})")
        if not isinstance(batch.y, Tensor) or batch.y.ndim != 2 or len(batch.y) != len(batch.x):
            raise InputError("batch.y", f"{getattr(batch.y, 'shape', type(batch.y))}", f"({len(batch.x)}, L) labels")
        if batch.target_lengths is None:
            raise InputError("batch.target_lengths", "None", f"({len(batch.x)},), the labels of each transcript")
        lengths = check_lengths(as_tensor(batch.lengths, "batch.lengths"), *batch.x.shape[:2])
        sizes = check_lengths(as_tensor(batch.target_lengths, "batch.target_lengths"), *batch.y.shape)
        if batch.y.is_floating_point() or batch.y.dtype == torch.bool:
            raise InputError("batch.y", f"dtype {batch.y.dtype}", "integers: numbers of labels")
        named = batch.y[torch.arange(batch.y.shape[1]) < sizes[:, None]]  # 0, the blank, is no label
        low, high = (int(v) for v in named.aminmax())
        if low < 1 or high > len(self.alphabet):
            raise InputError("batch.y", f"labels in {low}..{high}", f"1..{len(self.alphabet)}, 0 for padding")
        if batch.targeted():  # else there is no update
            read_weight(batch.weight, len(batch.x), like.dtype)
        if not bool(torch.isfinite(batch.x).all()):
            raise InputError("batch.x", "NaN or infinity", "finite numbers")
        return batch._replace(x=batch.x.to(like), lengths=lengths, target_lengths=sizes)

    def read_inputs(self, x: Any) -> tuple[Tensor, Tensor]:
        """See `Model`: waves become time steps."""
        return self.prepare(as_waves(x, self.front.rate))

    def figures(self, source: Source, batch_size: int) -> dict[str, float]:
        """See `Model`: the loss, and the error rates of the best path."""
        assert isinstance(source, Pairs)
        return self.score(source, batch_size, next(self.parameters()).device)


def _listed(name: str, given: Any) -> list[Any]:
    if not isinstance(given, list | tuple):
        raise InputError(name, f"{given!r}"[:80], "a list of (channels, kernel, stride)")
    return list(given)


def _sizes(name: str, given: Any, count: int) -> Any:
    """Return channels, kernel (pool) and stride as integers."""
    expected = "(channels, kernel, stride)" if count == 3 else "(channels, kernel, pool, stride)"
    if not isinstance(given, list | tuple) or len(given) != count:
        raise InputError(name, f"{given!r}"[:80], expected)
    sizes = tuple(integer(name, one) for one in given)
    if sizes[-1] > sizes[-2]:
        raise InputError(name, f"stride {sizes[-1]} over {sizes[-2]} time steps", f"{expected}, no time step left out")
    return sizes
