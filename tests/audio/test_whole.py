"""Sound files that end before their header says are refused, whatever decodes them."""

import io
import struct

import numpy as np
import pytest
import soundfile

import hbll_seq as hs
from hbll_seq import audio
from hbll_seq.audio.whole import check_whole
from hbll_seq.datasets.fsdd import read_samples

WAVE = (np.sin(np.arange(800) / 7) * 8000).astype(np.int16)


def encoded(kind):
    buffer = io.BytesIO()
    soundfile.write(buffer, WAVE, 8000, format=kind, subtype="PCM_16")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "AIFF", "AU", "FLAC"])
def test_cut_files_are_refused_and_whole_ones_read(kind, tmp_path):
    data, file = encoded(kind), tmp_path / f"a.{'wav' if kind in ('WAVEX', 'RF64') else kind.lower()}"
    file.write_bytes(data)
    assert len(audio.read(file)[0]) == 800
    for cut in (1, 2, 401, 1500, len(data) - 50):
        file.write_bytes(data[:-cut])
        with pytest.raises(hs.InputError, match=f"{file.name} .*(cut off|Error|Internal)"):
            audio.read(file)


def test_sizes_a_header_does_not_know_are_no_cuts(tmp_path):
    data, file = encoded("WAV"), tmp_path / "pipe.wav"
    at = data.index(b"data") + 4
    file.write_bytes(data[:at] + struct.pack("<I", 0xFFFFFFFF) + data[at + 4 :])  # as ffmpeg writes to a pipe
    check_whole(file)
    later = data + b"LIST" + struct.pack("<I", 999) + b"cut"  # what comes after the sound is none
    file.write_bytes(later)
    check_whole(file)
    file.write_bytes(b"RIFF" + struct.pack("<I", 9) + b"AVI ")  # not for us to say
    check_whole(file)
    file.write_bytes(data[:-1])  # the same header with a size it knows
    with pytest.raises(hs.InputError, match="cut off"):
        check_whole(file)


def test_spoken_digits_are_whole_too(tmp_path):
    data, file = encoded("WAV"), tmp_path / "7_jackson_3.wav"
    file.write_bytes(data)
    assert read_samples(file).tolist() == WAVE.tolist()
    file.write_bytes(data[:-2])
    with pytest.raises(hs.InputError, match="7_jackson_3.wav .cut off: 1598 of 1600 bytes"):
        read_samples(file)
