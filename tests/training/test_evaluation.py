"""`evaluate` and `predict` are the deployed chain, and change nothing."""

import math

import pytest
import torch
from runs import TEXT, Dropping, classifier, lm, loader

import hbll_seq as hs


def test_evaluate_and_predict_are_the_deployed_chain():
    model, x = lm(), torch.randint(0, 5, (3, 30))
    figures = hs.evaluate(model, x)
    logits = model(x[:, :-1])
    exact = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
    assert figures["loss"] == pytest.approx(exact.item(), rel=1e-5)
    assert figures["bits"] == pytest.approx(figures["loss"] / math.log(2))
    assert figures["accuracy"] == pytest.approx(float((logits.argmax(-1) == x[:, 1:]).float().mean()), abs=1e-6)
    torch.testing.assert_close(hs.predict(model, x), model(x).detach())
    parts = hs.predict(model, [x[0, :7], x[1, :3]], probabilities=True)
    assert [p.shape for p in parts] == [(7, 5), (3, 5)] and torch.allclose(parts[1].sum(-1), torch.ones(3))
    assert model.training


def test_evaluate_weighs_lengths_right():
    model = hs.models.SequenceModel(2, 3, input_kind="features", task="step", hidden=5)
    x = [torch.randn(9, 2), torch.randn(2, 2)]
    y = [torch.randint(0, 3, (9,)), torch.randint(0, 3, (2,))]
    alone = [hs.evaluate(model, a, b)["loss"] for a, b in zip(x, y, strict=True)]
    for size in (1, 2):
        assert hs.evaluate(model, x, y, batch_size=size)["loss"] == pytest.approx(
            (9 * alone[0] + 2 * alone[1]) / 11, rel=1e-5
        )


def test_predict_takes_a_dataset_and_says_what_it_does_not_take():
    model = classifier()
    x = loader().dataset.tensors[0]
    torch.testing.assert_close(hs.predict(model, loader().dataset), hs.predict(model, x))
    torch.testing.assert_close(hs.predict(model, x, batch_size=3), model(x).detach())
    for bad, says in [
        (loader(), "x: got a DataLoader"),
        (x * math.nan, "x: got NaN"),
        (x.transpose(1, 2), "transpose"),
    ]:
        with pytest.raises(hs.InputError, match=says):
            hs.predict(model, bad)


def test_evaluating_leaves_frozen_parts_frozen():
    model = hs.models.SequenceModel(5, 5, cell=Dropping(), task="next")
    model.rnn.eval()
    hs.evaluate(model, TEXT)
    assert model.training and not model.rnn.training
