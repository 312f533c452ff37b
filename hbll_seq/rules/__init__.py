"""Learning rules: one protocol and a registry (`base`), the built-in rules, and helpers for a rule of your own.

Rules over time stand here, those for layered networks in `depth`, the paper's own in `published`. A rule's `step` takes
a `Batch`. `forward_backward(model, batch, execute)` predicts, scores and differentiates; `execute`, of type `Execute`,
runs the recurrent layers; `sequential` runs them one time step after another, as the deployed RNN does.
"""

from hbll_seq.data.batch import Batch as Batch
from hbll_seq.models.recurrent import Execute as Execute
from hbll_seq.models.recurrent import sequential as sequential
from hbll_seq.rules import base as base
from hbll_seq.rules.base import Rule as Rule
from hbll_seq.rules.base import StepResult as StepResult
from hbll_seq.rules.base import available as available
from hbll_seq.rules.base import make as make
from hbll_seq.rules.base import register as register
from hbll_seq.rules.bptt import BPTT as BPTT
from hbll_seq.rules.depth.backprop import Backprop as Backprop
from hbll_seq.rules.depth.backprop import DeepSupervision as DeepSupervision
from hbll_seq.rules.depth.layered_hbll import LayeredHBLL as LayeredHBLL
from hbll_seq.rules.dsf import DSF as DSF
from hbll_seq.rules.execute import forward_backward as forward_backward
from hbll_seq.rules.execute import forward_backward_state as forward_backward_state
from hbll_seq.rules.hbll import HBLL as HBLL
from hbll_seq.rules.published.algorithm_1 import LayeredHBLLv1 as LayeredHBLLv1
from hbll_seq.rules.published.hbll_v1 import HBLLv1 as HBLLv1
from hbll_seq.rules.smt import SMT as SMT
from hbll_seq.rules.tbptt import TBPTT as TBPTT
