"""Recurrent layers for any model, loss and loop: PyTorch's constructors, parameters and results, trained by an engine.

A layer runs its cells (`cells`) by an engine (`engine`) of its own, or by a learning rule's. It knows no loss and no
task.
"""

from hbll_seq.nn.conversion import convert as convert
from hbll_seq.nn.conversion import revert as revert
from hbll_seq.nn.layers import GRU as GRU
from hbll_seq.nn.layers import LSTM as LSTM
from hbll_seq.nn.layers import RNN as RNN
from hbll_seq.nn.mingru import MinGRU as MinGRU
from hbll_seq.nn.recurrent import Recurrent as Recurrent
