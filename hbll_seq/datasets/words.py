"""`words`: word problems of finite groups, the field's test of state tracking."""

import torch
from torch import Generator, Tensor

from hbll_seq.data.scalars import check_seed, choice, integer
from hbll_seq.datasets.groups import Group
from hbll_seq.datasets.groups import group as group_of
from hbll_seq.datasets.sequences import Sequences

INPUTS = ("generators", "all")


def letters(of: Group, inputs: str = "generators") -> Tensor:
    """Return the elements that the input symbols stand for, `(symbols,)` int64."""
    choice("inputs", inputs, INPUTS)
    return torch.arange(len(of)) if inputs == "all" else torch.tensor([0, *of.generators])


def draw_words(
    n: int, steps: int, generator: Generator, *, of: str = "S5", inputs: str = "generators"
) -> tuple[Tensor, Tensor]:
    """Draw words and their running products; see `load_words`.

    Returns:
        x `(n, steps)` int64 symbols, y `(n, steps)` int64 elements, on the generator's device.
    """
    integer("n", n)
    integer("steps", steps)
    one = group_of(of)
    meant = letters(one, inputs)
    x = torch.randint(len(meant), (n, steps), generator=generator, device=generator.device)
    return x, one.products(meant[x.cpu()]).to(x.device)


def load_words(
    group: str = "S5", inputs: str = "generators", steps: int = 128, n: int = 2048, seed: int = 0
) -> Sequences:
    """Make word problems of a finite group: read elements, and name the product so far at every time step.

    The product is a state that no input erases. Whoever misreads one symbol is wrong from there to the end.

    Args:
        group: "S5", "A5", "S3", "parity" (Z2) or "Z60"; see `hbll_seq.datasets.groups.group` for the numbers of its
            elements and its exact table.
        inputs: "generators": symbol 0 is the identity, and 1, 2, ... are the group's generators; "all": every element
            is a symbol, by its number.
        steps: T, any length.
        n: number of words.
        seed: same seed, same words; the global random state is not touched.

    Returns:
        x `(n, T)` int64 symbols; y `(n, T)` int64, the number of the product x_0 x_1 ... x_t at time step t; task
        "step"; classes is the order of the group; cause `(n, T)`, every time step.

    Raises:
        InputError: an unknown group or kind of inputs; a size below 1.
    """
    x, y = draw_words(n, steps, Generator().manual_seed(check_seed(seed)), of=group, inputs=inputs)
    one, causes = group_of(group), torch.arange(steps).expand(n, steps)
    return Sequences.of_classes(x, y, "step", len(letters(one, inputs)), len(one), causes)
