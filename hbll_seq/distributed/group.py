"""`Group`: the processes that exchange tensors, by two collectives that are counted, gather and sum, and by sends.

All traffic of this package goes through it. A *rank* is a process of the group, by its number. Every rank makes the
same calls in the same order; whatever decides how many there are is computed from values that all ranks hold.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hbll_seq.errors import InputError, LostRankError

GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the first from torch 2.13 on


@dataclass
class Traffic:
    """What a rank has exchanged.

    Attributes:
        collectives: calls of gather and sum.
        numbers: numbers that this rank put in.
        bytes: the same in bytes.
        seconds: time spent inside collectives and in receiving, mostly waiting for other ranks.
        sends: tensors sent to one rank.
        passes: forward and backward passes over this rank's spans.
        again: passes over the same spans that corrected them; a part of a span counts as its share of the time steps.
    """

    collectives: int = 0
    numbers: int = 0
    bytes: int = 0
    seconds: float = 0.0
    sends: int = 0
    passes: int = 0
    again: float = 0.0

    def since(self, before: "Traffic") -> "Traffic":
        """Return the difference to an earlier copy."""
        return Traffic(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def plus(self, other: "Traffic") -> "Traffic":
        """Return the sum with another one."""
        return Traffic(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))

    def copy(self) -> "Traffic":
        """Return the state of now."""
        return replace(self)


class Group:
    """Ranks that exchange tensors.

    Args:
        handle: a process group of `torch.distributed`; None for all processes. The process group's timeout bounds every
            wait.

    Attributes:
        size: number of ranks, P.
        rank: number of this one, from 0.
        traffic: what this rank has exchanged.

    Raises:
        InputError: `torch.distributed` is not initialised, or this process is not in the group.
    """

    def __init__(self, handle: Any = None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            came = "no process group"
            raise InputError("group", came, 'torch.distributed.init_process_group("gloo") before, under torchrun')
        self._handle = handle
        self.size, self.rank = dist.get_world_size(handle), dist.get_rank(handle)
        if self.rank < 0:
            raise InputError("group", "a process group without this process", "a group that this process is in")
        self.traffic = Traffic()
        self._on_the_way = list[tuple[Any, Tensor]]()

    def gather(self, mine: Tensor) -> Tensor:
        """Return the tensors of all ranks `(P, ...)`; all have the same shape.

        Raises:
            LostRankError: a rank failed or did not answer.
        """
        mine = mine.detach().contiguous()
        found = mine.new_empty(self.size * mine.numel())
        self._call("gather", mine, lambda: GATHER(found, mine.view(-1), group=self._handle))
        return found.view(self.size, *mine.shape)

    def sum(self, mine: Tensor) -> Tensor:
        """Return the sum over all ranks, the same bits on every rank; `mine` is overwritten.

        Raises:
            LostRankError: a rank failed or did not answer.
        """
        mine = mine.detach()
        self._call("sum", mine, lambda: dist.all_reduce(mine, group=self._handle))
        return mine

    def send(self, mine: Tensor, to: int) -> None:
        """Send a tensor to a rank of this group, without waiting until it is there; see `sent`.

        Raises:
            LostRankError: that rank failed.
        """
        mine = mine.detach().contiguous()
        with self._named("send", mine):
            self._on_the_way.append((dist.isend(mine, self._global(to), group=self._handle), mine))
        self.traffic.sends += 1
        self._count(mine)

    def receive(self, like: Tensor, sender: int) -> Tensor:
        """Return the next tensor that a rank of this group sent, of the shape and dtype of `like`.

        Raises:
            LostRankError: that rank failed or did not answer.
        """
        found = torch.empty_like(like, memory_format=torch.contiguous_format)
        before = time.perf_counter()
        with self._named("receipt", found):
            dist.recv(found, self._global(sender), group=self._handle)
        self.traffic.seconds += time.perf_counter() - before
        return found

    def sent(self) -> None:
        """Wait until all that was sent has left.

        Raises:
            LostRankError: a receiver failed or did not answer.
        """
        while self._on_the_way:
            work, mine = self._on_the_way.pop(0)
            with self._named("send", mine):
                work.wait()

    def _global(self, rank: int) -> int:
        return rank if self._handle is None else dist.get_global_rank(self._handle, rank)

    def _call(self, what: str, mine: Tensor, run: Any) -> None:
        before = time.perf_counter()
        with self._named(what, mine):
            run()
        self.traffic.seconds += time.perf_counter() - before
        self.traffic.collectives += 1
        self._count(mine)

    @contextmanager
    def _named(self, what: str, mine: Tensor) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostRankError(
                f"rank {self.rank} of {self.size}: another rank failed, or did not answer in time, in a {what} of "
                f"{mine.numel()} numbers. No update was made of it. Under torchrun --max-restarts the run goes on from "
                f"its checkpoint ({str(error).splitlines()[0]})"
            ) from error

    def _count(self, mine: Tensor) -> None:
        self.traffic.numbers += mine.numel()
        self.traffic.bytes += mine.numel() * mine.element_size()


class Chain:
    """The ranks of a group as the links of a chain of spans, in the order in which a cell passes them.

    Args:
        group: the ranks, each with the next span of time.
        backward: whether the cell runs from the last span to the first.

    Attributes:
        size: number of links, P.
        place: this rank's place in the chain, from 0.
    """

    def __init__(self, group: Group, backward: bool) -> None:
        self._group, self._backward = group, backward
        self.size = group.size
        self.place = group.size - 1 - group.rank if backward else group.rank

    def gather(self, mine: Tensor) -> Tensor:
        """Return the tensors of all links, in the order of the chain."""
        found = self._group.gather(mine)
        return found.flip(0) if self._backward else found

    def passed(self, again: float) -> None:
        """Count a pass over this rank's span, and how much of it was done again; see `Traffic`."""
        self._group.traffic.passes += 1
        self._group.traffic.again += again

    def sum(self, mine: Tensor) -> Tensor:
        """Return the sum over all links; `mine` is overwritten."""
        return self._group.sum(mine)

    def send(self, mine: Tensor, place: int) -> None:
        """Send a tensor to a link, without waiting; see `sent`."""
        self._group.send(mine, self._rank(place))

    def receive(self, like: Tensor, place: int) -> Tensor:
        """Return the next tensor that a link sent, of the shape and dtype of `like`."""
        return self._group.receive(like, self._rank(place))

    def sent(self) -> None:
        """Wait until all that was sent has left."""
        self._group.sent()

    def _rank(self, place: int) -> int:
        return self.size - 1 - place if self._backward else place


def same_everywhere(group: Group, value: int) -> bool:
    """Return whether all ranks hold the same integer."""
    found = group.gather(torch.tensor([value]))
    return bool((found == found[0]).all())


def as_group(group: Any) -> Any:
    """Return the process group of a `DeviceMesh`; anything else as it is."""
    return group.get_group() if hasattr(group, "get_group") else group
