"""Numbers of other packages as options: accepted at one door, and kept as Python's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import hbll_seq as hs
from hbll_seq.data.scalars import check_seed, integer, number, plain_number, positive
from hbll_seq.engine import Options

WHOLE = [np.int64(3), np.uint8(3), torch.tensor(3), np.array(3), torch.tensor(3, dtype=torch.uint8)]
REAL = [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), np.array(0.5), torch.tensor(0.5, requires_grad=True)]
NO_INTEGERS = [True, np.bool_(True), torch.tensor(True), np.array(True), torch.tensor([3]), np.array([3]), 3.0, "3",
               np.float64(3.0), torch.tensor(3.0), None, torch.tensor(3, device="meta")]  # fmt: skip


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_whole_numbers_of_any_package_are_integers(value):
    assert type(integer("n", value)) is type(check_seed(value)) is int
    assert integer("n", value) == check_seed(value) == number("n", value) == 3


@pytest.mark.parametrize("value", REAL, ids=repr)
def test_real_numbers_of_any_package_are_floats(value):
    assert type(number("x", value)) is type(positive("x", value)) is type(plain_number(value)) is float
    assert number("x", value) == positive("x", value) == 0.5


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_a_bool_a_float_or_a_list_is_no_integer(value):
    for check in (lambda v: integer("seed", v), check_seed, lambda v: hs.models.CharLM(5, hidden=v)):
        with pytest.raises(hs.InputError, match="an integer"):
            check(value)


@pytest.mark.parametrize("value", [True, torch.tensor(True), "1", None, torch.tensor([1.0]), 1j], ids=repr)
def test_no_real_number(value):
    with pytest.raises(hs.InputError, match="a number"):
        positive("lr", value)


@pytest.mark.parametrize("wrap", [np.int64, torch.tensor, np.array], ids=["numpy", "tensor", "array"])
def test_models_of_such_numbers_are_saved_and_equal(wrap, tmp_path: Path):
    made = [
        hs.models.CharLM(wrap(5), hidden=wrap(8), layers=wrap(2), seed=wrap(1)),
        hs.models.LanguageModel(wrap(5), hidden=wrap(8), embedding=wrap(4), seed=wrap(1)),
        hs.models.SequenceModel(wrap(3), wrap(2), hidden=wrap(8), input_kind="features", timescale=wrap(50)),
        hs.models.AudioClassifier(wrap(3), hs.audio.Frames(wrap(4)), hidden=wrap(8)),
        hs.models.WaveModel(wrap(8000), levels=wrap(16), hidden=wrap(8)),
        hs.models.MLP(wrap(4), wrap(2), hidden=wrap(8), layers=wrap(3), seed=wrap(1)),
        hs.models.GPT(wrap(5), context=wrap(8), hidden=wrap(8), heads=wrap(2), layers=wrap(2)),
        hs.models.ViT((wrap(1), wrap(4), wrap(4)), wrap(2), patch=wrap(2), hidden=wrap(8), heads=wrap(2),
                      layers=wrap(2)),
    ]  # fmt: skip
    for i, model in enumerate(made):
        json.dumps(model.config())
        path = tmp_path / f"{i}.pt"
        hs.save(model, path)
        again = hs.load(path)
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name


def test_a_run_of_such_numbers_equals_the_run_of_pythons(tmp_path: Path):
    x = torch.randint(5, (6, 13), generator=torch.Generator().manual_seed(0))

    def trained(whole, real, resume):
        model = hs.models.CharLM(5, hidden=8, seed=3)
        run = hs.fit(
            model, x, epochs=whole(2), batch_size=whole(2), lr=real(0.5), clip=real(0.25), warmup=whole(1),
            weight_decay=real(0.5), seed=whole(4), block_size=whole(4), discount=real(0.5), check_every=whole(0),
            validation=real(0.5), validate_every=whole(1), checkpoint=tmp_path / "run.pt", resume=resume,
            progress=False,
        )  # fmt: skip
        return run, model

    (got, other), (want, one) = trained(np.int64, np.float32, False), trained(int, float, False)
    assert got.config["options"] == want.config["options"] == {"block_size": 4, "discount": 0.5, "check_every": 0}
    assert torch.equal(one.readout.weight, other.readout.weight)
    assert got.history["loss"] == want.history["loss"]
    json.dumps(got.config)
    trained(np.int64, np.float32, True)  # the settings on record are equal


def test_options_hold_pythons_numbers():
    options = Options(block_size=np.int64(8), most=torch.tensor(4), pull=np.float32(0.5), memory=np.int64(1 << 20))
    assert type(options.block_size) is type(options.most) is type(options.memory) is int
    assert type(options.pull) is float
    assert options == Options(block_size=8, most=4, pull=0.5, memory=1 << 20)
    with pytest.raises(hs.InputError, match="block_size"):
        Options(block_size=np.bool_(True))
