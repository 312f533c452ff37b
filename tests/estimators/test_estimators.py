"""The estimators do what scikit-learn expects of estimators, on sequences of unequal lengths, with gaps and weights."""

import pickle
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import classification_report
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import hbll_seq as hs
from hbll_seq.estimators.layouts import fill

# scikit-learn's checks give a table (N, T); to these estimators that is N sequences of T time steps and one feature
REASONS = {
    "check_n_features_in": "n_features_in_ counts features, not time steps",
    "check_n_features_in_after_fitting": "sequences of another length are no error",
    "check_classifiers_train": "sequences of another length are no error",
    "check_regressors_train": "sequences of another length are no error",
    "check_sample_weight_equivalence_on_dense_data": "batches differ where a sequence is repeated, so runs do",
    "check_dtype_object": "an object that is no number is a ValueError that names the sequence",
    "check_supervised_y_2d": "(N, 1) is a regression with one output",
}


@pytest.mark.parametrize("make", [hs.SequenceClassifier, hs.SequenceRegressor])
@pytest.mark.filterwarnings("ignore")  # scikit-learn's own
def test_what_scikit_learn_checks(make):
    skipped = {} if make is hs.SequenceRegressor else {"check_supervised_y_2d"}
    expected = {name: why for name, why in REASONS.items() if name not in skipped}
    found = check_estimator(make(epochs=1, hidden=4), expected_failed_checks=expected, on_fail=None, on_skip=None)
    failed = [f"{one['check_name']}: {one['exception']}" for one in found if one["status"] == "failed"]
    assert not failed and sum(one["status"] == "passed" for one in found) >= 50


def sequences(n=40, seed=0, shortest=5):
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(rng.integers(shortest, 20), 3)).astype(np.float32) for _ in range(n)]
    for one in x:
        one[:, 0] += rng.choice([-1, 1])
    return x, np.array(["up" if one[:, 0].mean() > 0 else "down" for one in x])


def quick(**options):
    return hs.SequenceClassifier(**{"hidden": 8, "epochs": 15, "lr": 1e-2, **options})


def test_labels_of_any_kind_and_a_report_by_class():
    x, y = sequences()
    model = quick().fit(x, y)
    assert model.score(x, y) > 0.9 and list(model.classes_) == ["down", "up"] and model.n_features_in_ == 3
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1, rtol=1e-5)
    assert (model.classes_[model.predict_proba(x).argmax(1)] == model.predict(x)).all()
    assert "up" in classification_report(y, model.predict(x)) and model.history_["loss"][-1] < model.history_["loss"][0]


def test_clones_pickles_and_seeds_repeat():
    x, y = sequences()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = quick(class_weight="balanced").fit(x, y)
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()
    for other in (clone(model).fit(x, y), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other.predict_proba(x), model.predict_proba(x))
    assert not np.array_equal(quick(random_state=1).fit(x, y).predict_proba(x), model.predict_proba(x))


def test_searches_and_pipelines():
    x, y = sequences()
    doubled = make_pipeline(FunctionTransformer(lambda found: [2 * one for one in found]), quick(epochs=5))
    assert len(cross_val_score(doubled, x, y, cv=2)) == 2
    search = GridSearchCV(quick(epochs=3), {"hidden": [4, 8], "rule": ["hbll", "bptt"]}, cv=2).fit(x, y)
    assert set(search.best_params_) == {"hidden", "rule"} and search.predict(x[:3]).shape == (3,)


def test_layouts_are_one_thing():
    x, y = sequences()
    even = [one[:5] for one in x]
    one = quick().fit(even, y).predict_proba(even)
    channels = [step.T for step in even]
    for given, layout in [
        (np.stack(even), "time_first"), (torch.tensor(np.stack(even)), "time_first"), (channels, "channels_first"),
        (np.stack(channels), "channels_first"),
    ]:  # fmt: skip
        model = quick(layout=layout).fit(given, y)
        np.testing.assert_allclose(model.predict_proba(given), one, rtol=1e-5)
    flat = [step[:, 0] for step in even]
    np.testing.assert_allclose(
        quick().fit(np.stack(flat), y).predict_proba(flat),
        quick().fit(flat, y).predict_proba(np.stack(flat)),
        rtol=1e-5,
    )


def test_gaps_by_a_stated_choice():
    x, y = sequences(shortest=6)
    for one in x[::3]:
        one[1:3, 1] = np.nan
    with pytest.raises(
        hs.InputError, match='X: got NaN in sequence 0 and 13 others; expected numbers; missing="interp'
    ):
        quick().fit(x, y)
    for missing, width in (("interpolate", 3), ("zero+mask", 6)):
        model = quick(missing=missing).fit(x, y)
        assert np.isfinite(model.predict_proba(x)).all() and model.model_.input_size == width
    row = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan], [np.nan] * 5], np.float32).T
    assert np.array_equal(fill([row], "interpolate")[0].T, [[1, 1, 2, 3, 3], [0, 0, 0, 0, 0]])
    assert np.array_equal(fill([row], "zero+mask")[0].T, [[0, 1, 0, 3, 0], [0] * 5, [0, 1, 0, 1, 0], [0] * 5])


def test_weights_are_those_of_fit():
    x, y = sequences()
    weight = np.where(y == "up", 3.0, 1.0)
    by_class = quick(class_weight={"up": 3.0, "down": 1.0}).fit(x, y).predict_proba(x)
    np.testing.assert_allclose(quick().fit(x, y, sample_weight=weight).predict_proba(x), by_class, rtol=1e-6)
    assert not np.allclose(quick().fit(x, y).predict_proba(x), by_class)


def smoothed(out, y):
    return torch.nn.functional.cross_entropy(out, y, label_smoothing=0.1)


def test_a_loss_and_metrics_of_ones_own_are_those_of_fit():
    x, y = sequences()
    metric = {"errors": lambda out, y: (out.argmax(-1) != y).float().mean()}
    own = quick(loss=smoothed, metrics=metric, validation=0.25).fit(x, y)
    module = quick(loss=torch.nn.CrossEntropyLoss(label_smoothing=0.1), validation=0.25).fit(x, y)
    np.testing.assert_allclose(own.predict_proba(x), module.predict_proba(x), rtol=1e-6)
    assert own.history_["val_errors"] == pytest.approx([1 - one for one in module.history_["val_accuracy"]])
    again = pickle.loads(pickle.dumps(clone(own).set_params(metrics=None).fit(x, y)))
    np.testing.assert_array_equal(again.predict(x), own.predict(x))
    weighed = quick(loss=torch.nn.CrossEntropyLoss(label_smoothing=0.1), class_weight={"up": 3.0, "down": 1.0})
    assert not np.allclose(weighed.fit(x, y).predict_proba(x), module.predict_proba(x))


def test_the_network_is_that_of_fit():
    x, y = sequences()
    ours = quick(standardize=False, epochs=4).fit(x, y)
    model = hs.models.SequenceModel(
        3, 2, hidden=8, task="sequence", objective="cross_entropy", input_kind="features", timescale=None, seed=0
    )
    target = torch.tensor((y == "up").astype(np.int64))
    hs.fit(model, [torch.tensor(one) for one in x], target, epochs=4, lr=1e-2, progress=False)
    wanted = hs.predict(model, [torch.tensor(one) for one in x], probabilities=True)
    np.testing.assert_array_equal(ours.predict_proba(x), wanted.numpy())


@pytest.mark.parametrize("columns", [1, 2])
def test_regression_in_the_units_of_its_targets(columns):
    x, _ = sequences(60)
    y = np.array([1000 + 50 * one[:, 0].mean() for one in x])
    y = y if columns == 1 else np.stack([y, -y], 1)
    model = hs.SequenceRegressor(hidden=8, epochs=30, lr=1e-2).fit(x, y)
    assert model.predict(x).shape == y.shape and model.score(x, y) > 0.8


@pytest.mark.parametrize("call,says", [
    (lambda x, y: quick().fit(3, y), "X: got int"),
    (lambda x, y: quick().fit(np.zeros((2, 3, 4, 5)), y), r"X: got shape \(2, 3, 4, 5\)"),
    (lambda x, y: quick().fit([*x[:-1], x[-1][:, :2]], y), "X: got sequences of 2 and of 3 features"),
    (lambda x, y: quick().fit([*x[:-1], "abc"], y), r"X\[39\]: got str"),
    (lambda x, y: quick().fit(x, y[:-1]), "y: got 39 targets; expected 40"),
    (lambda x, y: quick().fit(x, ["a"] * 40), "y: got one class, 'a'|y: got one class"),
    (lambda x, y: quick(layout="sideways").fit(x, y), "layout"),
    (lambda x, y: quick(missing="guess").fit(x, y), "missing"),
    (lambda x, y: quick(hidden=0).fit(x, y), "hidden"),
    (lambda x, y: quick().fit(x, y).predict([one[:, :2] for one in x]), "X: got 2 features; expected 3, as in fit"),
    (lambda x, y: quick(class_weight="balanced", loss=smoothed).fit(x, y), "class_weight: got given beside a callable"),
    (lambda x, y: quick(class_weight={"up": -1, "down": 1}).fit(x, y), "class_weight: got numbers below 0"),
    (lambda x, y: hs.SequenceRegressor().fit(x, y), "y: got ndarray"),
    (lambda x, y: hs.SequenceRegressor(class_weight="balanced").fit(x, np.zeros(40)), "class_weight"),
])  # fmt: skip
def test_what_does_not_fit_is_named(call, says):
    with pytest.raises(hs.InputError, match=says):
        call(*sequences())


def test_without_scikit_learn_the_rest_works(monkeypatch):
    for name in [one for one in sys.modules if one.startswith("hbll_seq.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(
        ImportError, match=r"SequenceClassifier and SequenceRegressor needs sklearn, .*hbll_seq\[sklearn\]"
    ):
        hs.SequenceClassifier  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Sequencer'"):
        hs.Sequencer  # noqa: B018
