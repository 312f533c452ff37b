"""Names of PyTorch's recurrent modules, for those who try them: `hidden_size`, `num_layers`, and the cell "rnn"."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from hbll_seq.errors import InputError

ALIASES = {"hidden_size": "hidden", "num_layers": "layers"}

F = TypeVar("F", bound=Callable[..., None])


def with_aliases(init: F) -> F:
    """Let a constructor take PyTorch's names for its arguments."""

    @functools.wraps(init)
    def renamed(self: Any, *args: Any, **options: Any) -> None:
        for alias, name in ALIASES.items():
            if alias in options:
                if name in options:
                    raise InputError(alias, f"{options[alias]!r} beside {name}={options[name]!r}", "one of the two")
                options[name] = options.pop(alias)
        if isinstance(options.get("cell"), str) and options["cell"] == "rnn":
            options["cell"] = "elman"
        init(self, *args, **options)

    return cast(F, renamed)
