"""A check for sound files cut off before the length in their header: decoders would return less, or silence.

WAV (also RF64, for more than 4 GB), AIFF and AU files have the sound's length in their header. FLAC and OGG files
are checked by their decoder. An MP3 file is a stream of frames without a length: a cut one is a shorter sound.
"""

from pathlib import Path
from typing import IO, Literal

from hbll_seq.errors import InputError

_UNKNOWN = 0xFFFFFFFF  # written to a pipe, or (RF64) given elsewhere


def check_whole(file: Path) -> None:
    """Refuse a file that was cut off.

    Raises:
        InputError: names the file, and the part of the sound that is there.
    """
    size = file.stat().st_size
    with file.open("rb") as f:
        kind = f.read(4)
        if kind == b".snd":
            start, length = (int.from_bytes(f.read(4), "big") for _ in range(2))
            found: tuple[int, int] | None = (start, length)
        elif kind in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
            f.seek(8)
            if f.read(4) not in (b"WAVE", b"AIFF", b"AIFC"):
                return  # another kind of file: the decoder checks it
            found = _sound(f, "little" if kind in (b"RIFF", b"RF64") else "big")
        else:
            return
    if found is None:
        raise InputError("path", f"{file} (cut off before its sound, or without any)", "a whole file")
    start, length = found
    there = size - start
    if length > there and length != _UNKNOWN:
        raise InputError("path", f"{file} (cut off: {max(there, 0)} of {length} bytes of sound)", "a whole file")


def _sound(f: IO[bytes], order: Literal["little", "big"]) -> tuple[int, int] | None:
    """Return start and length of the sound, in bytes; None if no chunk of sound begins."""
    long: int | None = None
    while len(head := f.read(8)) == 8:
        name, length, start = head[:4], int.from_bytes(head[4:], order), f.tell()
        if name == b"ds64":  # sizes of 64 bits: of the file, of the sound
            long = int.from_bytes(f.read(16)[8:], "little")
        if name in (b"data", b"SSND"):
            return start, long if long is not None and length == _UNKNOWN else length
        f.seek(start + length + length % 2)
    return None
