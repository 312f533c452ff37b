"""Where time is cut into spans, one a rank."""

from hbll_seq.errors import InputError


def even_spans(steps: int, count: int) -> list[int]:
    """Return the time steps of `count` spans of nearly equal size.

    Raises:
        InputError: fewer time steps than spans.
    """
    if steps < count:
        raise InputError("steps", f"{steps} for {count} spans", "at least one time step a rank")
    ends = [steps * (i + 1) // count for i in range(count)]
    return [stop - first for first, stop in zip([0, *ends], ends, strict=False)]


def spans_of(steps: int, unit: int, count: int) -> list[int] | None:
    """Return the time steps of `count` spans that start at multiples of `unit`; None for too few such multiples."""
    units = -(-steps // unit)
    if units < count:
        return None
    spans = [one * unit for one in even_spans(units, count)]
    return [*spans[:-1], steps - sum(spans[:-1])]
