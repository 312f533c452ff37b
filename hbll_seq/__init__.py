"""Train recurrent networks on long sequences without backpropagation through time.

import hbll_seq as hs

text = hs.datasets.load("pydoc")
model = hs.models.CharLM(text.vocab_size, hidden=256, symbols=text.symbols)
run = hs.fit(model, text.train, rule="hbll", steps=2000, validation=text.valid)
run.plot(); print(model.generate("The statement ", 200))
"""

import importlib
from typing import TYPE_CHECKING, Any

from hbll_seq import audio as audio
from hbll_seq import cells as cells
from hbll_seq import datasets as datasets
from hbll_seq import distributed as distributed
from hbll_seq import models as models
from hbll_seq import nn as nn
from hbll_seq import plot as plot
from hbll_seq import rules as rules
from hbll_seq import text as text
from hbll_seq.attribution.lag import lag_map as lag_map
from hbll_seq.attribution.node_credit import credit as credit
from hbll_seq.attribution.result import Credit as Credit
from hbll_seq.attribution.result import LagMap as LagMap
from hbll_seq.bibliography import citation as citation
from hbll_seq.checkpoint import load as load
from hbll_seq.checkpoint import save as save
from hbll_seq.data.batch import Batch as Batch
from hbll_seq.errors import DivergenceError as DivergenceError
from hbll_seq.errors import EngineWarning as EngineWarning
from hbll_seq.errors import InputError as InputError
from hbll_seq.errors import LostRankError as LostRankError
from hbll_seq.exporters.entrance import export as export
from hbll_seq.installation import about as about
from hbll_seq.models import Layered as Layered
from hbll_seq.nn.conversion import convert as convert
from hbll_seq.nn.conversion import revert as revert
from hbll_seq.paths.anytime import predict_anytime as predict_anytime
from hbll_seq.paths.costs import evaluate_paths as evaluate_paths
from hbll_seq.paths.draft import draft_and_verify as draft_and_verify
from hbll_seq.rules import Rule as Rule
from hbll_seq.training import callbacks as callbacks
from hbll_seq.training.evaluation import evaluate as evaluate
from hbll_seq.training.evaluation import predict as predict
from hbll_seq.training.fit import fit as fit
from hbll_seq.training.gradient import gradient as gradient
from hbll_seq.training.history import History as History
from hbll_seq.training.step import step as step

if TYPE_CHECKING:
    from hbll_seq.estimators import SequenceClassifier as SequenceClassifier
    from hbll_seq.estimators import SequenceRegressor as SequenceRegressor

__all__ = [
    "Batch",
    "Credit",
    "DivergenceError",
    "EngineWarning",
    "History",
    "InputError",
    "LagMap",
    "Layered",
    "LostRankError",
    "Rule",
    "SequenceClassifier",
    "SequenceRegressor",
    "about",
    "audio",
    "callbacks",
    "cells",
    "citation",
    "convert",
    "credit",
    "datasets",
    "distributed",
    "draft_and_verify",
    "evaluate",
    "evaluate_paths",
    "export",
    "fit",
    "gradient",
    "lag_map",
    "load",
    "models",
    "nn",
    "plot",
    "predict",
    "predict_anytime",
    "revert",
    "rules",
    "save",
    "step",
    "text",
]


def __dir__() -> list[str]:
    """Return the public names: what else a tab key would show here is not for users."""
    return __all__


def __getattr__(name: str) -> Any:
    """Import the estimators when they are first asked for: they need scikit-learn, an extra."""
    if name in ("SequenceClassifier", "SequenceRegressor"):
        return getattr(importlib.import_module("hbll_seq.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
