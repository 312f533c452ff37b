"""Options that a model of one task passes on to `SequenceModel`."""

import inspect
from collections.abc import Mapping
from typing import Any

from hbll_seq.data.scalars import plain_options, shown
from hbll_seq.errors import InputError
from hbll_seq.models.aliases import ALIASES
from hbll_seq.models.recurrent import SequenceModel


def own_options(options: Mapping[str, Any], why: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options to pass on, with their numbers as Python's.

    Args:
        options: keywords as they came.
        why: the reason that some are decided, for the error.
        fixed: the options that the model decides, by name. The same value, or None, may be given; it is left out.

    Raises:
        InputError: another value for a decided option, or an option that `SequenceModel` does not have.
    """
    found = plain_options(options)
    for name, own in fixed.items():
        given = found.pop(name, None)
        if given is not None and (type(given) is not type(own) or given != own):
            raise InputError(name, shown(given), f"nothing: {why}")
    known = {*inspect.signature(SequenceModel.__init__).parameters, *ALIASES} - {"self", *fixed}
    for name in found:
        if name not in known:
            raise InputError(name, "an option that the model does not have", f"one of {sorted(known)}")
    return found
