"""Stop strings: a text that comes in pieces ends before the first of them that is complete."""

from typing import Any

from hbll_seq.errors import InputError


class StopText:
    """Pass a text on, piece by piece, until a stop string comes.

    Args:
        stops: the strings; none for a text that never stops.

    Attributes:
        done: whether one came.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held, self.done = stops, "", False

    def add(self, piece: str) -> str:
        """Take a piece; return what is certain not to belong to a stop string."""
        if self.done:
            return ""
        self._held += piece
        starts = [(self._held.find(stop), len(stop)) for stop in self._stops]
        found = [(start + length, start) for start, length in starts if start >= 0]
        if found:  # the first that is complete, so that it does not matter how the text is cut
            self.done = True
            out, self._held = self._held[: min(found)[1]], ""
            return out
        keep = max((_begun(self._held, stop) for stop in self._stops), default=0)
        at = len(self._held) - keep
        out, self._held = self._held[:at], self._held[at:]
        return out

    def rest(self) -> str:
        """Return what was held back, at the end of the text."""
        out, self._held = self._held, ""
        return out


def _begun(text: str, stop: str) -> int:
    """Return the length of the longest end of a text that is a beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def check_stops(stop: Any) -> tuple[str, ...]:
    """Return stop strings as a tuple; None for none.

    Raises:
        InputError: neither strings nor None, or an empty one.
    """
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple) or not all(isinstance(one, str) and one for one in stops):
        came = repr(stop) if isinstance(stop, str) else type(stop).__name__
        raise InputError("stop", came, "a string that is not empty, a list of them, or None")
    return tuple(stops)
