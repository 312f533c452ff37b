"""A pre-norm transformer block, whole sequences at once or token by token with a cache."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from hbll_seq.errors import InputError

Cache = tuple[Tensor, Tensor]  # keys and values so far, (B, heads, T, width / heads)


class TransformerBlock(nn.Module):
    """A block `z + attention(LayerNorm(z))`, then `z + MLP(LayerNorm(z))`.

    Args:
        width: width of every token.
        heads: attention heads; they divide the width.
        causal: a token attends only to itself and earlier tokens.
        expand: width of the MLP over `width`.
        dropout: dropout rate on the two branches in training.
    """

    def __init__(self, width: int, heads: int, causal: bool, expand: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise InputError("heads", heads, f"a divisor of the width, {width}")
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, expand * width), nn.GELU(), nn.Linear(expand * width, width))
        self.dropout = nn.Dropout(dropout)

    def initialise_(self, depth: int) -> None:
        """Initialise as GPT-2: std 0.02, and 0.02 / sqrt(2 depth) where a branch joins the residual stream."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                joins = module is self.out or module is self.mlp[-1]
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if joins else 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, T, width) -> (B, T, width)`."""
        q, k, v = self._split(z)
        z = z + self.dropout(self._merge(self._attend(q, k, v)))
        out: Tensor = z + self.dropout(self.mlp(self.norm2(z)))
        return out

    def extend(self, z: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Process the next S tokens `(B, S, width)` with cached keys and values of earlier ones; causal blocks only."""
        q, k, v = self._split(z)
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        past, new = k.shape[2] - z.shape[1], z.shape[1]
        # new token i attends to the past and to new tokens up to itself
        mask = torch.ones(new, past + new, dtype=torch.bool, device=z.device).tril(past) if new > 1 else None
        z = z + self._merge(scaled_dot_product_attention(q, k, v, attn_mask=mask))
        return z + self.mlp(self.norm2(z)), (k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # written out: the fused CPU kernel has no batching rule, and blocks of a level run under vmap
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, heads, T, T)
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        return scores.softmax(-1) @ v

    def _split(self, z: Tensor) -> list[Tensor]:
        b, t, w = z.shape
        x = self.qkv(self.norm1(z)).view(b, t, 3, self.heads, w // self.heads)
        return [x[:, :, i].transpose(1, 2) for i in range(3)]  # each (B, heads, T, w / heads)

    def _merge(self, y: Tensor) -> Tensor:
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out
