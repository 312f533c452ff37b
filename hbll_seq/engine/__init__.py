"""The engine that trains recurrent layers: options, schedule, controller, the two fixed points, the autograd node.

Nothing here knows a learning rule, a model or a training loop. Rules configure engines and report their records.

    engine         one model's engine: an update from `begin` to `end`
    options        the user's options, checked
    schedule       execution, blocks and groups of a call, by the prices of `cost` and the budget of `memory`
    controller     how many sweeps and corrections an update may spend, from the needs of earlier updates
    solve          consistency sweeps and feedback messages: the two fixed points
    layer          the autograd node of a layer
    one_layer      a model of one layer, its loss (`block_loss`) computed block by block
    block_roll     all blocks at once
    sequential     the whole sequence in order
    blocks, gradients, plan    layout, sums of gradients, and a layer's orders and report

A loss of another kind is written in `hbll_seq.losses`.
"""

from hbll_seq.engine.controller import Controller as Controller
from hbll_seq.engine.engine import Engine as Engine
from hbll_seq.engine.execution import Execute as Execute
from hbll_seq.engine.layer import run_layer as run_layer
from hbll_seq.engine.options import Options as Options
from hbll_seq.engine.plan import Plan as Plan
from hbll_seq.engine.plan import Record as Record
from hbll_seq.engine.schedule import Layer as Layer
from hbll_seq.engine.schedule import Schedule as Schedule
from hbll_seq.engine.schedule import Shape as Shape
from hbll_seq.engine.schedule import choose as choose
