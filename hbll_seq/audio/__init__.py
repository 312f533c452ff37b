"""Sound input: files and folders, front ends from waves to a network's time steps, augmentation, error rates, mu-law.

torchaudio computes spectra, filter banks, resampling, mu-law and edit distances; `backend` imports it at first use.
"""

from hbll_seq.audio.augment import spec_augment as spec_augment
from hbll_seq.audio.augment import vary as vary
from hbll_seq.audio.augmenter import Augment as Augment
from hbll_seq.audio.error_rates import ErrorRate as ErrorRate
from hbll_seq.audio.error_rates import edit_distance as edit_distance
from hbll_seq.audio.error_rates import error_rate as error_rate
from hbll_seq.audio.files import read as read
from hbll_seq.audio.files import write as write
from hbll_seq.audio.folder import Recordings as Recordings
from hbll_seq.audio.folder import read_folder as read_folder
from hbll_seq.audio.front import MFCC as MFCC
from hbll_seq.audio.front import Frames as Frames
from hbll_seq.audio.front import Front as Front
from hbll_seq.audio.front import LogMel as LogMel
from hbll_seq.audio.mulaw import mu_law_decode as mu_law_decode
from hbll_seq.audio.mulaw import mu_law_encode as mu_law_encode

__all__ = [
    "MFCC",
    "Augment",
    "ErrorRate",
    "Frames",
    "Front",
    "LogMel",
    "Recordings",
    "edit_distance",
    "error_rate",
    "mu_law_decode",
    "mu_law_encode",
    "read",
    "read_folder",
    "spec_augment",
    "vary",
    "write",
]
