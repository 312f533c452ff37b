"""The shared part of the two estimators: options, reading, training."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hbll_seq.data.scalars import choice, flag
from hbll_seq.errors import InputError, warn
from hbll_seq.estimators.layouts import LAYOUTS, MISSING, Sequence, as_sequences, fill, scale_of
from hbll_seq.models.base import Objective
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.optional import optional
from hbll_seq.training.evaluation import predict
from hbll_seq.training.fit import fit

sklearn_base = optional("sklearn.base", "sklearn", "SequenceClassifier and SequenceRegressor")


def check_given(y: Any) -> None:
    """Refuse absent targets."""
    if y is None:
        raise InputError("y", "None", "targets: this estimator requires y to be passed, but the target y is None")


def one_column(y: Any) -> np.ndarray[Any, Any]:
    """Return labels `(N,)`; of a column `(N, 1)` with scikit-learn's warning."""
    check_given(y)
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        kind = optional("sklearn.exceptions", "sklearn", "SequenceClassifier").DataConversionWarning
        warn("A column-vector y was passed when a 1d array was expected.", kind)
        labels = labels[:, 0]
    return labels


class SequenceEstimator(sklearn_base.BaseEstimator):  # type: ignore[name-defined]  # sklearn has no types
    """Base of the estimators; the arguments are described there."""

    def __init__(
        self, *, hidden: int = 64, cell: str = "gru", layers: int = 1, bidirectional: bool = False,
        dropout: float = 0.0, norm: Literal["layer"] | None = None, residual: bool = False,
        timescale: float | None = None, rule: Any = "hbll", rule_options: dict[str, Any] | None = None,
        epochs: float | None = 50, steps: int | None = None, batch_size: int = 16, lr: float = 4e-3,
        optimizer: Any = "adam",
        weight_decay: float = 0.0, schedule: Any = "linear", warmup: int = 0, clip: float | None = 1.0,
        layout: Literal["time_first", "channels_first"] = "time_first",
        missing: Literal["error", "interpolate", "zero+mask"] = "error", standardize: bool = True,
        class_weight: Any = None, loss: Any = None, metrics: Any = None, validation: float | None = None,
        callbacks: Any = (), device: str = "auto", random_state: Any = 0, progress: bool = False,
    ) -> None:  # fmt: skip
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for name, value in given.items():  # as given: scikit-learn clones by them
            setattr(self, name, value)

    def _sequences(self, x: Any) -> list[Sequence]:
        layout, missing = choice("layout", self.layout, LAYOUTS), choice("missing", self.missing, MISSING)
        flag("standardize", self.standardize)
        found = as_sequences(x, layout)
        if missing == "error":
            fill(found, "error")
        return found

    def _inputs(self, found: list[Sequence]) -> list[Tensor]:
        """Return what the network reads, by the scale of the training data."""
        if found[0].shape[1] != self.n_features_in_:
            raise InputError("X", f"{found[0].shape[1]} features", f"{self.n_features_in_}, as in fit")
        scaled = [(one - self.mean_) / self.scale_ for one in found]
        return [torch.from_numpy(np.ascontiguousarray(one)) for one in fill(scaled, self.missing)]

    def _train(
        self, x: Any, y: np.ndarray[Any, Any], outputs: int, objective: Objective, weight: Any,
        names: list[str] | None = None,
    ) -> None:  # fmt: skip
        found = self._sequences(x)
        if len(found) != len(y):
            raise InputError("y", f"{len(y)} targets", f"{len(found)}, one a sequence")
        if weight is not None and not np.any(np.asarray(weight, dtype=np.float64)):
            raise InputError("sample_weight", "every weight zero", "at least one above zero")
        self.n_features_in_ = found[0].shape[1]
        self.mean_, self.scale_ = (
            scale_of(found) if self.standardize
            else (np.zeros(self.n_features_in_, np.float32), np.ones(self.n_features_in_, np.float32))
        )  # fmt: skip
        inputs = self._inputs(found)
        seed = self.random_state
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):  # None, or a generator of numpy's
            seed = optional("sklearn.utils", "sklearn", "random_state").check_random_state(seed).randint(2**31 - 1)
        model = SequenceModel(
            inputs[0].shape[1], outputs, hidden=self.hidden, cell=self.cell, layers=self.layers, task="sequence",
            objective=objective, input_kind="features", timescale=self.timescale, seed=int(seed),
            dropout=self.dropout, norm=self.norm, residual=self.residual, bidirectional=self.bidirectional,
        )  # fmt: skip
        model.label_names = names
        self.history_ = fit(
            model, inputs, torch.from_numpy(y), loss=self.loss, rule=self.rule, rule_options=self.rule_options,
            steps=self.steps, epochs=self.epochs if self.steps is None else None, batch_size=self.batch_size,
            lr=self.lr, optimizer=self.optimizer, weight_decay=self.weight_decay, schedule=self.schedule,
            warmup=self.warmup, clip=self.clip, metrics=self.metrics, sample_weight=weight, seed=int(seed),
            validation=self.validation, callbacks=self.callbacks, device=self.device, progress=self.progress,
        )  # fmt: skip
        self.model_ = model

    def _scores(self, x: Any, probabilities: bool) -> np.ndarray[Any, Any]:
        optional("sklearn.utils.validation", "sklearn", "SequenceEstimator").check_is_fitted(self, "model_")
        out = predict(self.model_, self._inputs(self._sequences(x)), probabilities=probabilities)
        assert isinstance(out, Tensor)
        return out.numpy()
