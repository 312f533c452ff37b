"""`chomsky`: tasks of known place in the Chomsky hierarchy, learned on short inputs and tested on long ones.

The regular and the counter tasks of Deletang et al. 2023 (arXiv:2207.02098), by their protocol: train on lengths up to
40, test on 41 to 500. After the input come blanks, one for every symbol of the answer; the answer is read there.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from hbll_seq.data.scalars import check_seed, choice, integer
from hbll_seq.datasets.sequences import Sequences

IGNORE = -100  # the ignore_index of torch.nn.functional.cross_entropy
CYCLE = 5  # positions of the walk
MODULUS = 5
PLUS, MINUS, TIMES = MODULUS, MODULUS + 1, MODULUS + 2  # symbols of the operators


class _Task(NamedTuple):
    """Size of the alphabet, number of classes, and the answers `(n,)` of symbols `(n, T)` where `valid` `(n, T)`."""

    symbols: int
    classes: int
    answer: Callable[[Tensor, Tensor], Tensor]


def _even_pairs(x: Tensor, valid: Tensor) -> Tensor:
    unequal = (x[:, 1:] != x[:, :-1]) & valid[:, 1:]
    return unequal.sum(1) % 2


def _parity_check(x: Tensor, valid: Tensor) -> Tensor:
    return (x * valid).sum(1) % 2


def _cycle_navigation(x: Tensor, valid: Tensor) -> Tensor:
    return ((x - 1) * valid).sum(1) % CYCLE


def _modular_arithmetic(x: Tensor, valid: Tensor) -> Tensor:
    """Evaluate from left to right: the sum so far, and the product that the next factor goes to."""
    total, product = torch.zeros_like(x[:, 0]), x[:, 0].clone()
    for i in range(1, x.shape[1] - 1, 2):
        sign, factor = x[:, i], x[:, i + 1]
        ends = (sign != TIMES) & valid[:, i]  # of the product
        total = torch.where(ends, total + product, total) % MODULUS
        following = torch.where(ends, torch.where(sign == MINUS, -factor, factor), product * factor)
        product = torch.where(valid[:, i], following, product) % MODULUS
    return (total + product) % MODULUS


def _compare_occurrence(x: Tensor, valid: Tensor) -> Tensor:
    return (2 * (x * valid).sum(1) > valid.sum(1)).long()


TASKS = {
    "even_pairs": _Task(2, 2, _even_pairs),
    "parity_check": _Task(2, 2, _parity_check),
    "cycle_navigation": _Task(3, CYCLE, _cycle_navigation),
    "modular_arithmetic": _Task(MODULUS + 3, MODULUS, _modular_arithmetic),
    "compare_occurrence": _Task(2, 2, _compare_occurrence),
}
SORTED = 5  # symbols of the bucket sort
NAMES = (*TASKS, "bucket_sort")


def load_chomsky(
    task: str = "parity_check", shortest: int = 1, longest: int = 40, n: int = 2048, seed: int = 0
) -> Sequences:
    """Make inputs of random length with exact answers.

    Regular tasks, for which a finite memory is enough:

    - "even_pairs": symbols 0 and 1; 0 if the number of neighbours that differ is even, else 1.
    - "parity_check": symbols 0 and 1; the number of ones, modulo 2.
    - "cycle_navigation": 0 a step to the left, 1 none, 2 one to the right on a circle of 5 places; the last place.
    - "modular_arithmetic": digits 0 to 4 and the operators + (5), - (6), * (7) in turn, products before sums; the value
      modulo 5. An even length is shortened by one.

    Counter tasks, for which a memory must hold numbers that grow with the length:

    - "compare_occurrence": symbols 0 and 1; 1 if there are more ones than zeros, else 0.
    - "bucket_sort": symbols 0 to 4; the symbols in order, one at every blank.

    Args:
        task: one of these names.
        shortest, longest: bounds of the input's length, drawn uniformly for every input; the blanks come on top.
        n: number of inputs.
        seed: same seed, same inputs; the global random state is not touched.

    Returns:
        x `(n, T)` int64, T = `longest` + 1, or `2 * longest` for the sort: the input, blanks (the last symbol,
        `input_size - 1`), and 0 after `lengths` `(n,)`, which count the blanks. Task "sequence": y `(n,)`, read at the
        only blank. "bucket_sort" has task "step": y `(n, T)`, the sorted symbols at the blanks and -100 elsewhere.
        cause `(n, T)`, every time step.

    Raises:
        InputError: an unknown task; a size below 1; `longest` below `shortest`.
    """
    choice("task", task, NAMES)
    shortest, n = integer("shortest", shortest), integer("n", n)
    longest = integer("longest", longest, shortest)
    g = Generator().manual_seed(check_seed(seed))
    size = torch.randint(shortest, longest + 1, (n,), generator=g)
    sort = task == "bucket_sort"
    symbols = SORTED if sort else TASKS[task].symbols
    if task == "modular_arithmetic":
        size -= 1 - size % 2
        x = _expressions(n, longest, g)
    else:
        x = torch.randint(symbols, (n, longest), generator=g)
    at, valid = torch.arange(2 * longest if sort else longest + 1), torch.arange(longest) < size[:, None]
    lengths = 2 * size if sort else size + 1
    blanks = (at >= size[:, None]) & (at < lengths[:, None])  # (n, T)
    padded = torch.nn.functional.pad(x * valid, (0, len(at) - longest))
    y = torch.full_like(padded, IGNORE)
    if sort:
        y[blanks] = torch.where(valid, x, symbols).sort(1).values[valid]
    return Sequences(
        x=torch.where(blanks, symbols, padded),
        y=y if sort else TASKS[task].answer(x, valid),
        lengths=lengths,
        task="step" if sort else "sequence",
        loss="cross_entropy",
        input_size=symbols + 1,
        classes=symbols if sort else TASKS[task].classes,
        cause=at.expand(n, len(at)),
    )


def _expressions(n: int, longest: int, g: Generator) -> Tensor:
    """Draw digits at even places and operators at odd ones, `(n, longest)`."""
    digits = torch.randint(MODULUS, (n, longest), generator=g)
    operators = torch.randint(PLUS, TIMES + 1, (n, longest), generator=g)
    return torch.where(torch.arange(longest) % 2 == 0, digits, operators)
