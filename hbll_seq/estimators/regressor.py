"""`SequenceRegressor`: one number, or some, a sequence, as scikit-learn has regressors."""

from typing import Any

import numpy as np

from hbll_seq.errors import InputError
from hbll_seq.estimators.base import SequenceEstimator, check_given, sklearn_base


class SequenceRegressor(sklearn_base.RegressorMixin, SequenceEstimator):  # type: ignore[name-defined]  # sklearn has no types
    """A recurrent network that gives numbers for a sequence. Arguments and X as for `SequenceClassifier`.

    Targets are standardised for training, and predictions put back. `class_weight` has no meaning here.

    Attributes:
        model_, history_, n_features_in_, mean_, scale_: see `SequenceClassifier`.
        target_mean_, target_scale_: `(C,)` of the training targets.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SequenceRegressor":
        """Train on sequences and targets `(N,)` or `(N, C)`, with weights `(N,)` of sequences if given.

        Raises:
            InputError: names the argument, before any training.
        """
        if self.class_weight is not None:
            raise InputError("class_weight", repr(self.class_weight), "None: a regression has no classes")
        check_given(y)
        try:
            targets = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError("y", f"{type(y).__name__} ({error})", "numbers (N,) or (N, C)") from error
        if targets.ndim not in (1, 2) or not targets.size:
            raise InputError("y", f"shape {targets.shape}", "(N,) or (N, C) numbers")
        if not np.isfinite(targets).all():
            raise InputError("y", "NaN or infinite values", "finite numbers")
        self._one = targets.ndim == 1
        table = targets[:, None] if self._one else targets
        self.target_mean_ = table.mean(0)
        spread = table.std(0)
        self.target_scale_ = np.where(spread > 1e-12, spread, 1.0)
        scaled = ((table - self.target_mean_) / self.target_scale_).astype(np.float32)
        self._train(X, scaled, scaled.shape[1], "mse", sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the predictions `(N,)` or `(N, C)`, as y was given."""
        found = self._scores(X, False) * self.target_scale_ + self.target_mean_
        return found[:, 0] if self._one else found
