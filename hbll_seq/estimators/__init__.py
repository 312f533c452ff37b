"""Estimators of scikit-learn for sequences: `SequenceClassifier` and `SequenceRegressor` (extra `sklearn`).

They read what people have (`layouts`), train a `SequenceModel` by `fit`, and predict; all of it can be had without
them. Nothing here trains otherwise than `hbll_seq.training` does.
"""

from hbll_seq.estimators.classifier import SequenceClassifier as SequenceClassifier
from hbll_seq.estimators.regressor import SequenceRegressor as SequenceRegressor
