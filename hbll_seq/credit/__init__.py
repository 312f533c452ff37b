"""Credit: which blocks, which nodes of the tree, an outcome is owed to. No backpropagation through time in it."""

from hbll_seq.credit.lag import lag_map as lag_map
from hbll_seq.credit.nodes import credit as credit
from hbll_seq.credit.result import Credit as Credit
from hbll_seq.credit.result import LagMap as LagMap
