"""Files without pickle: tensors as safetensors, everything else as JSON in the same file's header.

`container` is the format and its checksum; `replace` and `lock` write files; `state_tree` turns nested states into
tensors and JSON; `saved_model` has `save` and `load`. `training.run_state` holds the state of a run.
"""

from hbll_seq.checkpoint.container import read as read
from hbll_seq.checkpoint.container import refused as refused
from hbll_seq.checkpoint.container import write as write
from hbll_seq.checkpoint.lock import WriterLock as WriterLock
from hbll_seq.checkpoint.saved_model import load as load
from hbll_seq.checkpoint.saved_model import save as save
from hbll_seq.checkpoint.state_tree import join_state as join_state
from hbll_seq.checkpoint.state_tree import split_state as split_state
