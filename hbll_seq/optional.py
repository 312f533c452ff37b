"""Packages that not everybody needs: imported when first used, with an error that says what to install."""

import importlib
from types import ModuleType


def optional(package: str, extra: str, what: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        package: its module.
        extra: name of the extra of this package that installs it.
        what: who needs it, for the error.

    Raises:
        ImportError: it cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        how = f"pip install 'hbll_seq[{extra}]'"
        raise ImportError(f"{what} needs {name}, which cannot be imported ({error}): {how}") from error
