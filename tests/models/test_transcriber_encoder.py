"""The encoder: padding changes nothing, chunks give the whole, causal stages look at the past alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hbll_seq.models.transcriber_encoder import Encoder

STAGES = st.fixed_dictionaries(
    {
        "filters": st.sampled_from([None, (5, 3, 4, 2), (4, 2, 2, 1), (4, 3, 3, 3)]),
        "conv": st.sampled_from([(), ((6, 3, 1),), ((6, 5, 2),), ((6, 3, 3), (4, 3, 2))]),
    }
)


def made(stages, normalise, causal):
    torch.manual_seed(0)
    return Encoder(3, stages["filters"], normalise, stages["conv"], causal).double()


def sequences(*lengths):
    return [torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in lengths]


@given(stages=STAGES, normalise=st.sampled_from([None, "utterance", "running"]), causal=st.booleans(),
       lengths=st.lists(st.integers(1, 17), min_size=1, max_size=4))  # fmt: skip
def test_a_padded_batch_is_each_sequence_alone(stages, normalise, causal, lengths):
    encoder, parts = made(stages, normalise, causal), sequences(*lengths)
    whole, steps = encoder(torch.nn.utils.rnn.pad_sequence(parts, batch_first=True), torch.tensor(lengths))
    assert torch.equal(steps, encoder.steps(torch.tensor(lengths)))
    assert whole.shape == (len(parts), int(steps.max()), encoder.width)
    for row, n, part in zip(whole, steps.tolist(), parts, strict=True):
        alone, count = encoder(part[None], torch.tensor([len(part)]))
        assert count.tolist() == [n]
        torch.testing.assert_close(row[:n], alone[0])
        assert not row[n:].any()


@given(stages=STAGES, normalise=st.sampled_from([None, "running"]), length=st.integers(1, 23), data=st.data())
def test_chunks_give_the_whole(stages, normalise, length, data):
    encoder, (x,) = made(stages, normalise, True), sequences(length)
    whole = encoder(x[None], torch.tensor([length]))[0][0]
    cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=5)))
    where, found = None, []
    for first, last in zip([0, *cuts], [*cuts, length], strict=True):
        out, where = encoder.stream(x[first:last], where, end=False)
        found.append(out)
    found.append(encoder.stream(x[:0], where, end=True)[0])
    torch.testing.assert_close(torch.cat(found), whole.detach())


@given(stages=STAGES, normalise=st.sampled_from([None, "running"]), cut=st.integers(1, 19))
def test_a_causal_encoder_reads_the_past_alone(stages, normalise, cut):
    encoder, (x,) = made(stages, normalise, True), sequences(20)
    changed = x.clone()
    changed[cut:] += 1
    before, after = (encoder(one[None], torch.tensor([20]))[0][0] for one in (x, changed))
    same = cut // encoder.stride  # outputs whose last time step comes before the change
    torch.testing.assert_close(before[:same], after[:same])
    assert not torch.equal(before, after)


def test_a_state_between_chunks_does_not_grow():
    encoder, (x,) = made({"filters": (5, 3, 4, 2), "conv": ((6, 5, 2),)}, "running", True), sequences(400)
    where, sizes = None, set()
    for chunk in x.split(8):
        where = encoder.stream(chunk, where, end=False)[1]
        sizes.add(tuple(one.numel() for one in where.kept))
    assert len(sizes) == 1


def test_a_constant_colour_of_the_sound_goes_with_the_mean():
    """A microphone adds a constant to log-mel features: it is gone at once, or with time."""
    (x,), colour = sequences(2000), torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    for normalise, least, most in (("utterance", 0.0, 1e-9), ("running", 0.5, 0.02)):
        encoder = made({"filters": None, "conv": ()}, normalise, True)
        plain, coloured = (encoder(one[None], torch.tensor([2000]))[0][0] for one in (x, x + colour))
        gap = ((plain - coloured) / colour).abs().amax(-1)
        assert least <= float(gap[0].detach()) <= 1 and float(gap[-1].detach()) <= most


def test_the_first_time_steps_of_a_running_mean_are_not_lost():
    encoder = made({"filters": None, "conv": ()}, "running", True)
    (x,) = sequences(1)
    assert not torch.allclose(encoder(x[None], torch.tensor([1]))[0], torch.zeros(1, 1, 3, dtype=torch.float64))


def test_any_number_of_convolutions_streams():
    encoder = Encoder(3, None, None, ((3, 2, 1),) * 120, True)
    x = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.stream(x[0], None, end=True)[0], encoder(x, torch.tensor([9]))[0][0])
