"""Speech Commands v0.02: 105,829 spoken words of a second, 35 words, 2,618 speakers, 16 kHz (CC BY 4.0)."""

import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hbll_seq.audio import read
from hbll_seq.data.scalars import integer
from hbll_seq.datasets.download import DownloadError, fetch
from hbll_seq.datasets.location import cache_folder, from_environment
from hbll_seq.datasets.waves import Part, Waves
from hbll_seq.errors import InputError

URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
SHA256 = "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"  # as in TensorFlow Datasets and torchaudio
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


def load_speechcommands(
    words: Sequence[str] | None = None,
    rate: int = 16000,
    limit: int | None = None,
    path: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Waves:
    """Load spoken words as waves of unequal lengths, in the published split by speaker.

    Args:
        words: some of the 35 words, None for all; labels are numbered in their alphabetical order.
        rate: samples per second; other rates than 16,000 are resampled.
        limit: most recordings of a word in each part, for a quick try; None for all.
        path: the folder with a folder for each word. When None: `$HBLL_SEQ_DATA/speechcommands`, then an earlier
            download.
        download: fetch it (2.4 GB, 3.8 GB unpacked) if it is in none of these places; an interrupted download continues
            where it stopped. With `path`, nothing is fetched.

    Returns:
        Training, validation and test part; "_background_noise_" is left out.

    Raises:
        InputError: no such folder (names a remedy); an unknown word; a size below 1; unreadable files, all named.
        DownloadError: `download=True` and it could not be fetched or unpacked.
    """
    for name, value in (("rate", rate), ("limit", 1 if limit is None else limit)):
        integer(name, value, extra=" or None" if name == "limit" else "")
    folder = _find(path, download)
    known = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("_"))
    if not known or not all((folder / name).is_file() for name in LISTS.values()):
        raise InputError("path", str(folder), f"folders of words beside {' and '.join(LISTS.values())}")
    chosen = known if words is None else sorted(words)
    unknown = sorted(set(chosen) - set(known))
    if unknown or not chosen:
        raise InputError("words", repr(unknown or words), f"some of {', '.join(known)}")
    listed = {part: set((folder / name).read_text().split()) for part, name in LISTS.items()}
    found: dict[str, list[tuple[Path, int]]] = {"train": [], "validation": [], "test": []}
    for label, word in enumerate(chosen):
        counts = dict.fromkeys(found, 0)
        for file in sorted((folder / word).glob("*.wav")):
            key = f"{word}/{file.name}"
            part = next((p for p, names in listed.items() if key in names), "train")
            if limit is None or counts[part] < limit:
                counts[part] += 1
                found[part].append((file, label))
    parts = {part: _read(pairs, rate) for part, pairs in found.items()}
    return Waves(parts["train"], parts["validation"], parts["test"], chosen, rate, f"Speech Commands v0.02, {folder}")


def _read(pairs: list[tuple[Path, int]], rate: int) -> Part:
    waves: list[Tensor] = []
    bad = []
    for file, _ in pairs:
        try:
            waves.append(read(file, rate)[0])
        except InputError as error:
            bad.append(str(error))
    if bad:
        raise InputError("path", f"{len(bad)} unreadable files:\n" + "\n".join(bad), "whole WAV files")
    return Part(waves, torch.tensor([label for _, label in pairs], dtype=torch.int64))


def _find(path: str | os.PathLike[str] | None, download: bool) -> Path:
    """Return the folder, fetched and unpacked first if necessary."""
    if path is not None:
        given = Path(path).expanduser()
        if not given.is_dir():
            raise InputError("path", f"no folder {given}", "Speech Commands, a folder with a folder for each word")
        return given
    local = from_environment("speechcommands")
    if local is not None and local.is_dir():
        return local
    cached = cache_folder() / "speechcommands" / "v0.02"
    if cached.is_dir():
        return cached
    if download:
        return _unpack(fetch(URL, SHA256, cached.parent / "speech_commands_v0.02.tar.gz", progress=True), cached)
    looked = f"no folder {local}" if local is not None else "HBLL_SEQ_DATA not set"
    raise InputError(
        "path",
        f"{looked}, and no earlier download",
        "load('speechcommands', download=True) on a machine with a network (2.4 GB), or the unpacked archive as "
        f"speechcommands/ in the folder HBLL_SEQ_DATA names, or path=; the archive is {URL}",
    )


def _unpack(archive: Path, to: Path, kind: Literal["r:gz"] = "r:gz") -> Path:
    """Unpack beside the target and rename, so that the folder is always whole; then remove the archive."""
    part = to.with_name(to.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with tarfile.open(archive, kind) as tar:
            tar.extractall(part, filter="data")  # nothing outside the folder, no links out of it, no devices
        os.replace(part, to)
    except (OSError, tarfile.TarError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise DownloadError(f"could not unpack {archive}: {error}. It is kept; make room and call again.") from error
    archive.unlink()
    return to
