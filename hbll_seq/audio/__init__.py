"""Sound input: files, front ends from waves to a network's time steps, mu-law.

The front ends are torch operations with the same numbers as torchaudio's (a test compares them if it can be imported).
torchaudio itself is not needed, and never imported here.
"""

from hbll_seq.audio.augment import spec_augment as spec_augment
from hbll_seq.audio.augment import vary as vary
from hbll_seq.audio.error_rates import ErrorRate as ErrorRate
from hbll_seq.audio.error_rates import edit_distance as edit_distance
from hbll_seq.audio.error_rates import error_rate as error_rate
from hbll_seq.audio.files import read as read
from hbll_seq.audio.files import write as write
from hbll_seq.audio.folder import read_folder as read_folder
from hbll_seq.audio.front import MFCC as MFCC
from hbll_seq.audio.front import Frames as Frames
from hbll_seq.audio.front import Front as Front
from hbll_seq.audio.front import LogMel as LogMel
from hbll_seq.audio.mulaw import mu_law_decode as mu_law_decode
from hbll_seq.audio.mulaw import mu_law_encode as mu_law_encode

__all__ = [
    "MFCC",
    "ErrorRate",
    "Frames",
    "Front",
    "LogMel",
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
