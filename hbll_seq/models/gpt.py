"""`GPT`: a causal transformer over symbols, and its greedy or sampled generation along any path."""

from typing import Any

import torch
from torch import Tensor, nn

from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.scalars import integer, plain_number
from hbll_seq.errors import InputError
from hbll_seq.models.layered import Head, Layered, Path
from hbll_seq.models.registry import remember
from hbll_seq.models.sampler import Sampler
from hbll_seq.models.symbol_text import SymbolText
from hbll_seq.models.transformer import Cache, TransformerBlock


class TokenEmbedding(nn.Module):
    """Embedding of symbols and learned positions: `(B, T) int64 -> (B, T, width)`."""

    def __init__(self, vocab_size: int, context: int, width: int) -> None:
        super().__init__()
        self.symbol = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(context, width)
        nn.init.normal_(self.symbol.weight, std=0.02)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Embed `x` at positions `first`, `first + 1`, ..."""
        context = self.position.num_embeddings
        if first + x.shape[1] > context:
            raise InputError("x", f"{first + x.shape[1]} steps", f"at most context={context}")
        out: Tensor = self.symbol(x) + self.position(torch.arange(first, first + x.shape[1], device=x.device))
        return out


class Decoder:
    """A path of a GPT that reads on and keeps the keys and values of past symbols."""

    def __init__(self, model: "GPT", path: Path) -> None:
        self.model, self.nodes = model, model.path(path)
        self.caches: list[Cache | None] = [None] * len(self.nodes)
        self.read = 0

    def extend(self, symbols: Tensor) -> Tensor:
        """Return logits `(B, S, V)` after each of the next symbols `(B, S)`."""
        z = self.model.embed(symbols, self.read)
        for k, n in enumerate(self.nodes):
            z, self.caches[k] = self.model.layers[n - 1].extend(z, self.caches[k])  # type: ignore[operator]  # its block
        self.read += symbols.shape[1]
        out: Tensor = self.model.head(z)
        return out

    def back(self, read: int) -> None:
        """Forget everything after the first `read` symbols."""
        self.caches = [None if c is None else (c[0][:, :, :read], c[1][:, :, :read]) for c in self.caches]
        self.read = read


@remember
class GPT(SymbolText, Layered):
    """A causal language model over at most `context` symbols.

    Args:
        vocab_size: number of symbols V.
        context: longest sequence T.
        hidden: width of a token.
        heads: attention heads; they divide the width.
        layers: N: N - 1 blocks, and the head.
        symbols: the V characters, in order; optional. With them `generate` reads and returns text.
        dropout: dropout rate in training.
        seed: seed of the initialisation; the global random state is not touched.
    """

    def __init__(
        self, vocab_size: int, *, context: int = 256, hidden: int = 128, heads: int = 4, layers: int = 8,
        symbols: list[str] | None = None, dropout: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        vocab_size, context = integer("vocab_size", vocab_size), integer("context", context)
        hidden, heads, layers = integer("hidden", hidden), integer("heads", heads), integer("layers", layers, least=2)
        dropout, seed = plain_number(dropout), plain_number(seed)
        with SeededDraws(seed):
            embed = TokenEmbedding(vocab_size, context, hidden)
            blocks = [TransformerBlock(hidden, heads, causal=True, dropout=dropout) for _ in range(layers - 1)]
            for block in blocks:
                block.initialise_(layers - 1)
            head = Head(hidden, vocab_size, norm=True)
        super().__init__(
            blocks, embed=embed, head=head, output_size=vocab_size, input_size=vocab_size, task="next",
            input_kind="symbols",
        )  # fmt: skip
        self.context: int = context
        self.name_symbols(symbols, vocab_size)
        self._config = dict(
            vocab_size=vocab_size, context=context, hidden=hidden, heads=heads, layers=layers, symbols=symbols,
            dropout=dropout, seed=seed,
        )  # fmt: skip

    @torch.no_grad()
    def generate(
        self, prompt: str | Tensor, length: int, *, path: Path = "full", temperature: float = 0.8, seed: int = 0
    ) -> Any:
        """Continue `prompt` by `length` symbols along a path, with cached keys and values.

        Args:
            prompt: text (needs `symbols`) or a 1-D int64 tensor.
            length: symbols to add, >= 1; prompt and continuation fit in the context.
            path: the path that predicts.
            temperature: 0 takes the most likely symbol, 1 samples from the model's distribution.
            seed: seed of the sampling; the global random state is not touched.

        Returns:
            Prompt and continuation, as text or as a tensor, like the prompt.
        """
        ids = self.begin(prompt, length)
        sampler = Sampler(temperature, seed)
        if len(ids) + length > self.context:
            raise InputError("length", f"{length} after a prompt of {len(ids)}", f"at most {self.context} in all")
        decoder = Decoder(self, path)
        out = ids.tolist()
        logits = decoder.extend(ids[None].to(next(self.parameters()).device))[0, -1]
        for k in range(length):
            out.append(sampler.pick(logits))
            if k + 1 < length:
                logits = decoder.extend(torch.tensor([[out[-1]]], device=logits.device))[0, -1]
        return self.finish(torch.tensor(out), prompt)
