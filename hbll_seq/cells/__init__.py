"""Recurrent cells: step, roll and carry of each (`base`), as views on ordinary torch modules.

No cell knows blocks of a sequence or a loss; `engine` combines rolls into blocks.
"""

from hbll_seq.cells.adoption import NAMES as NAMES
from hbll_seq.cells.adoption import AdoptedLayer as AdoptedLayer
from hbll_seq.cells.adoption import adopt as adopt
from hbll_seq.cells.adoption import adopt_layers as adopt_layers
from hbll_seq.cells.adoption import as_cells as as_cells
from hbll_seq.cells.adoption import build as build
from hbll_seq.cells.autograd_rolls import AutogradRoll as AutogradRoll
from hbll_seq.cells.base import Advance as Advance
from hbll_seq.cells.base import Cell as Cell
from hbll_seq.cells.base import Roll as Roll
from hbll_seq.cells.cuda_graph import Captures as Captures
from hbll_seq.cells.cuda_graph import captured as captured
from hbll_seq.cells.initialise import chrono_ as chrono_
from hbll_seq.cells.mingru import MinGRU as MinGRU
from hbll_seq.cells.mixed import PRECISIONS as PRECISIONS
from hbll_seq.cells.mixed import MixedCell as MixedCell
from hbll_seq.cells.mixed import in_precision as in_precision
from hbll_seq.cells.padding import filled as filled
from hbll_seq.cells.padding import keeping as keeping
from hbll_seq.cells.symbol_cell import SymbolCell as SymbolCell
from hbll_seq.cells.symbol_cell import check_symbols as check_symbols
from hbll_seq.cells.weights_precision import own_precision as own_precision
