"""Sound files, read by soundfile if it is installed, else by SciPy (PCM and float WAV); resampled by torchaudio.

`torchaudio.load` is of no use here: it needs torchcodec and FFmpeg.
"""

import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hbll_seq.audio.resampling import resample
from hbll_seq.audio.samples import as_samples
from hbll_seq.audio.whole import check_whole
from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError

KINDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au")


def read(path: str | os.PathLike[str], rate: int | None = None) -> tuple[Tensor, int]:
    """Read a sound file as one channel.

    Args:
        path: the file. Channels are averaged; integers of any width become -1..1.
        rate: samples per second to resample to, by torchaudio's windowed sinc; None for the file's own.

    Returns:
        `(samples,)` float32 and the rate.

    Raises:
        InputError: names the file: absent, not readable, cut off, no samples, or samples that are not finite.
    """
    rate = None if rate is None else integer("rate", rate, extra=" samples a second, or None")
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", type(path).__name__, "a sound file")
    file = Path(path)
    if not file.is_file():
        raise InputError("path", f"{file} (no such file)", "a sound file")
    try:
        check_whole(file)
        samples, own = _decode(file)
    except OSError as error:
        raise InputError("path", f"{file} ({error.strerror or error})", "a sound file that can be read") from error
    if samples.size == 0:
        raise InputError("path", f"{file} (no samples)", "a sound file with sound in it")
    wave = samples.mean(1) if samples.ndim == 2 else samples
    if not np.isfinite(wave).all():
        at = int(np.flatnonzero(~np.isfinite(wave))[0])
        raise InputError("path", f"{file} (sample {at} is {wave[at]})", "finite samples")
    found = torch.from_numpy(np.ascontiguousarray(wave, np.float32))
    if rate is not None and rate != own:
        found, own = resample(found.double(), own, rate).float(), rate
    return found, own


def _decode(file: Path) -> tuple[np.ndarray, int]:
    """Return samples `(n,)` or `(n, channels)` float32, and the rate."""
    wanted = f"a readable sound file ({', '.join(KINDS)})"
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: its C library is missing
        return _decode_wav(file, wanted)
    try:
        samples, rate = soundfile.read(file, dtype="float32")
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise InputError("path", f"{file} ({error})", wanted) from error
    return samples, int(rate)


def _decode_wav(file: Path, wanted: str) -> tuple[np.ndarray, int]:
    import warnings

    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", wavfile.WavFileWarning)  # a truncated file is an error, not a guess
            rate, samples = wavfile.read(file)
    except (ValueError, EOFError, struct.error, wavfile.WavFileWarning) as error:
        raise InputError("path", f"{file} ({error}); soundfile is not installed", wanted) from error
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128, int(rate)
    if samples.dtype.kind == "i":
        return (samples / float(-np.iinfo(samples.dtype).min)).astype(np.float32), int(rate)
    return samples.astype(np.float32), int(rate)


def write(path: str | os.PathLike[str], wave: Tensor, rate: int) -> None:
    """Write `(samples,)` in -1..1 as a 16-bit WAV file; louder floats are clipped, integers scaled.

    Raises:
        InputError: see `audio.samples.as_samples`, or a rate that is not a whole number.
    """
    wave, rate = as_samples(wave), integer("rate", rate, most=2**32 - 1)
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", type(path).__name__, "a file to write")
    from scipy.io import wavfile

    wavfile.write(path, rate, (wave.detach().cpu().clamp(-1, 1) * 32767).round().to(torch.int16).numpy())
