"""What holds numbers is read or refused by name: each kind that was once read wrongly, with the value that is right."""

import inspect
import math
import types

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import hbll_seq as hs
from hbll_seq.data.outcomes import as_batch, as_outcomes
from hbll_seq.data.tensors import as_tensor
from hbll_seq.training.arguments import FIT, GRADIENT

X = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([[0, 1, 2, 0, -100, -100], [2, 1, 0, 0, 1, -100]])


def tagger(**options):
    return hs.models.SequenceModel(3, 3, input_kind="features", hidden=4, **{"task": "step"} | options)


@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_greater(X[0, 0].numpy(), 0.0),
        [1.0, np.ma.masked],
        [[1.0], np.ma.masked_array([2.0], mask=[True])],
        X[0, 0].to_sparse(),
        torch.rand(3, device="meta"),
        torch.complex(X[0, 0], X[0, 0]),
        np.array([1, None]),
        np.array(["1"]),
        b"12",
        bytearray(b"12"),
        {"a": 1},
        (n for n in [1, 2]),
        np.zeros(2, dtype="datetime64[s]"),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array([2**63], dtype=np.uint64),
        X[0, 0].to(torch.float8_e4m3fn),
        [2**70],
    ],
    ids=lambda value: "a generator" if isinstance(value, types.GeneratorType) else str(value),
)
def test_what_has_no_plain_numbers_is_refused_by_name(value):
    with pytest.raises(hs.InputError, match="^lengths"):
        as_tensor(value, "lengths")


def test_odd_layouts_of_plain_numbers_are_read():
    want = X[0, 0]
    array = want.numpy()
    fixed = array.copy()
    fixed.flags.writeable = False
    for form in (array.astype(">f4"), array[::-1][::-1], np.ma.masked_array(array), fixed, want.tolist(), list(want)):
        torch.testing.assert_close(as_tensor(form, "x").float(), want)
    negative = torch.complex(want, want).conj().imag  # a view whose sign is not in memory
    assert not as_tensor(negative, "x").is_neg() and torch.equal(as_tensor(negative, "x"), -want)


def test_a_label_does_not_meet_ignore_index_by_wrapping_around():
    model = hs.models.SequenceModel(1, 200, input_kind="features", task="step", hidden=2)
    y = torch.tensor([[156, 3]], dtype=torch.uint8)  # 156 - 256 = -100
    assert as_batch(torch.zeros(1, 2, 1), y, model).mask.all()


def test_sequences_of_mixed_dtypes_keep_their_fractions():
    parts = [torch.ones(2, 3, dtype=torch.int64), torch.full((3, 3), 0.5)]
    batch = as_batch(parts, [torch.tensor([0, 1]), torch.tensor([0, 1, 2])], tagger())
    assert batch.x[1, 0, 0] == 0.5


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_features_are_taken_up_to_where_float32_gradients_hold(cell):
    model, y = tagger(cell=cell), Y.clamp(min=0)
    truth = hs.gradient(tagger(cell=cell).double(), X.double() * 1e12, y, rule="bptt", kernels="torch")
    found = hs.gradient(model, X * 1e12, y, rule="bptt")
    ours, exact = (torch.cat([t.double().flatten() for t in g]) for g in (found.values(), truth.values()))
    assert float((ours - exact).norm()) <= 2e-6 * float(exact.norm())
    with pytest.raises(hs.InputError, match=r"x: got 1e\+13 at \[0, 2, 1\]; expected features within"):
        hs.evaluate(model, X.index_put((torch.tensor(0), torch.tensor(2), torch.tensor(1)), torch.tensor(1e13)), y)


def test_integer_sound_is_scaled_by_its_full_range():
    wave = 0.5 * torch.sin(torch.arange(400) / 5)
    model = hs.models.WaveModel(8000, hidden=4)
    for dtype, full in ((torch.int8, 128), (torch.int16, 32768), (torch.int32, 2**31)):
        whole = (wave.double() * full).round().to(dtype)
        assert torch.equal(model.prepare(whole), model.prepare((whole.double() / full).float()))
        torch.testing.assert_close(hs.audio.Frames(16)([whole])[0], hs.audio.Frames(16)([whole.double() / full])[0])
    offset = (wave * 128 + 128).round().to(torch.uint8)
    assert (model.prepare(offset) - model.prepare(wave)).abs().max() <= 16
    with pytest.raises(hs.InputError, match="wave: got dtype torch.int64"):
        model.prepare((wave * 32767).long())
    with pytest.raises(hs.InputError, match="wave: got samples up to 16383"):
        model.prepare((wave * 32767).round())


def test_a_batch_without_a_target_makes_no_update_and_is_named():
    x, y = torch.randn(4, 8, 3), torch.randint(0, 3, (4, 8))
    y[1] = -100
    run = hs.fit(tagger(), x, y, rule="bptt", steps=4, batch_size=1, progress=False)
    assert len(run.history["loss"]) == 3 and len(run.history["skipped_step"]) == 1
    assert sorted(run.history["step"] + run.history["skipped_step"]) == [1, 2, 3, 4]
    model = tagger()
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model.parameters())
    batch = as_batch(x, y, model, dtype=torch.float32)
    info = hs.step(model, batch._replace(mask=torch.zeros_like(batch.mask)), hs.rules.make("bptt"), optimizer)
    assert info.result.loss == 0 and not info.updated
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def test_a_loader_without_any_target_is_refused_and_one_with_some_is_not():
    none, some = torch.full((2, 6), -100), Y.clone()
    some[0] = -100
    with pytest.raises(hs.InputError, match="y: got 2 batches without a step that counts"):
        hs.fit(tagger(), DataLoader(Pairs(X, none), batch_size=1), rule="bptt", steps=5, progress=False)
    loader = DataLoader(Pairs(X, some), batch_size=1)
    run = hs.fit(tagger(), loader, rule="bptt", steps=4, progress=False)
    assert run.history["skipped_step"] == [1, 3]
    assert math.isclose(hs.evaluate(tagger(), loader)["loss"], hs.evaluate(tagger(), X, some)["loss"], rel_tol=1e-5)


def test_evaluating_a_shuffling_loader_leaves_the_global_random_state():
    loader, before = DataLoader(Pairs(X, Y), batch_size=1, shuffle=True), torch.get_rng_state()
    hs.evaluate(tagger(), loader)
    hs.gradient(tagger(), loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_outcomes_are_targets_that_count():
    model = tagger()
    last = as_outcomes(X, Y, model)
    assert last.step.tolist() == [3, 4] and last.y.tolist() == [0, 1]
    assert as_outcomes(X, Y, model, 2).y.tolist() == [2, 0] and as_outcomes(X, Y, model, 2).common_step() == 2
    with pytest.raises(hs.InputError, match="outcome: got step 4, whose target does not count, in sequence 0"):
        as_outcomes(X, Y, model, 4)
    with pytest.raises(hs.InputError, match="outcome: got outcomes at steps 3..4"):
        last.common_step()
    assert as_outcomes((X, [4, 6]), torch.tensor([1, 2]), model).step.tolist() == [3, 5]
    with pytest.raises(hs.InputError, match="dtype torch.float32"):
        as_outcomes(X, Y + 0.5, model)


def test_states_and_inputs_of_a_stream_are_checked():
    model = hs.models.CharLM(4, hidden=3)
    _, state = model.step(torch.tensor([1]))
    for x, given, says in (
        (torch.tensor([4]), state, "x: got symbols in 4..4"),
        (torch.tensor(1), state, "x: got shape"),
        (torch.tensor([1.0]), state, "x: got dtype"),
        (torch.tensor([1]), state * 2, "state: got 2 things"),
        (torch.tensor([1, 2]), state, r"state\[0\]: got shape"),
        (torch.tensor([1]), [state[0] * torch.nan], r"state\[0\]: got NaN"),
    ):
        with pytest.raises(hs.InputError, match=says):
            model.step(x, given)


def test_one_word_changes_the_rule_while_options_stay():
    shared = dict(block_size=2, sweeps=1)
    for rule, used in (("hbll", shared), ("tbptt", dict(block_size=2)), ("bptt", {})):
        run = hs.fit(tagger(), X, Y, rule=rule, rule_options=shared, steps=1, progress=False)
        assert run.config["options"] == used
    for options, says in (
        (dict(blocksize=2), "did you mean 'block_size'"),
        (dict(batchsize=2), "did you mean 'batch_size'"),
        (dict(rule_options=dict(blocksize=2)), "did you mean 'block_size'"),
        (dict(rule="hbl"), "did you mean 'hbll'"),
        (dict(block_size=2, rule_options=dict(block_size=2)), "one of the two"),
        (dict(rule="bptt", block_size=2), "rule_options={...} keeps it"),
    ):
        with pytest.raises(hs.InputError, match=says):
            hs.fit(tagger(), X, Y, steps=1, progress=False, **options)


def test_the_words_that_are_suggested_are_those_of_the_signatures():
    for function, words in ((hs.fit, FIT), (hs.gradient, GRADIENT)):
        found = inspect.signature(function).parameters.values()
        assert {p.name for p in found if p.kind is p.KEYWORD_ONLY} == set(words)
