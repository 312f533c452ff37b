"""`SequenceClassifier`: one label a sequence, as scikit-learn has classifiers."""

from typing import Any

import numpy as np

from hbll_seq.errors import InputError
from hbll_seq.estimators.base import SequenceEstimator, one_column, sklearn_base
from hbll_seq.optional import optional


class SequenceClassifier(sklearn_base.ClassifierMixin, SequenceEstimator):  # type: ignore[name-defined]  # sklearn has no types
    """A recurrent network that names the class of a sequence; it clones, pickles, and works in pipelines and searches.

    X is a list of `(T, D)` arrays of any length each, an array `(N, T, D)`, or `(N, T)` of one feature; with
    `layout="channels_first"` `(D, T)` and `(N, D, T)`, as aeon has them. y holds labels of any kind.

    Args:
        hidden, cell, layers, bidirectional, dropout, norm, residual, timescale: of the network, see
            `hbll_seq.models.SequenceModel`.
        rule, rule_options, epochs, steps, batch_size: of training, see `hbll_seq.fit`; `steps` counts before `epochs`.
        lr, optimizer, weight_decay, schedule, warmup, clip: of the optimiser, see `hbll_seq.fit`.
        loss, metrics, validation, callbacks, device, progress: see `hbll_seq.fit`.
        layout: "time_first" or "channels_first".
        missing: what NaN means: "error" refuses it, "interpolate" draws lines over gaps, "zero+mask" puts the mean and
            adds a feature for each that says where values are there.
        standardize: subtract each feature's mean and divide by its standard deviation, both of the training data.
        class_weight: None, "balanced", or weights by label.
        random_state: seed of initialisation and data order; None draws one.

    Attributes:
        classes_: `(C,)` the labels, sorted.
        model_: the trained `SequenceModel`; `label_names` are the labels as strings.
        history_: the `History` of its training.
        n_features_in_: D.
        mean_, scale_: `(D,)` of the training data.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SequenceClassifier":
        """Train on sequences and their labels `(N,)`, with weights `(N,)` of sequences if given.

        Raises:
            InputError: names the argument, before any training.
        """
        labels = one_column(y)
        if labels.ndim != 1 or not len(labels):
            raise InputError("y", f"shape {labels.shape}", "(N,) labels")
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise InputError("y", "NaN or infinite labels", "labels")
        optional("sklearn.utils.multiclass", "sklearn", "SequenceClassifier").check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("y", f"one class, {self.classes_[0]!r}", "at least two")
        weight = self._weights(labels, sample_weight)
        names = [str(c) for c in self.classes_]
        try:
            self._train(X, index.astype(np.int64), len(self.classes_), "cross_entropy", weight, names)
        except InputError as error:
            if error.argument != "sample_weight" or sample_weight is not None:
                raise
            raise InputError("class_weight", error.got, error.expected) from error
        return self

    def _weights(self, labels: np.ndarray[Any, Any], sample_weight: Any) -> Any:
        """Return the weight of every sequence, or None for equal ones."""
        if self.class_weight is None:
            return sample_weight
        utils = optional("sklearn.utils.class_weight", "sklearn", "class_weight")
        by_class = utils.compute_sample_weight(self.class_weight, labels)
        return by_class if sample_weight is None else by_class * np.asarray(sample_weight, dtype=np.float64)

    def predict_proba(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the probabilities `(N, C)` of the deployed chain, in the order of `classes_`."""
        return self._scores(X, True)

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the most likely label of every sequence, `(N,)`."""
        best = self._scores(X, False).argmax(1)
        return self.classes_[best]
