"""Which examples were trained on before: fingerprints of the inputs of the first updates.

Modules that learn from their own heads fit the examples they have as well as each can alone. On new examples that is a
head start; on the same ones again it fits what does not come back at evaluation, and the modules behind cannot undo it.
"""

import torch
from torch import Tensor

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprints(x: Tensor) -> list[int]:
    """Return a 64-bit number for every row of `(B, ...)`, equal where all values of two rows are.

    Sums of integers, which wrap: they do not depend on the order, and so neither on the device nor on the batch.
    """
    rows = x.detach().unsqueeze(1).flatten(1).contiguous()
    if rows.is_complex():
        rows = torch.view_as_real(rows).flatten(1)
    bits = rows.view(_BITS[rows.element_size()]).to(torch.int64)
    places = torch.arange(1, bits.shape[1] + 1, device=x.device) * -7046029254386353131  # 2^64 over the golden mean
    mixed = bits * (places ^ (places >> 31) | 1) + places  # an odd factor keeps every bit
    found: list[int] = (mixed ^ (mixed >> 29)).sum(1).tolist()
    return found


class Repeats:
    """The inputs seen so far.

    Args:
        state: what `state` gave, to go on from.
    """

    def __init__(self, state: Tensor | None = None) -> None:
        self._seen: set[int] = set() if state is None else set(state.tolist())

    def again(self, x: Tensor) -> bool:
        """Whether at least half of the rows of `(B, ...)` were in an earlier batch; remember all of them."""
        rows = fingerprints(x)
        known = sum(row in self._seen for row in rows)
        self._seen.update(rows)
        return 2 * known >= len(rows) > 0

    def forget(self) -> None:
        """Free the memory."""
        self._seen.clear()

    def state(self) -> Tensor:
        """Return the fingerprints as a tensor."""
        return torch.tensor(sorted(self._seen), dtype=torch.int64)
