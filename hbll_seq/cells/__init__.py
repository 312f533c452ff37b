"""Recurrent cells: step, roll and carry (`base`), and views on ordinary torch modules."""

from hbll_seq.cells.adopt import NAMES as NAMES
from hbll_seq.cells.adopt import adopt as adopt
from hbll_seq.cells.adopt import build as build
from hbll_seq.cells.base import Advance as Advance
from hbll_seq.cells.base import AutogradRoll as AutogradRoll
from hbll_seq.cells.base import Cell as Cell
from hbll_seq.cells.base import Roll as Roll
from hbll_seq.cells.captured import Captures as Captures
from hbll_seq.cells.captured import captured as captured
from hbll_seq.cells.initialise import chrono_ as chrono_
from hbll_seq.cells.mingru import MinGRU as MinGRU
from hbll_seq.cells.mixed import PRECISIONS as PRECISIONS
from hbll_seq.cells.mixed import MixedCell as MixedCell
from hbll_seq.cells.mixed import in_precision as in_precision
from hbll_seq.cells.symbols import SymbolCell as SymbolCell
from hbll_seq.cells.symbols import check_symbols as check_symbols
