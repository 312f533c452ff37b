"""`Augment`: copies from (seed, epoch, index), the size of every change, masks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hbll_seq as hs
from hbll_seq.audio import Augment
from hbll_seq.audio.augmenter import augment_from

ALL = Augment(speed=0.2, colour=1.0, noise=(5, 30), bands=3, steps=4, masks=2)


def wave(samples, seed=0):
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_a_copy_is_a_function_of_seed_epoch_and_index():
    before = torch.get_rng_state()
    where = [(s, e, i) for s in (-3, 0) for e in (0, 1) for i in (0, 1)]
    one, two = ([ALL.wave(wave(300), seed=s, epoch=e, index=i) for s, e, i in order] for order in (where, where[::-1]))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(one, two[::-1], strict=True))
    assert all(p.shape != q.shape or not torch.equal(p, q) for n, p in enumerate(one) for q in one[:n])


@settings(deadline=None, max_examples=30)
@given(samples=st.integers(1, 400), speed=st.sampled_from([0.0, 0.01, 0.2, 1.0]), index=st.integers(0, 20))
def test_lengths_stay_within_what_is_said(samples, speed, index):
    augment = Augment(speed=speed, colour=0.5, noise=(0, 0))
    copy = augment.wave(wave(samples), seed=1, epoch=2, index=index)
    assert augment.shortest(samples) <= len(copy) <= augment.longest(samples)
    assert copy.isfinite().all() and copy.dtype == torch.float32


def test_speed_is_that_of_a_faster_recording():
    """Duration and pitch change by one factor, which is spread over the whole range."""
    tone, factors = torch.sin(2 * math.pi * 0.05 * torch.arange(8000)), []
    for index in range(40):
        copy = Augment(speed=0.25).wave(tone, seed=0, epoch=0, index=index)
        pitch = float(torch.fft.rfft(copy, 80_000).abs().argmax()) / 80_000  # cycles a sample
        factors.append(8000 / len(copy))
        assert pitch / 0.05 == pytest.approx(factors[-1], rel=0.002)
        assert float(copy[100:-100].abs().max()) == pytest.approx(1, abs=0.02)
    assert 0.77 < min(factors) < 0.85 and 1.18 < max(factors) < 1.29


def test_noise_has_the_ratio_asked_for():
    x, ratios = wave(4000), []
    for index in range(40):
        noise = Augment(noise=(10, 20)).wave(x, seed=0, epoch=0, index=index) - x
        ratios.append(10 * math.log10(float(x.square().sum() / noise.square().sum())))
    assert 10 <= min(ratios) < 12 and 18 < max(ratios) <= 20.001
    silent = Augment(noise=(10, 20)).wave(torch.zeros(50), seed=0, epoch=0, index=0)
    assert torch.equal(silent, torch.zeros(50))


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 4), t=st.integers(1, 30), d=st.integers(7, 9), masks=st.integers(1, 3), seed=st.integers(0, 99))
def test_masks_are_runs_of_the_mean_and_nothing_else(n, t, d, masks, seed):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, t + 1, (n,), generator=g)
    x = torch.rand(n, t, d, generator=g, dtype=torch.float64)
    x[torch.arange(t) >= lengths[:, None]] = 0
    augment = Augment(bands=2, steps=5, masks=masks)  # never all bands
    got = augment.mask(x, lengths, seed=seed, epoch=1, indices=range(n))
    for row, m in enumerate(lengths.tolist()):
        mean = x[row, :m].mean(0)
        hidden = torch.isclose(got[row, :m], mean.expand(m, d)) & (x[row, :m] != got[row, :m])
        assert torch.equal(got[row, :m][~hidden], x[row, :m][~hidden]) and not got[row, m:].any()
        changed = got[row, :m] != x[row, :m]
        if m > 2:  # in one or two steps the mean may be the value itself
            bands, spans = changed.all(0), changed.all(1)
            assert torch.equal(changed, bands[None] | spans[:, None])  # whole bands and whole spans
            assert bands.sum() <= 2 * masks and spans.sum() <= min(5, m // 4) * masks
        alone = augment.mask(x[row : row + 1, :m], lengths[row : row + 1], seed=seed, epoch=1, indices=[row])
        torch.testing.assert_close(alone[0], got[row, :m])  # whatever else the batch holds


def test_masks_reach_their_full_width_and_every_place():
    x = torch.rand(400, 20, 6)
    got = Augment(bands=2, steps=5).mask(x, torch.full((400,), 20), seed=0, epoch=0, indices=range(400))
    bands, spans = (got != x).all(1), (got != x).all(2)
    assert set(bands.sum(1).tolist()) == {0, 1, 2} and set(spans.sum(1).tolist()) == {0, 1, 2, 3, 4, 5}
    assert bands.any(0).all() and spans.any(0).all()


def test_configuration_comes_back():
    for augment in (ALL, Augment(steps=2), Augment(noise=(3, 3))):
        assert augment_from(augment.config()) == augment and augment_from(augment) is augment
    assert augment_from(None) is None
    for bad in ({"tempo": 1}, 3, "speed"):
        with pytest.raises(hs.InputError, match="augment: got"):
            augment_from(bad)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "nothing to change"),
        ({"masks": 0, "bands": 3}, "nothing to change"),
        ({"speed": 0.005}, "whole percents"),
        ({"speed": 2}, "speed: got 2"),
        ({"noise": 10}, "noise: got 10"),
        ({"noise": (30, 5)}, "the lowest ratio first"),
        ({"noise": (5, float("nan"))}, "noise: got nan"),
        ({"colour": -1}, "colour: got -1"),
        ({"steps": 1.5}, "steps: got 1.5"),
    ],
)
def test_what_is_refused(options, match):
    with pytest.raises(hs.InputError, match=match):
        Augment(**options)


def test_a_bad_wave_and_too_wide_a_band_are_named():
    with pytest.raises(hs.InputError, match="wave: got samples that are not finite"):
        ALL.wave(torch.tensor([0.0, float("inf")]), seed=0, epoch=0, index=0)
    with pytest.raises(hs.InputError, match="bands: got 3; expected less than 3"):
        ALL.mask(torch.rand(1, 5, 3), torch.tensor([5]), seed=0, epoch=0, indices=[0])


def test_copies_do_not_depend_on_the_default_dtype():
    augment, wave = hs.audio.Augment(speed=0.1, colour=1.0, noise=(5, 30)), torch.sin(torch.arange(4000) / 5)
    copy = augment.wave(wave, seed=0, epoch=0, index=0)
    default = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        again = augment.wave(wave, seed=0, epoch=0, index=0)
        assert hs.audio.vary([wave], speed=0.1)[0].dtype == torch.float32
    finally:
        torch.set_default_dtype(default)
    assert again.dtype == torch.float32
    torch.testing.assert_close(again, copy)
