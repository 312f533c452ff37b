"""Training on several processes: spans of time, and shares of the batch, on `torch.distributed`.

Everything that is sent goes through `group`. Layers and rules know of it only that somebody else runs their cells.
"""

from hbll_seq.distributed.gradients import average_gradients as average_gradients
from hbll_seq.distributed.group import Group as Group
from hbll_seq.distributed.group import Traffic as Traffic
from hbll_seq.distributed.shards import TimeShards as TimeShards
from hbll_seq.distributed.shards import time_sharded as time_sharded
from hbll_seq.distributed.start import initialise as initialise
