"""Damage to files: every flipped bit and every cut is found, in saved models and in checkpoints."""

import random

import pytest
import torch

import hbll_seq as hs
from hbll_seq import checkpoint as ckpt

TEXT = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(1))
RUN = dict(rule="bptt", steps=4, batch_size=3, window=20, progress=False)


def lm(seed=0):
    return hs.models.CharLM(5, hidden=8, timescale=20.0, symbols=list("abcde"), seed=seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of a saved model and of a checkpoint."""
    folder = tmp_path_factory.mktemp("whole")
    hs.save(lm(), folder / "model")
    hs.fit(lm(), TEXT, checkpoint=folder / "run", callbacks=[hs.callbacks.EarlyStopping()], validation=0.2, **RUN)
    return {kind: (folder / kind).read_bytes() for kind in ("model", "run")}


def use(kind, file):
    """What a user does with it; the error, or None."""
    model = lm(seed=3)
    before = weights(model)
    try:
        if kind == "model":
            hs.load(file)
        else:
            options = RUN | dict(callbacks=[hs.callbacks.EarlyStopping()], validation=0.2)
            hs.fit(model, TEXT, checkpoint=file, resume=True, **options)
    except hs.InputError as error:
        assert str(file) in str(error) and error.argument == ("path" if kind == "model" else "checkpoint")
        assert torch.equal(weights(model), before)
        return str(error)
    return None


def flips(kind, data, count, file):
    rng = random.Random(f"{kind} {count}")
    size = int.from_bytes(data[:8], "little")
    missed = []
    for k in range(count):
        # a third in the length and header, where damage may change what is read at all
        bit = rng.randrange(8 * (8 + size)) if k % 3 == 0 else rng.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        if use(kind, file) is None:
            missed.append(bit)
    print(f"{kind}: {count - len(missed)} of {count} flips found")
    return missed


@pytest.mark.parametrize("kind", ["model", "run"])
def test_flips_are_found(kind, whole, tmp_path):
    file = tmp_path / "f"
    file.write_bytes(whole[kind])
    assert use(kind, file) is None
    assert not flips(kind, whole[kind], 40, file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "run"])
def test_flips_are_found_at_length(kind, whole, tmp_path):
    assert not flips(kind, whole[kind], 200, tmp_path / "f")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "run"])
def test_every_bit_of_the_header_and_of_the_start_of_the_numbers(kind, whole, tmp_path):
    data, file = whole[kind], tmp_path / "f"
    bits = range(8 * min(len(data), 8 + int.from_bytes(data[:8], "little") + 256))
    missed = []
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            ckpt.read(file)
            missed.append(bit)
        except hs.InputError:
            pass
    print(f"{kind}: {len(bits) - len(missed)} of {len(bits)} flips found, every bit of the header among them")
    assert not missed


@pytest.mark.parametrize("kind", ["model", "run"])
def test_cuts_and_additions_are_found(kind, whole, tmp_path):
    data, file = whole[kind], tmp_path / "f"
    cuts = sorted({0, 1, 7, 8, 9, len(data) - 1, *range(0, len(data), max(1, len(data) // 60))})
    for cut in cuts:
        file.write_bytes(data[:cut])
        assert use(kind, file) is not None, cut
    for more in (b"\0", b"x" * 100, data):
        file.write_bytes(data + more)
        assert use(kind, file) is not None
    print(f"{kind}: {len(cuts)} cuts and 3 additions found")
