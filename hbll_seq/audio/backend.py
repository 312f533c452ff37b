"""torchaudio, imported when the first sound needs it: filter banks, resampling, mu-law, edit distance.

torchaudio's wheels for Linux hold a compiled extension for one version of CUDA. Beside another build of torch
`import torchaudio` fails: OSError beside a CPU build, which lacks CUDA's libraries, and RuntimeError beside a build for
another CUDA. Everything used here also exists in plain torch operations. torchaudio takes those where it finds no
extension, so after such a failure a stand-in that reports none is put in place of its module `torchaudio._extension`,
and the import repeated. Nothing is changed in the installation. That name is private to torchaudio, hence the limits
on its version in pyproject.toml, and a test of both failures. A user's own `import torchaudio` afterwards finds the
same module. What only the extension has (`rnnt_loss`, `forced_align`) raises torchaudio's error for that case.

The import takes part of a second and happens in `torchaudio()` alone: work on text never pays for it.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "torchaudio._extension"


@functools.cache
def torchaudio() -> Any:
    """Return the module `torchaudio`, without its compiled extension where that cannot be loaded.

    Raises:
        ImportError: torchaudio is not installed.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError):
        sys.modules[NAME] = _without_extension()
    try:
        return importlib.import_module("torchaudio")
    except BaseException:
        del sys.modules[NAME]
        raise


def _without_extension() -> ModuleType:
    module: Any = ModuleType(NAME)
    module._IS_TORCHAUDIO_EXT_AVAILABLE = module._IS_ALIGN_AVAILABLE = False
    module.fail_if_no_align = _refusing
    return module


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{function.__name__} needs torchaudio's compiled extension, which does not fit this torch")

    return refused
