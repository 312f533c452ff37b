"""Models: what is trained, what is deployed."""

from hbll_seq.models.charlm import CharLM as CharLM
from hbll_seq.models.recurrent import SequenceModel as SequenceModel
from hbll_seq.models.registry import registry as registry
