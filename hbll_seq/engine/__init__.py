"""What runs recurrent layers in training: options, the schedule of a call, the two fixed points, the autograd node.

Nothing here knows a learning rule, a model or a training loop; rules configure engines and report what they did.
"""

from hbll_seq.engine.controller import Controller as Controller
from hbll_seq.engine.engine import Engine as Engine
from hbll_seq.engine.layer import run_layer as run_layer
from hbll_seq.engine.options import Options as Options
from hbll_seq.engine.plan import Plan as Plan
from hbll_seq.engine.plan import Record as Record
from hbll_seq.engine.schedule import Layer as Layer
from hbll_seq.engine.schedule import Schedule as Schedule
from hbll_seq.engine.schedule import Shape as Shape
from hbll_seq.engine.schedule import choose as choose
