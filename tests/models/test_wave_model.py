"""The model of the next sample."""

import pytest
import torch

import hbll_seq as hs
from hbll_seq.audio import mu_law_decode


def sine(samples):
    return 0.8 * torch.sin(torch.arange(samples) * 2 * torch.pi / 20)


def small(**options):
    return hs.models.WaveModel(8000, 32, hidden=32, timescale=20.0, **options)


@pytest.mark.parametrize("rule", ["hbll", "bptt"])
def test_it_learns_a_sine_and_goes_on_with_it(rule):
    model = small()
    run = hs.fit(
        model, model.prepare(sine(6000)), rule=rule, steps=120, batch_size=8, lr=1e-2, window=64, validation=None
    )
    assert run.history["loss"][-1] < 0.15
    heard = sine(400)
    out = model.generate(40, prompt=heard, temperature=0.0)
    assert out.shape == (440,)
    assert float((out[400:] - sine(440)[400:]).abs().mean()) < 0.15


def test_generation_is_seeded_and_leaves_the_global_generator():
    model = small()
    before = torch.get_rng_state()
    one, two, other = model.generate(50, seed=1), model.generate(50, seed=1), model.generate(50, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (50,) and one.dtype == torch.float32 and float(one.abs().max()) <= 1
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_prompt_comes_back_as_it_was_heard():
    model = small()
    heard = model.generate(1, prompt=sine(9))[:9]
    assert torch.equal(heard, mu_law_decode(model.prepare(sine(9)), 32))


def test_saved_and_loaded(tmp_path):
    model = small(layers=2)
    hs.save(model, tmp_path / "m")
    other = hs.load(tmp_path / "m")
    assert isinstance(other, hs.models.WaveModel) and (other.rate, other.levels) == (8000, 32)
    assert torch.equal(other.generate(20), model.generate(20))


@pytest.mark.parametrize(
    "call,argument",
    [
        (lambda: hs.models.WaveModel(0), "rate"),
        (lambda: hs.models.WaveModel(8000, 1), "levels"),
        (lambda: small().prepare(torch.zeros(2, 3)), "wave"),
        (lambda: small().prepare(torch.tensor([float("nan")])), "wave"),
        (lambda: small().generate(0), "samples"),
        (lambda: small().generate(3, temperature=-1.0), "temperature"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(hs.InputError, match=f"^{argument}: got"):
        call()
