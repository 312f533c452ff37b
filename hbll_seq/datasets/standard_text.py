"""The texts that language models are compared on: Penn Treebank, WikiText, enwik8, text8, TinyStories.

A set is a folder with its usual files; an archive is read as it is, without being unpacked. Checksums are those that
several independent projects publish for the file. Where none is known nothing can be downloaded, and the user gives
the files: `path=`, or `$HBLL_SEQ_DATA/<name>`.
"""

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from hbll_seq.datasets.download import digest, fetch
from hbll_seq.datasets.location import cache_folder, from_environment
from hbll_seq.datasets.read_text import read
from hbll_seq.datasets.split_text import Text
from hbll_seq.errors import InputError


class File(NamedTuple):
    """A file to download.

    Attributes:
        url: its address.
        sha256: its digest.
        size: its bytes, or None if they are not known.
    """

    url: str
    sha256: str
    size: int | None = None

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[1]


class Standard(NamedTuple):
    """A set.

    Attributes:
        title: its name in words.
        parts: names of its files: train, valid and test; or one, split by `ends`.
        files: what to download; () if no checksum is known.
        ends: bytes at which `train` and `valid` end in a set of one file.
        tokenizer: the usual one.
    """

    title: str
    parts: tuple[str, ...]
    files: tuple[File, ...] = ()
    ends: tuple[int, int] | None = None
    tokenizer: str = "char"


_WIKI = ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")
_S3 = "https://s3.amazonaws.com/research.metamind.io/wikitext/"
_STORIES = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/"
STANDARD = {
    "enwik8": Standard(
        "enwik8", ("enwik8",),
        (File("http://mattmahoney.net/dc/enwik8.zip",
              "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc", 36_445_475),),
        (90_000_000, 95_000_000), "byte",
    ),
    "penntreebank": Standard("Penn Treebank", ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")),
    "text8": Standard(
        "text8", ("text8",),
        (File("http://mattmahoney.net/dc/text8.zip",
              "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232", 31_344_016),),
        (90_000_000, 95_000_000),
    ),
    "tinystories": Standard(
        "TinyStories", ("TinyStories-train.txt", "TinyStories-valid.txt"),
        (File(_STORIES + "TinyStories-train.txt",
              "c5cf5e22ff13614e830afbe61a99fbcbe8bcb7dd72252b989fa1117a368d401f", 1_924_281_556),
         File(_STORIES + "TinyStories-valid.txt",
              "94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4", 19_447_282)),
        tokenizer="byte",
    ),
    "wikitext103": Standard(
        "WikiText-103", _WIKI,
        (File(_S3 + "wikitext-103-v1.zip", "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"),),
        tokenizer="byte",
    ),
    "wikitext2": Standard(
        "WikiText-2", _WIKI,
        (File(_S3 + "wikitext-2-v1.zip", "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),),
        tokenizer="byte",
    ),
}  # fmt: skip


def load_standard(
    name: str, path: str | os.PathLike[str] | None = None, download: bool = False, tokenizer: Any = None
) -> Text:
    """Load a standard text with its usual parts.

    Args:
        name: of `STANDARD`.
        path: the folder with the set's files, an archive (zip) of them, or the file of a set that has one. When None:
            `$HBLL_SEQ_DATA/<name>`, then an earlier download.
        download: fetch it if it is in none of these places. With `path`, nothing is fetched.
        tokenizer: see `hbll_seq.datasets.text`; None: the usual one.

    Raises:
        InputError: missing files; the message says where they were looked for, and where they can be had.
        DownloadError: `download=True`, and a file could not be fetched or is not the expected one.
    """
    standard = STANDARD[name]
    if path is None:
        path = _place(name, standard, download)
    found = _texts(Path(path).expanduser(), standard)
    if standard.ends is not None:
        found = _split(found[0], standard)
    made = standard.tokenizer if tokenizer is None else tokenizer
    return Text.from_parts(*found, source=f"{standard.title}, {path}", tokenizer=made)


def _split(whole: str, standard: Standard) -> list[str]:
    """Cut one file at bytes; a character that a cut would break goes to the later part."""
    assert standard.ends is not None
    data = whole.encode()
    cuts = []
    for at in standard.ends:
        while at < len(data) and at and data[at] & 0xC0 == 0x80:
            at -= 1
        cuts.append(at)
    if not 0 < cuts[0] < cuts[1] < len(data):
        expected = f"more than {standard.ends[1]:,} bytes, the whole of {standard.title}"
        raise InputError("path", f"a file of {len(data):,} bytes", expected)
    return [data[start:stop].decode() for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True)]


def _place(name: str, standard: Standard, download: bool) -> Path:
    """Return the folder or archive of a set, fetched first if asked."""
    local = from_environment(name)
    if local is not None and local.exists():
        return local
    cache = cache_folder() / name
    if standard.files and all(_whole(cache / one.name, one, download) for one in standard.files):
        first = cache / standard.files[0].name
        return first if first.suffix == ".zip" else cache
    looked = f"no folder {local}" if local is not None else "HBLL_SEQ_DATA not set"
    files = ", ".join(standard.parts)
    if not standard.files:
        why = f"{looked}; no checksum of {standard.title} is known here, so nothing is downloaded"
        raise InputError("path", why, f"{files} in the folder given as path=, or in $HBLL_SEQ_DATA/{name}")
    sources = " and ".join(one.url for one in standard.files)
    raise InputError(
        "path", f"{looked}, and no earlier download",
        f"load({name!r}, download=True) on a machine with a network, or {files} in $HBLL_SEQ_DATA/{name} or in the "
        f"folder given as path=; the source is {sources}",
    )  # fmt: skip


def _whole(target: Path, file: File, download: bool) -> bool:
    """Return whether a download is there and whole; fetch it first if asked."""
    if download:
        fetch(file.url, file.sha256, target, progress=True, size=file.size)
        return True
    return target.is_file() and digest(target) == file.sha256


def _texts(path: Path, standard: Standard) -> list[str]:
    """Read the parts of a set from a folder, an archive, or its only file."""
    if path.is_dir():
        archives = [path / one.name for one in standard.files if one.name.endswith(".zip")]
        missing = [part for part in standard.parts if not (path / part).is_file()]
        if missing and archives and archives[0].is_file():
            return _texts(archives[0], standard)
        if missing:
            raise InputError(
                "path", f"{path} without {', '.join(missing)}", f"a folder with {', '.join(standard.parts)}"
            )
        return [read(path / part) for part in standard.parts]
    if path.is_file() and zipfile.is_zipfile(path):
        return _unpacked(path, standard)
    if path.is_file() and len(standard.parts) == 1:
        return [read(path)]
    raise InputError("path", f"no folder {path}", f"a folder or archive with {', '.join(standard.parts)}")


def _unpacked(path: Path, standard: Standard) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        members = {one.rsplit("/", 1)[-1]: one for one in archive.namelist()}
        missing = [part for part in standard.parts if part not in members]
        if missing:
            raise InputError("path", f"{path} without {', '.join(missing)}", f"an archive of {standard.title}")
        try:
            return [archive.read(members[part]).decode("utf-8") for part in standard.parts]
        except (UnicodeDecodeError, zipfile.BadZipFile, OSError) as error:
            raise InputError("path", f"{path} ({error})", f"a whole archive of {standard.title}") from error
