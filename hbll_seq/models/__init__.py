"""Models, recurrent and layered: trained and deployed.

A rule decides how they learn. `paths` measures the use of their trained paths.
"""

from hbll_seq.models.any_module import AnyModule as AnyModule
from hbll_seq.models.audio import AudioClassifier as AudioClassifier
from hbll_seq.models.audio import AudioTagger as AudioTagger
from hbll_seq.models.charlm import CharLM as CharLM
from hbll_seq.models.ctc_decoding import ctc_decode as ctc_decode
from hbll_seq.models.gpt import GPT as GPT
from hbll_seq.models.language import LanguageModel as LanguageModel
from hbll_seq.models.layered import Layered as Layered
from hbll_seq.models.mlp import MLP as MLP
from hbll_seq.models.recurrent import SequenceModel as SequenceModel
from hbll_seq.models.transcriber import Transcriber as Transcriber
from hbll_seq.models.vit import ViT as ViT
from hbll_seq.models.wave import WaveModel as WaveModel
