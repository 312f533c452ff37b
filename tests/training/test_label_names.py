"""Names of labels: found by `fit`, kept by files and estimators, answered by `predict`; numbers stay numbers."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.audio.folder import Recordings
from hbll_seq.models.label_names import numbered, strings_in

X = torch.randn(12, 9, 3, generator=torch.Generator().manual_seed(0))
NAMES = ["slow", "fast", "none"] * 4
NUMBERS = torch.tensor([sorted(set(NAMES)).index(one) for one in NAMES])


def classifier(classes=3, **options):
    return hs.models.SequenceModel(
        3, classes, hidden=8, **{"task": "sequence", "input_kind": "features", "timescale": None, **options}
    )


def train(model, x, y, **options):
    return hs.fit(model, x, y, **{"steps": 3, "progress": False, **options})


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, lambda y: np.array(y, dtype=object)])
def test_names_train_as_their_numbers_do_and_come_back(kind, tmp_path):
    by_name, by_number = classifier(), classifier()
    run, other = train(by_name, X, kind(NAMES)), train(by_number, X, NUMBERS)
    assert run["loss"] == other["loss"] and by_name.label_names == ["fast", "none", "slow"]
    assert by_number.label_names is None
    scores = hs.predict(by_name, X)
    assert torch.equal(scores, hs.predict(by_number, X)), "numbers stay the default"
    told = hs.predict(by_name, X, labels=True)
    assert told == [by_name.label_names[i] for i in scores.argmax(-1)]
    assert hs.evaluate(by_name, X, kind(NAMES)) == hs.evaluate(by_number, X, NUMBERS)
    for one, two in zip(hs.credit(by_name, X, NAMES).nodes, hs.credit(by_number, X, NUMBERS).nodes, strict=True):
        assert torch.equal(one, two)
    hs.save(by_name, tmp_path / "named.safetensors")
    same = hs.load(tmp_path / "named.safetensors")
    assert same.label_names == by_name.label_names and hs.predict(same, X, labels=True) == told
    into = classifier(seed=5)
    assert hs.load(tmp_path / "named.safetensors", into=into).label_names == by_name.label_names


def test_a_file_without_names_has_none_and_a_false_number_of_names_is_not_saved(tmp_path):
    model = classifier()
    hs.save(model, tmp_path / "m.safetensors")
    assert hs.load(tmp_path / "m.safetensors").label_names is None
    model.label_names = ["a", "b", "c"]
    model.label_names.pop()
    with pytest.raises(hs.InputError, match=r"label_names.*2 names.*3"):
        hs.save(model, tmp_path / "m.safetensors")


@pytest.mark.parametrize("names", [["a", "b"], "abc", ["a", "b", "a"], [1, 2, 3], []])
def test_names_that_fit_no_class_are_refused_when_they_are_set(names):
    model = classifier()
    with pytest.raises(hs.InputError, match="label_names: got"):
        model.label_names = names
    assert model.label_names is None
    model.label_names = ("a", "b", "c")
    assert model.label_names == ["a", "b", "c"] == copy.deepcopy(model).label_names
    model.label_names = None


class Own(torch.nn.Module):
    """A module of the user's, of three classes."""

    def __init__(self, each=False):
        super().__init__()
        self.rnn, self.readout, self.each = torch.nn.GRU(3, 8, batch_first=True), torch.nn.Linear(8, 3), each

    def forward(self, x):
        out = self.rnn(x)[0]
        return self.readout(out if self.each else out[:, -1])


def own(**options):
    torch.manual_seed(0)
    return Own(**options)


def test_names_are_known_wherever_targets_are_asked_for():
    deep = hs.models.MLP((9, 3), 3, hidden=6, layers=3)
    train(deep, X, NAMES, paths="any")
    assert hs.evaluate_paths(deep, X, NAMES) == hs.evaluate_paths(deep, X, NUMBERS)
    rows = [NAMES[:9]] * 12
    model = classifier(task="step")
    train(model, X, rows)
    numbers = torch.stack(numbered(rows, model))
    named, wanted = (hs.lag_map(model, X, y, block_size=3).values for y in (rows, numbers))
    torch.testing.assert_close(named, wanted, equal_nan=True, rtol=0, atol=0)


def test_a_module_of_ones_own_keeps_names_too(tmp_path):
    by_name, by_number, loss = own(), own(), dict(loss="cross_entropy")
    by_name.output_size = 24  # of the user's: it need not be the number of classes
    run, other = (
        train(by_name, X, NAMES, validation=0.25, **loss),
        train(by_number, X, NUMBERS, validation=0.25, **loss),
    )
    assert run["loss"] == other["loss"] and run["val_loss"] == other["val_loss"]
    assert by_name.label_names == ["fast", "none", "slow"] and not hasattr(by_number, "label_names")
    told = [by_name.label_names[i] for i in hs.predict(by_name, X).argmax(-1)]
    assert hs.predict(by_name, X, labels=True) == told
    assert hs.evaluate(by_name, X, NAMES, **loss) == hs.evaluate(by_number, X, NUMBERS, **loss)
    gradients = [hs.gradient(m, X, y, **loss) for m, y in ((by_name, NAMES), (by_number, NUMBERS))]
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[1])
    hs.save(by_name, tmp_path / "own.safetensors")
    again = hs.load(tmp_path / "own.safetensors", into=Own())
    assert hs.predict(again, X, labels=True) == told and copy.deepcopy(again).label_names == by_name.label_names
    steps = own(each=True)
    train(steps, X, [NAMES[:9]] * 12, **loss)
    assert np.array(hs.predict(steps, X, labels=True)).shape == (12, 9)


def test_names_of_a_module_of_ones_own_are_checked_against_its_outputs():
    module, loss = own(), dict(loss="cross_entropy")
    for y, said in (
        (["a", "b"] * 6, "2 different labels.*expected 3, as the model"), (["a", "b", "c", "d"] * 3, "4 different"),
        ([*NAMES[:-1], 3], r"y\[11\]: got 3 among names"),
    ):  # fmt: skip
        with pytest.raises(hs.InputError, match=said):
            train(module, X, y, **loss)
        assert not hasattr(module, "label_names")
    module.label_names = {"a": 1}  # something of the user's
    train(module, X, NUMBERS, **loss)
    with pytest.raises(hs.InputError, match="model.label_names: got {'a': 1}"):
        train(module, X, NAMES, **loss)
    module.label_names = ["a", "b"]
    with pytest.raises(hs.InputError, match="True for outputs of shape .*expected 2 scores"):
        hs.predict(module, X, labels=True)


def test_an_adopted_network_keeps_its_names_in_a_file_of_weights(tmp_path):
    made = lambda: classifier(cell=torch.nn.GRU(3, 8, batch_first=True))
    model = made()
    train(model, X, NAMES)
    hs.save(model, tmp_path / "adopted")
    assert hs.load(tmp_path / "adopted", into=made()).label_names == model.label_names


def test_a_name_for_every_time_step_and_sequences_of_any_length():
    lengths = [4, 9, 6]
    x = [X[i, :n] for i, n in enumerate(lengths)]
    names = [["up" if v > 0 else "down" for v in one[:, 0]] for one in x]
    model, other = classifier(2, task="step"), classifier(2, task="step")
    run = train(model, x, names, validation=(x, names))
    numbers = [torch.tensor([int(v == "up") for v in row]) for row in names]
    assert run["loss"] == train(other, x, numbers)["loss"] and run["val_loss"]
    assert [len(row) for row in hs.predict(model, x, labels=True)] == lengths
    series = train(model, X[0], names[1], stateful=True, batch_size=2, window=3, validation=(X[1], names[1]))
    assert series["loss"] and set(hs.predict(model, X[0], stateful=True, labels=True)) <= {"up", "down"}


@pytest.mark.parametrize(
    "options",
    [
        {"sample_weight": [1.0] * 12}, {"loss": torch.nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": lambda out, y: torch.nn.functional.cross_entropy(out, y)},
    ],
)  # fmt: skip
def test_names_go_with_a_loss_and_weights(options):
    model, other = classifier(), classifier()
    assert train(model, X, NAMES, **options)["loss"] == train(other, X, NUMBERS, **options)["loss"]
    assert model.label_names == ["fast", "none", "slow"]


def test_names_given_to_a_model_keep_their_order(tmp_path):
    model = classifier(["slow", "none", "fast"])
    assert model.output_size == 3 and model.config()["output_size"] == 3
    train(model, X, NAMES)
    assert model.label_names == ["slow", "none", "fast"]
    heard = hs.models.AudioClassifier(["a", "b"], hs.audio.Frames(8), hidden=4)
    hs.save(heard, tmp_path / "heard")
    assert hs.load(tmp_path / "heard").label_names == ["a", "b"]


@pytest.mark.parametrize(
    ("y", "classes", "said"),
    [
        (NAMES, 4, r"y: got 3 different labels.*expected 4"),
        ([*NAMES[:-1], "new"], ["fast", "none", "slow"], r"y\[11\]: got 'new'"),
        ([*NAMES[:-1], 3], 3, r"y\[11\]: got 3"),
    ],
)
def test_what_names_no_class_is_refused_before_any_change(y, classes, said):
    model = classifier(classes)
    before, names = [p.clone() for p in model.parameters()], model.label_names
    with pytest.raises(hs.InputError, match=said):
        train(model, X, y)
    assert model.label_names == names and all(map(torch.equal, before, model.parameters()))


def test_a_refused_run_leaves_no_names():
    model = classifier()
    with pytest.raises(hs.InputError, match="lr"):
        train(model, X, NAMES, lr=-1)
    assert model.label_names is None


def test_names_need_a_model_that_has_them():
    with pytest.raises(hs.InputError, match="labels: got True; expected a model"):
        hs.predict(classifier(), X, labels=True)
    with pytest.raises(hs.InputError, match="y: got names such as 'slow'"):
        hs.evaluate(classifier(), X, NAMES)
    with pytest.raises(hs.InputError, match="labels: got True beside probabilities"):
        hs.predict(classifier(["a", "b", "c"]), X, labels=True, probabilities=True)
    with pytest.raises(hs.InputError, match="output_size: got 'a' more than once"):
        classifier(["a", "a"])
    with pytest.raises(hs.InputError, match="names for a model without classes"):
        classifier(["a", "b"], objective="mse")


def test_recordings_of_a_folder_are_data_with_names(tmp_path):
    waves = [torch.randn(200, generator=torch.Generator().manual_seed(i)) / 4 for i in range(6)]
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    folder = Recordings(waves, labels, ["yes", "no"], None, [], [], 8000)
    made = lambda: hs.models.AudioClassifier(2, hs.audio.Frames(16), hidden=8)
    model, other = made(), made()
    best = hs.callbacks.BestCheckpoint(tmp_path / "best")
    run = train(model, folder, None, validation=folder, callbacks=[best])
    assert run["loss"] == train(other, waves, labels)["loss"]
    assert model.label_names == ["yes", "no"], "the folder's order"
    assert hs.load(tmp_path / "best").label_names == ["yes", "no"]
    assert hs.predict(model, folder, labels=True) == hs.predict(model, waves, labels=True)
    assert hs.evaluate(model, folder) == hs.evaluate(model, waves, labels)
    with pytest.raises(hs.InputError, match="targets beside recordings"):
        hs.evaluate(model, folder, labels)


def test_an_estimator_names_the_classes_of_its_network(tmp_path):
    pytest.importorskip("sklearn")
    best = hs.callbacks.BestCheckpoint(tmp_path / "best")
    made = hs.SequenceClassifier(hidden=8, steps=3, validation=0.25, callbacks=[best]).fit(X.numpy(), NAMES)
    inputs = [(one - made.mean_) / made.scale_ for one in X.numpy()]
    assert made.model_.label_names == list(made.classes_) == hs.load(tmp_path / "best").label_names
    assert hs.predict(made.model_, inputs, labels=True) == list(made.predict(X.numpy()))
    numbers = hs.SequenceClassifier(hidden=8, steps=1).fit(X.numpy(), [3, 7] * 6)
    assert numbers.model_.label_names == ["3", "7"] and set(numbers.predict(X.numpy())) <= {3, 7}


@given(st.lists(st.lists(st.sampled_from(["a", "bé", "c c"]), min_size=1, max_size=5), min_size=1, max_size=4))
def test_numbers_stand_for_names_in_any_nesting(rows):
    model = classifier(["c c", "a", "bé"])
    for row, numbers in zip(rows, numbered(rows, model), strict=True):
        assert [model.label_names[i] for i in numbers] == row
        assert torch.equal(numbered(row, model), numbers)


@pytest.mark.parametrize("y", [None, "text", 3, [], [1, 2], [[1], [2]], torch.ones(3), np.ones(3), np.array(3)])
def test_what_is_no_name_is_left_alone(y):
    assert strings_in(y) is None
    assert numbered(y, classifier()) is y
