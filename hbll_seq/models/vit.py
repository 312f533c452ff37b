"""`ViT`: a vision transformer over image patches."""

import torch
from torch import Tensor, nn

from hbll_seq.data.draws import SeededDraws
from hbll_seq.data.scalars import integer, plain_number, shown
from hbll_seq.errors import InputError
from hbll_seq.models.layered import Head, Layered
from hbll_seq.models.registry import remember
from hbll_seq.models.transformer import TransformerBlock


class PatchEmbedding(nn.Module):
    """Embedding of patches as tokens with learned positions: `(B, C, H, W) -> (B, tokens, width)`."""

    def __init__(self, image: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(image[0], width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(image[1] // patch * (image[2] // patch), width))

    def forward(self, x: Tensor) -> Tensor:
        """Embed the patches; see the class."""
        out: Tensor = self.project(x).flatten(2).transpose(1, 2) + self.position
        return out


@remember
class ViT(Layered):
    """A vision transformer; the head averages over the tokens.

    Args:
        image: channels, height and width of an image, in pixels.
        output_size: classes V.
        patch: side of a patch in pixels; divides height and width.
        hidden: width of a token.
        heads: attention heads; they divide the width.
        layers: N: N - 1 blocks, and the head.
        dropout: dropout rate in training.
        seed: seed of the initialisation; the global random state is not touched.
    """

    def __init__(
        self, image: tuple[int, int, int], output_size: int, *, patch: int = 7, hidden: int = 64, heads: int = 4,
        layers: int = 8, dropout: float = 0.0, seed: int = 0,
    ) -> None:  # fmt: skip
        if not isinstance(image, list | tuple) or len(image) != 3:
            raise InputError("image", shown(image), "(channels, height, width)")
        image = (integer("image[0]", image[0]), integer("image[1]", image[1]), integer("image[2]", image[2]))
        output_size, hidden = integer("output_size", output_size), integer("hidden", hidden)
        heads, layers = integer("heads", heads), integer("layers", layers, least=2)
        patch, dropout, seed = integer("patch", patch), plain_number(dropout), plain_number(seed)
        if image[1] % patch or image[2] % patch:
            raise InputError("patch", patch, f"a divisor of the image's sides, {image[1:]}")
        with SeededDraws(seed):
            embed = PatchEmbedding(image, patch, hidden)
            blocks = [TransformerBlock(hidden, heads, causal=False, dropout=dropout) for _ in range(layers - 1)]
            for block in blocks:
                block.initialise_(layers - 1)
            head = Head(hidden, output_size, norm=True, pool=True)
        super().__init__(blocks, embed=embed, head=head, input_shape=image, output_size=output_size)
        self._config = dict(
            image=image, output_size=output_size, patch=patch, hidden=hidden, heads=heads, layers=layers,
            dropout=dropout, seed=seed,
        )  # fmt: skip
