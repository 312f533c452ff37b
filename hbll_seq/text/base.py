"""`Tokenizer`: the interface of all tokenizers, and text that comes a symbol at a time."""

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from hbll_seq.data.tensors import as_tensor
from hbll_seq.errors import InputError


class Tokenizer:
    """From text to symbols and back.

    Attributes:
        kind: the name of the class in saved models.
        vocab_size: number of symbols V.
        dtype: the smallest dtype that this package uses for V symbols of a long text.
    """

    kind: ClassVar[str]
    vocab_size: int
    dtype: torch.dtype = torch.int64

    def encode(self, text: str) -> Tensor:
        """Return the symbols `(n,)` of a text, of `dtype`.

        Raises:
            InputError: no text, or one that the symbols cannot write.
        """
        raise NotImplementedError

    def decode(self, symbols: Any) -> str:
        """Return the text of symbols `(n,)`.

        Raises:
            InputError: not one-dimensional, not integers, or symbols out of range.
        """
        raise NotImplementedError

    def pieces(self, symbols: Iterable[int]) -> Iterator[str]:
        """Iterate over a text that comes a symbol at a time, in whole characters; "" while one is incomplete.

        All pieces together are `decode` of all symbols.
        """
        raise NotImplementedError

    def bytes_of(self, symbols: Tensor) -> int:
        """Return the UTF-8 bytes of the text of symbols `(n,)`."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return JSON-able values from which `from_config` makes an equal tokenizer."""
        raise NotImplementedError

    @property
    def portable(self) -> bool:
        """Whether `config` holds everything."""
        return True

    def check(self, symbols: Any) -> list[int]:
        """Return symbols `(n,)` as a list.

        Raises:
            InputError: see `decode`.
        """
        if isinstance(symbols, list | tuple) and not symbols:
            return []
        found = as_tensor(symbols, "numbers")
        if found.dim() != 1 or found.is_floating_point() or found.dtype == torch.bool:
            raise InputError("numbers", f"{found.dtype} of shape {tuple(found.shape)}", "integers of shape (n,)")
        if found.numel():
            low, high = (int(v) for v in found.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise InputError("numbers", f"{low} .. {high}", f"symbol numbers 0 .. {self.vocab_size - 1}")
        listed: list[int] = found.tolist()
        return listed

    def __repr__(self) -> str:
        """Return the class and the number of symbols."""
        return f"{type(self).__name__}({self.vocab_size} symbols)"


def check_text(text: Any, name: str = "text") -> str:
    """Return `text` if it is a string."""
    if not isinstance(text, str):
        raise InputError(name, type(text).__name__, "a string")
    return text
