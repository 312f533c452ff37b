"""Learning rules: one protocol and a registry (`base`), and the built-in rules."""

from hbll_seq.rules import base as base
from hbll_seq.rules.backprop import Backprop as Backprop
from hbll_seq.rules.backprop import DeepSupervision as DeepSupervision
from hbll_seq.rules.base import Rule as Rule
from hbll_seq.rules.base import StepResult as StepResult
from hbll_seq.rules.base import available as available
from hbll_seq.rules.base import make as make
from hbll_seq.rules.base import register as register
from hbll_seq.rules.bptt import BPTT as BPTT
from hbll_seq.rules.dsf import DSF as DSF
from hbll_seq.rules.hbll import HBLL as HBLL
from hbll_seq.rules.hbll_v1 import HBLLv1 as HBLLv1
from hbll_seq.rules.layered import LayeredHBLL as LayeredHBLL
from hbll_seq.rules.tbptt import TBPTT as TBPTT
