"""All figures. Each function draws on `ax` only (or on new axes) and returns the Axes; `*_html` return HTML.

Results come from `training`, `attribution` and `paths`; nothing is computed here beyond the drawing.
"""

from hbll_seq.plot.blocks import tree as tree
from hbll_seq.plot.credits import credit as credit
from hbll_seq.plot.credits import lag_map as lag_map
from hbll_seq.plot.gantt import schedule as schedule
from hbll_seq.plot.growth import scaling as scaling
from hbll_seq.plot.hover import credit_html as credit_html
from hbll_seq.plot.hover import tree_html as tree_html
from hbll_seq.plot.learning import gradient_cosine as gradient_cosine
from hbll_seq.plot.learning import inconsistency as inconsistency
from hbll_seq.plot.learning import learning_curve as learning_curve
from hbll_seq.plot.learning import learning_curves as learning_curves
from hbll_seq.plot.quality import paths as paths
from hbll_seq.plot.style import COLOURS as COLOURS
from hbll_seq.plot.text import credit_text as credit_text
