"""Train recurrent networks on long sequences without backpropagation through time.

import hbll_seq as hs

text = hs.datasets.load("pydoc")
model = hs.models.CharLM(text.vocab_size, hidden=256, symbols=text.symbols)
run = hs.fit(model, text.train, rule="hbll", steps=2000, validation=text.valid)
run.plot(); print(model.generate("The statement ", 200))
"""

from hbll_seq import audio as audio
from hbll_seq import callbacks as callbacks
from hbll_seq import datasets as datasets
from hbll_seq import models as models
from hbll_seq import plot as plot
from hbll_seq import rules as rules
from hbll_seq.about import about as about
from hbll_seq.anytime import predict_anytime as predict_anytime
from hbll_seq.checkpoint import load as load
from hbll_seq.checkpoint import save as save
from hbll_seq.citation import citation as citation
from hbll_seq.credit import Credit as Credit
from hbll_seq.credit import LagMap as LagMap
from hbll_seq.credit import credit as credit
from hbll_seq.credit import lag_map as lag_map
from hbll_seq.draft import draft_and_verify as draft_and_verify
from hbll_seq.errors import DivergenceError as DivergenceError
from hbll_seq.errors import InputError as InputError
from hbll_seq.evaluate import evaluate as evaluate
from hbll_seq.evaluate import predict as predict
from hbll_seq.fit import fit as fit
from hbll_seq.fit import step as step
from hbll_seq.gradient import gradient as gradient
from hbll_seq.history import History as History
from hbll_seq.models import Layered as Layered
from hbll_seq.path_costs import evaluate_paths as evaluate_paths
from hbll_seq.rules import Rule as Rule
