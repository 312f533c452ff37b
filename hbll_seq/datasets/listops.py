"""`listops`: nested lists of operators and digits, and the value of the whole (Nangia and Bowman 2018)."""

import random

import torch

from hbll_seq.data.scalars import check_seed, integer
from hbll_seq.datasets.sequences import Sequences
from hbll_seq.errors import InputError

OPERATORS = "[MIN", "[MAX", "[MED", "[SM"
SYMBOLS = (*(str(digit) for digit in range(10)), *OPERATORS, "]")
NESTED = 0.25  # probability that an argument is a list
CLOSE = len(SYMBOLS) - 1
ATTEMPTS = 100_000  # draws without one of the wanted length


class _TooLong(Exception):
    pass


def load_listops(
    n: int = 2048, shortest: int = 500, longest: int = 2000, depth: int = 10, arguments: int = 10, seed: int = 0
) -> Sequences:
    """Make expressions such as `[MAX 2 [MIN 3 7 ] 5 ]` and their values, by the grammar of the Long Range Arena.

    An operator takes 2 to `arguments` arguments. Each is a list with probability 1/4, down to `depth`, else a digit.
    Expressions are drawn until one has more than `shortest` and fewer than `longest` symbols. MIN, MAX, MED are the
    least, the greatest and the median, which is rounded down where it is between two digits; SM is the sum modulo 10.

    Args:
        n: number of expressions; the Long Range Arena has 96,000 to train on, 2,000 and 2,000: see `Sequences.split`.
        shortest, longest: bounds of the number of symbols, both excluded.
        depth: most lists inside one another.
        arguments: most arguments of an operator.
        seed: same seed, same expressions; the global random state is not touched.

    Returns:
        x `(n, longest - 1)` int64 numbers of `hbll_seq.datasets.listops.SYMBOLS`, 0 after the `lengths` `(n,)`;
        y `(n,)` the value, 0 to 9; cause `(n, longest - 1)`, every time step.

    Raises:
        InputError: a size out of range, or lengths that the grammar hardly ever gives.
    """
    n, depth, arguments = integer("n", n), integer("depth", depth), integer("arguments", arguments, 2)
    shortest = integer("shortest", shortest, 0)
    longest = integer("longest", longest, shortest + 2, " (shortest + 2)")
    rng = random.Random(check_seed(seed))
    x = torch.zeros(n, longest - 1, dtype=torch.int64)
    y, lengths = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    for row in range(n):
        symbols, y[row] = _one(rng, shortest, longest, depth, arguments)
        x[row, : len(symbols)], lengths[row] = torch.tensor(symbols), len(symbols)
    return Sequences(
        x=x,
        y=y,
        lengths=lengths,
        task="sequence",
        loss="cross_entropy",
        input_size=len(SYMBOLS),
        classes=10,
        cause=torch.arange(longest - 1).expand(n, longest - 1),
    )


def _one(rng: random.Random, shortest: int, longest: int, depth: int, arguments: int) -> tuple[list[int], int]:
    """Draw until the length fits; its symbols and its value."""
    for _ in range(ATTEMPTS):
        symbols: list[int] = []
        try:
            value = _draw(rng, symbols, depth, arguments, longest - 1)
        except _TooLong:
            continue
        if len(symbols) > shortest:
            return symbols, value
    lengths = f"{shortest} to {longest} with depth {depth} and {arguments} arguments"
    raise InputError("shortest", lengths, f"lengths of which one comes in {ATTEMPTS:,} draws")


def _draw(rng: random.Random, symbols: list[int], depth: int, arguments: int, most: int) -> int:
    """Append a list that may hold lists `depth - 1` deep to `symbols`, and return its value."""
    operator = rng.randrange(len(OPERATORS))
    symbols.append(10 + operator)
    values = []
    for _ in range(rng.randint(2, arguments)):
        if depth > 1 and rng.random() < NESTED:
            values.append(_draw(rng, symbols, depth - 1, arguments, most))
        else:
            values.append(rng.randrange(10))
            symbols.append(values[-1])
        if len(symbols) >= most:
            raise _TooLong
    symbols.append(CLOSE)
    return _value(operator, values)


def _value(operator: int, values: list[int]) -> int:
    if operator == 0:
        return min(values)
    if operator == 1:
        return max(values)
    if operator == 3:
        return sum(values) % 10
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
