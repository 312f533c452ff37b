"""`LanguageModel`: a recurrent model of the next symbol of a text, which writes and scores text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from hbll_seq.data.scalars import as_integer, check_seed, integer
from hbll_seq.data.streaming import check_prompt
from hbll_seq.errors import InputError
from hbll_seq.models.continuation import continued, continued_together
from hbll_seq.models.likelihood import LogLikelihood, log_likelihood
from hbll_seq.models.own_options import own_options
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.models.registry import remember
from hbll_seq.models.sampler import Sampler
from hbll_seq.models.stop_text import StopText, check_stops
from hbll_seq.models.symbol_text import SymbolText
from hbll_seq.text import CharTokenizer, Tokenizer, as_tokenizer, from_config


@remember
class LanguageModel(SymbolText, SequenceModel):
    """A recurrent model of the next symbol: of characters, bytes, or parts of words.

    Args:
        tokenizer: a tokenizer (`Text.tokenizer`, `hbll_seq.text`), "byte", an object of another package with `encode`
            and `decode`, or the number of symbols V alone: then the model reads and writes tensors.
        options: as for `SequenceModel`: hidden, layers, cell, embedding, timescale, dropout, norm, residual,
            projection, tie_weights, seed.

    Attributes:
        vocab_size: number of symbols V.

    Raises:
        InputError: no tokenizer, or an option that `SequenceModel` does not have or that only other tasks have.
    """

    def __init__(self, tokenizer: Any, **options: Any) -> None:
        sized = as_integer(tokenizer) is not None
        made = None if sized else as_tokenizer(tokenizer)
        self._start(integer("tokenizer", tokenizer) if made is None else made.vocab_size, options)
        self.keep_tokenizer(made)

    def _start(self, vocab_size: int, options: dict[str, Any]) -> None:
        """Build the network."""
        options = own_options(options, "a language model predicts the next symbol", {
            "input_size": vocab_size, "output_size": vocab_size, "task": "next", "objective": "cross_entropy",
            "input_kind": "symbols", "bidirectional": False,
        })  # fmt: skip
        super().__init__(vocab_size, vocab_size, task="next", **options)
        self.vocab_size = vocab_size
        self._options = options

    def keep_tokenizer(self, tokenizer: Tokenizer | None) -> None:
        """Read and write text by a tokenizer; None for tensors alone.

        Raises:
            InputError: no tokenizer of `hbll_seq.text`, or one of another number of symbols.
        """
        if tokenizer is not None and not isinstance(tokenizer, Tokenizer):
            raise InputError("tokenizer", type(tokenizer).__name__, "a tokenizer of hbll_seq.text, or None")
        if tokenizer is not None and tokenizer.vocab_size != self.vocab_size:
            raise InputError("tokenizer", f"one of {tokenizer.vocab_size} symbols", f"{self.vocab_size}, the model's")
        self.tokenizer = tokenizer
        self.symbols = list(tokenizer.symbols) if isinstance(tokenizer, CharTokenizer) else None
        if self._config is not None:
            saved = self.vocab_size if tokenizer is None else tokenizer.config()
            self._config = {"tokenizer": saved, **self._options}

    @classmethod
    def from_config(cls, config: dict[str, Any], tokenizer: Any = None) -> "LanguageModel":
        """Rebuild from `config()`.

        Args:
            config: what `config` returned.
            tokenizer: an object of another package that `config` only names; else None.

        Raises:
            InputError: see `hbll_seq.text.from_config`.
        """
        config = dict(config)
        saved = config.pop("tokenizer", None)
        return cls(from_config(saved, tokenizer) if isinstance(saved, dict) else saved, **config)

    def generate(
        self, prompt: str | Tensor, length: int, *, temperature: float = 0.8, seed: int = 0,
        top_k: int | None = None, top_p: float | None = None, stop: str | list[str] | None = None,
        samples: int | None = None, encode: Callable[[str], Tensor] | None = None,
        decode: Callable[[Tensor], str] | None = None,
    ) -> Any:  # fmt: skip
        """Continue `prompt` by `length` symbols, one by one in constant memory.

        Args:
            prompt: text (needs a tokenizer or `encode`/`decode`) or a 1-D tensor, array or list of symbols.
            length: symbols to add, >= 1.
            temperature: 0 takes the most likely symbol, 1 samples from the model's distribution.
            seed: seed of the sampling; the global random state is not touched.
            top_k: choose among the k most likely symbols; None for all.
            top_p: choose among the most likely symbols that have this share of the probability together, after
                `top_k`; None for all.
            stop: strings at which the text ends, before them; of a text prompt.
            samples: number of continuations, made together; sample i has the seed `seed + i`. None for one.
            encode: function from text to tensor, for a model without a tokenizer.
            decode: function from tensor to text, likewise.

        Returns:
            Prompt and continuation: text for a text prompt, otherwise an int64 tensor. With `samples` a list of texts,
            or a tensor `(samples, n)`.

        Raises:
            InputError: a prompt that the model cannot read, or another argument out of range.
        """
        for name, given in (("encode", encode), ("decode", decode)):
            if given is not None and not callable(given):
                raise InputError(name, type(given).__name__, "a function, or None")
        if isinstance(prompt, str) and self.tokenizer is None and None in (encode, decode):
            raise InputError("prompt", "text, but the model has no symbols", "a tensor, or encode= and decode=")
        ids, stops = self.begin(prompt, length, encode), self._stops(stop, prompt)
        if stops and decode is not None:
            raise InputError("decode", "a function beside stop=", "None: the model's tokenizer finds stop strings")
        if samples is not None or stops:
            count = 1 if samples is None else integer("samples", samples, extra=", or None")
            first = check_seed(seed)
            samplers = [Sampler(temperature, first + i, top_k, top_p) for i in range(count)]
            several = self._several(ids, length, samplers, stops, prompt, decode)
            return several if samples is not None else several[0]
        sampler = Sampler(temperature, seed, top_k, top_p)
        with torch.no_grad():  # also puts the mode back if an interrupt keeps an inner one from doing so
            out = [*ids.tolist(), *continued(self, ids, length, sampler)]
        return self.finish(torch.tensor(out), prompt, decode)

    def _several(
        self, ids: Tensor, length: int, samplers: list[Sampler], stops: tuple[str, ...], prompt: str | Tensor,
        decode: Callable[[Tensor], str] | None,
    ) -> Any:  # fmt: skip
        with torch.no_grad():
            drawn = continued_together(self, ids, length, samplers)
            if not stops:
                out = torch.cat([ids.expand(len(samplers), -1), torch.tensor(list(drawn)).T], 1)
                return [self.finish(row, prompt, decode) for row in out] if isinstance(prompt, str) else out
            # one alone ends where its text does
            rows: Iterable[Iterable[int]] = zip(*drawn, strict=True) if len(samplers) > 1 else [(i for (i,) in drawn)]
            texts = ["".join(self._pieces(ids, row, stops)) for row in rows]
        return [f"{prompt}{text}" for text in texts]

    def generate_stream(
        self, prompt: str | Tensor, length: int, *, temperature: float = 0.8, seed: int = 0,
        top_k: int | None = None, top_p: float | None = None, stop: str | list[str] | None = None,
    ) -> Iterator[Any]:  # fmt: skip
        """Do `generate`, and return the continuation as it comes.

        Args:
            prompt, length, temperature, seed, top_k, top_p, stop: as for `generate`.

        Returns:
            An iterator: of pieces of text for a text prompt, in whole characters and never empty; else of symbols.

        Raises:
            InputError: as `generate`, at the call.
        """
        ids, stops = self.begin(prompt, length), self._stops(stop, prompt)
        drawn = continued(self, ids, length, Sampler(temperature, seed, top_k, top_p))
        return self._pieces(ids, drawn, stops) if isinstance(prompt, str) else drawn

    def _pieces(self, ids: Tensor, drawn: Iterable[int], stops: tuple[str, ...]) -> Iterator[str]:
        """Iterate over the text of symbols that follow `ids`, until a stop string."""
        assert self.tokenizer is not None
        passed = StopText(stops)
        pieces = self.tokenizer.pieces(chain(ids.tolist(), drawn))  # a piece for each symbol, and one at the end
        for piece in islice(pieces, len(ids), None):
            text = passed.add(piece)
            if text:
                yield text
            if passed.done:
                return
        if text := passed.rest():
            yield text

    def _stops(self, stop: Any, prompt: str | Tensor) -> tuple[str, ...]:
        stops = check_stops(stop)
        if stops and (not isinstance(prompt, str) or self.tokenizer is None):
            raise InputError("stop", "strings for a prompt of symbols", "a text prompt, of a model with a tokenizer")
        return stops

    def log_likelihood(
        self, texts: Sequence[str | Tensor], *, prompt: str | Tensor | None = None, batch_size: int = 64
    ) -> LogLikelihood:
        """Score given texts: the log-probability of their symbols, in nats.

        Args:
            texts: texts (needs a tokenizer) or 1-D tensors of symbols, of any lengths.
            prompt: what stands before each of them and is not scored. None: the first symbol of each text is not
                scored, because nothing predicts it.
            batch_size: texts at a time.

        Returns:
            `total` `(N,)` float64 and `symbols` `(N,)` int64, those that are scored.

        Raises:
            InputError: no list of texts, or one that the model cannot read or that leaves nothing to score.
        """
        batch_size = integer("batch_size", batch_size)
        if isinstance(texts, str) or not isinstance(texts, list | tuple) or not texts:
            came = "an empty list" if isinstance(texts, list | tuple) else type(texts).__name__
            raise InputError("texts", came, "a list of texts, or of 1-D tensors of symbols")
        before = None if prompt is None else self.begin(prompt, 1)
        read = []
        for i, text in enumerate(texts):
            name = f"texts[{i}]"
            try:
                ids = check_prompt(self._encode(text) if isinstance(text, str) else text, self)
            except InputError as error:
                argument = name if error.argument in ("prompt", "text") else error.argument
                raise InputError(argument, error.got, error.expected) from error
            if before is None and len(ids) < 2:
                raise InputError(name, "1 symbol", "at least 2, or a prompt=: nothing predicts the first symbol")
            read.append(ids if before is None else torch.cat([before, ids]))
        return log_likelihood(self, read, [1 if before is None else len(before)] * len(read), batch_size)
