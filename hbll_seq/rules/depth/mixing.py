"""Least-squares mixing of the iterates of a fixed point (Anderson's), every sequence of the batch for itself.

An iteration x <- x + f(x) has seen k iterates and their residuals f. A combination of them with weights that sum to one
has nearly the same combination as its residual, exactly so where f is affine. The next iterate starts from the
combination whose residual is least in squares, the seen changes of the residual against the changes of x. For the
messages, which are affine, this is GMRES; their number of iterations then no longer depends on how well a carry was
guessed (docs/method.md#layered-networks).
"""

import torch
from torch import Tensor


class Mixing:
    """The iterates of one fixed point so far, as differences from one to the next."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, Tensor] | None = None
        self._moved: list[Tensor] = []  # changes of x + f
        self._seen: list[Tensor] = []  # changes of f

    @torch.no_grad()
    def __call__(self, x: Tensor, f: Tensor) -> Tensor:
        """Return the next iterate.

        Args:
            x: `(M, B, ...)` the iterate.
            f: as `x`, its residual: the change that the plain iteration would make.
        """
        m, rows = x.shape[:2]
        if self._last is not None:
            seen = (f - self._last[1]).reshape(m, rows, -1)
            self._seen.append(seen)
            self._moved.append((x - self._last[0]).reshape(m, rows, -1) + seen)
        self._last = x, f
        new = x + f
        if self._seen:
            seen, moved = torch.stack(self._seen), torch.stack(self._moved)  # (k, M, B, X)
            # the k x k system of each sequence is small, and needs the precision that squares lose
            left = torch.einsum("imbx,jmbx->bij", seen, seen).double()
            right = torch.einsum("imbx,mbx->bi", seen, f.reshape(m, rows, -1)).double()
            size = left.diagonal(0, 1, 2).sum(1)[:, None, None]
            ridge = torch.finfo(x.dtype).eps * size + 1e-300  # a sequence whose residual is zero keeps its iterate
            weights = torch.linalg.solve(left + ridge * torch.eye(left.shape[1]).to(left), right.unsqueeze(2))[..., 0]
            new = new - torch.einsum("bi,imbx->mbx", weights.to(x.dtype), moved).view_as(new)
        return new
