"""`fit` trains with every rule and cell, on data in every form, as a loop of your own would."""

import numpy as np
import pytest
import torch
from cases import NAMED, OwnCell
from runs import QUICK, RULES, TEXT, lm, weights
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, IterableDataset

import hbll_seq as hs
from hbll_seq.data.inputs import as_source


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cell", [*NAMED, "own"])
def test_every_rule_trains_every_cell(rule, cell):
    model = lm(cell=torch.nn.ModuleList([OwnCell(8, 8)]), embedding=8) if cell == "own" else lm(cell=cell, layers=2)
    text = torch.arange(400) % 5  # what comes next is certain: sixty steps lower the loss
    run = hs.fit(model, text, rule=rule, lr=2e-2, **QUICK | dict(steps=60))
    losses = run.history["loss"]
    assert losses[-1] < 0.8 * losses[0] and run.stopped_reason == "finished"
    assert all(
        len(v) == 60 for k, v in run.history.items() if k in ("step", "loss", "lr", "grad_norm", "seconds", "depth")
    )


def test_forms_that_mean_the_same_train_the_same():
    g = torch.Generator().manual_seed(0)
    sequences = [torch.randn(n, 2, generator=g) for n in (9, 4, 6, 1)]
    padded, labels = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True), [0, 1, 1, 0]
    forms = [sequences, (padded, [9, 4, 6, 1]), pack_sequence(sequences, enforce_sorted=False)]
    results = []
    for x in forms:
        model = hs.models.SequenceModel(2, 2, input_kind="features", task="sequence", hidden=6)
        hs.fit(model, x, labels, rule="hbll", steps=5, batch_size=2, progress=False)
        results.append(weights(model))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_fit_is_a_loop_over_the_public_step():
    by_fit, by_hand = lm(), lm()
    hs.fit(by_fit, TEXT, rule="hbll", schedule="constant", **QUICK)
    source, rule = as_source(TEXT, None, by_hand, window=40), hs.rules.make("hbll")
    rule.setup(by_hand, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=4e-3)
    for i in range(6):
        hs.step(by_hand, source.batch(i, 3, 0), rule, optimizer, progress=i / 6)
    assert torch.equal(weights(by_fit), weights(by_hand))


@pytest.mark.parametrize("options", [{}, {"execution": "parallel"}])
def test_measuring_the_cosine_does_not_change_the_training(options):
    plain, measured = lm(), lm()
    hs.fit(plain, TEXT, rule="hbll", **QUICK | options)
    hs.fit(measured, TEXT, rule="hbll", measure_cosine=2, **QUICK | options)
    assert torch.equal(weights(plain), weights(measured))


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.arange(9) % 5


def test_a_loader_without_a_length_trains_for_steps_and_not_for_epochs():
    assert len(hs.fit(lm(), DataLoader(Endless(), batch_size=2), rule="bptt", **QUICK).history["loss"]) == 6
    with pytest.raises(hs.InputError, match="steps: got None"):
        hs.fit(lm(), DataLoader(Endless(), batch_size=2), rule="bptt", progress=False)
    with pytest.raises(hs.InputError, match="x: got a DataLoader without batches"):
        hs.fit(lm(), DataLoader([], batch_size=2), rule="bptt", **QUICK)


def test_numpy_numbers_are_numbers():
    run = hs.fit(
        lm(), TEXT, rule="bptt", lr=np.float32(1e-3), **QUICK | dict(steps=np.int64(2), batch_size=np.int32(2))
    )
    assert len(run.history["loss"]) == 2 and '"batch_size": 2' in run.to_json()


def test_the_bar_writes_to_stdout_only(capsys):
    hs.fit(lm(), TEXT, rule="bptt", **QUICK | dict(progress=True))
    out, err = capsys.readouterr()
    assert "step" in out and err == ""
    hs.fit(lm(), TEXT, rule="bptt", **QUICK)
    assert capsys.readouterr().out == ""
