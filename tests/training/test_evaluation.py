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


def test_one_long_text_is_read_with_one_state_unless_a_window_is_given():
    net = hs.models.LanguageModel("byte", hidden=16, seed=2).double()
    text = torch.randint(0, 256, (700,))
    whole = hs.evaluate(net, text)
    assert whole == pytest.approx(hs.evaluate(net, text[None]), rel=1e-12)
    assert whole == hs.evaluate(net, text.tolist()) == hs.evaluate(net, text.numpy(), stateful=True)
    assert whole.cut == "one sequence of 700 time steps, read with one state"
    windows = hs.evaluate(net, text, window=256)
    assert windows == hs.evaluate(net, text, stateful=False) and windows["loss"] != whole["loss"]
    assert windows.cut == "one text of 700 symbols, in windows of 256 from a zero state"
    assert hs.evaluate(net, text[None]).cut == "sequences as they came, each from a zero state"
    assert hs.evaluate(net, text, window=100, stateful=True) == pytest.approx(whole, rel=1e-9)


def test_models_that_carry_no_state_read_a_text_in_windows():
    net = hs.models.GPT(256, context=32, hidden=16, heads=2, layers=2)
    assert "in windows of 32 from a zero state" in hs.evaluate(net, torch.randint(0, 256, (100,))).cut


def test_bits_a_byte_count_the_bytes_of_the_targets():
    tokenizer = hs.text.CharTokenizer("aé🙂")
    net = hs.models.LanguageModel(tokenizer, hidden=8)
    symbols = tokenizer.encode("aé🙂aé")
    found = hs.evaluate(net, symbols)
    assert found["bits_per_byte"] == pytest.approx(found["bits"] * 4 / (2 + 4 + 1 + 2))
    ignored = torch.tensor([[False, True, False, True, True]])
    found = hs.evaluate(net, symbols[None], mask=ignored)
    assert found["bits_per_byte"] == pytest.approx(found["bits"] * 3 / (2 + 1 + 2))
    assert "bits_per_byte" not in hs.evaluate(hs.models.LanguageModel(3, hidden=8), symbols)


def right(out, y):
    return (out.argmax(-1) == y).float().mean()


class Counted:
    """A metric with a state, as torchmetrics has them."""

    def reset(self):
        self.right = self.all = 0

    def update(self, out, y):
        self.right, self.all = self.right + int((out.argmax(-1) == y).sum()), self.all + len(y)

    def compute(self):
        return self.right / self.all


@pytest.mark.parametrize("window", [None, 100])
def test_metrics_do_not_change_how_a_long_text_is_read(window):
    net = hs.models.LanguageModel("byte", hidden=16, layers=2, seed=2).double()
    text = torch.randint(0, 256, (700,))
    plain = hs.evaluate(net, text, window=window)
    found = hs.evaluate(net, text, window=window, metrics={"right": right, "counted": Counted()})
    assert found.cut == plain.cut
    assert {name: found[name] for name in plain} == pytest.approx(dict(plain), rel=1e-12)
    assert found["counted"] == pytest.approx(plain["accuracy"])
    assert found["right"] == pytest.approx(plain["accuracy"])
    assert hs.evaluate(net, text, window=window, loss="cross_entropy")["loss"] == pytest.approx(plain["loss"])
    carried = hs.evaluate(net, text, metrics={"right": right}, stateful=True, window=50)
    assert carried["loss"] == pytest.approx(hs.evaluate(net, text)["loss"], rel=1e-9)


def test_figures_that_are_means_over_sequences_say_that_a_text_is_cut():
    net = hs.models.LanguageModel("byte", hidden=8)
    text = torch.randint(0, 256, (600,))
    for options in (
        {"metrics": {"n": lambda out, y, lengths: lengths.float().mean()}},
        {"loss": lambda out, y: torch.nn.functional.cross_entropy(out.flatten(0, 1), y.flatten())},
    ):
        cut = hs.evaluate(net, text, **options).cut
        assert "in windows of 256 from a zero state, because a callable loss" in cut
        with pytest.raises(hs.InputError, match="stateful: got True beside"):
            hs.evaluate(net, text, stateful=True, **options)


def test_a_series_is_read_with_one_state_beside_metrics():
    net = hs.models.SequenceModel(2, 3, hidden=8, input_kind="features", seed=1).double()
    x, y = torch.randn(500, 2).double(), torch.randint(0, 3, (500,))
    y[40:90] = -100
    plain = hs.evaluate(net, x, y, stateful=True, window=30)
    found = hs.evaluate(net, x, y, stateful=True, window=30, metrics={"right": right})
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-12)
    assert found["right"] == pytest.approx(plain["accuracy"])
