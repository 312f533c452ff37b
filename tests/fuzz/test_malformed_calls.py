"""Random malformed and odd calls: an InputError or a result, and a refused call leaves nothing behind.

    python -m pytest tests/fuzz/test_malformed_calls.py -s              some hundreds, the counts printed
    python -m pytest tests/fuzz/test_malformed_calls.py -s -m slow      ten thousand

Every call takes arguments of a good call and replaces one to three of them by something odd. What one means by it may
be fine (a list where a tensor was) or hopeless (a dict); both are drawn, since the first must not fail either.
"""

import collections
import os
import random
import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

import hbll_seq as hs

SHORT, LONG = 300, 10_000
AUGMENT = hs.audio.Augment(speed=0.1, colour=1.0, noise=(5, 30), bands=1, steps=2)
N, T = 3, 8


class Foreign:
    """Like a pandas object: numbers only by `__array__`."""

    def __init__(self, array):
        self.array = np.asarray(array)

    def __array__(self, dtype=None, copy=None):
        return self.array if dtype is None else self.array.astype(dtype)


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no numbers here")


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def quietly(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def numbers_like(g):
    """A tensor of numbers of a random shape and dtype."""
    shape = g.choice(
        [(), (0,), (1,), (N,), (T,), (N, T), (T, N), (N, T, 2), (N, 2, T), (N, T, 1), (N, 0), (N, T, 2, 1)]
    )
    kind = g.choice(["uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64", "bool"])
    value = g.choice([0, 1, 2, -1, 5, -100, 1e3, 1e15, 1e20, float("nan"), float("inf")])
    if kind in ("uint8", "int8", "int16", "int32", "int64", "bool"):
        value = int(value) % 200 - 100 if np.isfinite(value) else 3
        return (torch.zeros(shape, dtype=torch.int64) + value).to(getattr(torch, kind))
    return (torch.rand(shape) if g.random() < 0.5 else torch.full(shape, value)).to(getattr(torch, kind))


def odd_tensor(g):
    x = numbers_like(g)
    y = x if x.ndim else x[None]
    f = y.float()
    return g.choice(
        [
            lambda: x,
            lambda: x.numpy() if x.dtype != torch.bfloat16 else x,
            lambda: x.tolist(),
            lambda: f.to_sparse(),
            lambda: quietly(lambda: torch.nested.nested_tensor([torch.rand(3, 2), torch.rand(5, 2)])),
            lambda: torch.rand(3, 5, 2, device="meta"),
            lambda: torch.complex(f, f),
            lambda: torch.complex(f, f).conj().imag,
            lambda: quietly(lambda: torch.quantize_per_tensor(f, 0.1, 0, torch.qint8)),
            lambda: quietly(lambda: torch.masked.masked_tensor(f, f > 0.5)),
            lambda: f.to(torch.float8_e4m3fn),
            lambda: np.ma.masked_greater(f.numpy(), 0.5),
            lambda: np.ma.masked_array(f.numpy()),
            lambda: [1.0, np.ma.masked, 2.0],
            lambda: f.numpy().astype(object),
            lambda: f.numpy().astype(">f4"),
            lambda: f.numpy()[::-1],
            lambda: np.zeros((N, T), dtype=g.choice(["datetime64[s]", "timedelta64[s]"])),
            lambda: np.zeros(N, dtype=[("a", "f4"), ("b", "i4")]),
            lambda: np.full((N, T), 2**63, dtype=np.uint64),
            lambda: np.longdouble(1.5) * np.ones((N, T)),
            lambda: np.array(["a", "b", "c"]),
            lambda: Foreign(f.numpy()),
            lambda: f.requires_grad_(),
            lambda: torch.nn.Parameter(f),
            lambda: (x, [T, 3, 1]),
            lambda: (x, x),
            lambda: pack_sequence([torch.rand(n, 2) for n in (5, 2, 3)], enforce_sorted=False),
            lambda: pack_sequence([torch.randint(0, 4, (n,)) for n in (5, 2, 3)], enforce_sorted=False),
            lambda: [torch.rand(n, 2) for n in (5, 2, 3)],
            lambda: [torch.randint(0, 4, (n,)) for n in (5, 2, 3)],
            lambda: [torch.rand(5, 2), torch.randint(0, 4, (5,))],
            lambda: TensorDataset(torch.rand(N, T, 2), torch.tensor([0, 1, 2])),
            lambda: Items([]),
            lambda: Items([torch.rand(4, 2), (torch.rand(4, 2), 1)]),
            lambda: Items([(torch.rand(4, 2), 1), torch.rand(4, 2)]),
            lambda: Items([(torch.rand(4, 2), 1, 2.5)]),
            lambda: Items([{"x": torch.rand(4, 2)}]),
            lambda: DataLoader(TensorDataset(torch.rand(N, T, 2), torch.tensor([0, 1, 2])), batch_size=2, shuffle=True),
            lambda: DataLoader(TensorDataset(torch.rand(N, T, 2)), batch_size=2),
            lambda: DataLoader([{"a": torch.ones(2)}]),
        ]
    )()


def odd_scalar(g):
    return g.choice(
        [
            None, 0, 1, -1, 2, 3, 7, 2.5, -0.5, 1e-9, 1e30, 10**25, float("nan"), float("inf"), True, False, "", "a", "auto",
            "1MB", b"ab", bytearray(b"ab"), [], [1], (), (1, 2), {}, {"a": 1}, set(), object(), np.int64(3), np.float32(0.5),
            np.array([1, 2]), torch.tensor(2), torch.tensor([1.0, 2.0]), 1j, range(3), Broken(), Ellipsis, type, len, "\0",
            np.str_("a"), torch.float32, (x for x in [1, 2]), "cpu", "meta", "cuda:9",
        ]
    )  # fmt: skip


def another_form(g, value):
    """What was given, in a form that means the same."""
    if isinstance(value, torch.Tensor) and value.ndim:
        array = value.numpy()
        forms = [
            array, array.tolist(), list(value), Foreign(array), array.astype(array.dtype.newbyteorder(">")), array[::-1][::-1],
            np.ma.masked_array(array), np.asfortranarray(array), value.clone().requires_grad_(value.is_floating_point()),
            value.double() if value.is_floating_point() else value.to(g.choice([torch.uint8, torch.int16, torch.int32])),
        ]  # fmt: skip
        if value.ndim > 1 and len(value) == N:
            forms += [(value, [T] * N), (array, np.array([T] * N, dtype=np.uint16))]
        return g.choice(forms)
    if isinstance(value, int) and not isinstance(value, bool):
        return np.int64(value)
    return np.float32(value) if isinstance(value, float) else value


def odd(g):
    return odd_tensor(g) if g.random() < 0.6 else odd_scalar(g)


def models():
    """A model of every kind, small, with what fits it."""
    features = dict(input_kind="features", hidden=4)
    x, symbols = torch.rand(N, T, 2), torch.randint(0, 4, (N, T))
    labels, steps = torch.tensor([0, 1, 2]), torch.randint(0, 3, (N, T))
    front = hs.audio.Frames(4)
    return {
        "sequence": (hs.models.SequenceModel(2, 3, task="sequence", **features), x, labels),
        "step": (hs.models.SequenceModel(2, 3, task="step", cell="lstm", **features), x, steps),
        "values": (hs.models.SequenceModel(2, 2, task="step", objective="mse", **features), x, x),
        "next values": (hs.models.SequenceModel(2, 2, task="next", objective="mse", **features), x, None),
        "text": (hs.models.CharLM(4, hidden=4, symbols=list("abcd"), layers=2), symbols, None),
        "mlp": (hs.models.MLP(6, 3, hidden=4, layers=3), torch.rand(N, 6), labels),
        "gpt": (hs.models.GPT(4, context=12, hidden=4, heads=2, layers=3, symbols=list("abcd")), symbols, None),
        "sound": (hs.models.AudioClassifier(3, front, hidden=4), torch.rand(N, T, 4), labels),
        "wave": (hs.models.WaveModel(100, levels=4, hidden=4), symbols, None),
    }  # fmt: skip


RULES = ["hbll", "bptt", "tbptt", "dsf", "bp", "hbll-v1", "hbl", 3, None]


def calls(g, name, model, x, y):
    """Name, function and good arguments of every public call that fits a model."""
    wave = torch.rand(50) * 2 - 1
    train = dict(steps=1, batch_size=2, progress=False)
    every = [
        ("fit", hs.fit, dict(model=model, x=x, y=y, **train)),
        ("fit options", hs.fit, dict(model=model, x=x, y=y, lr=1e-3, clip=1.0, warmup=0, seed=0, window=4, optimizer="adam",
            weight_decay=0.0, schedule="linear", validation=0.4, validate_every=1, record_every=1, measure_cosine=None,
            checkpoint=None, checkpoint_every=1, resume=False, callbacks=(), device="cpu", ignore_index=-100, mask=None,
            rule_options={}, **train)),
        ("evaluate", hs.evaluate, dict(model=model, x=x, y=y, batch_size=2, window=None, mask=None, ignore_index=-100)),
        ("predict", hs.predict, dict(model=model, x=x, batch_size=2, probabilities=False)),
        ("gradient", hs.gradient, dict(model=model, x=x, y=y, mask=None, window=None, ignore_index=-100, seed=0)),
        ("credit", hs.credit, dict(model=model, x=x, y=y, kind="knockout", outcome=None, block_size=2)),
        ("step of training", training_step, dict(model=model, x=x, lengths=torch.full((N,), T), y=y, mask=None, clip=1.0)),
    ]  # fmt: skip
    if isinstance(model, hs.models.SequenceModel):
        one = x[:, 0]
        every += [
            ("lag_map", hs.lag_map, dict(model=model, x=x, y=y, block_size=2)),
            ("model.step", model.step, dict(x=one, state=model.step(one)[1])),
        ]
    if name == "text" or name == "gpt":
        prompt = g.choice(["ab", torch.tensor([0, 1])])
        every.append(("generate", model.generate, dict(prompt=prompt, length=2, temperature=1.0, seed=0)))
    if name == "text":
        every[-1][2].update(encode=None, decode=None)
    if name == "gpt":
        every[-1][2].update(path="full")
        every.append(("draft", hs.draft_and_verify, dict(model=model, prompt="ab", length=2, draft="first", ahead=2)))
    if name == "mlp":
        every += [
            ("anytime", hs.predict_anytime, dict(model=model, x=x, confidence=0.9, batch_size=2)),
            ("paths", hs.evaluate_paths, dict(model=model, x=x, y=y, which=None)),
            ("export", model.export, dict(path="full")),
        ]
    if name == "sound":
        every += [
            ("prepare", model.prepare, dict(waves=[wave, wave[:20]])),
            ("listen", model.listen, dict(chunk=wave, where=model.listen(wave)[1], end=False)),
            ("fit waves", hs.fit, dict(model=model, x=[wave, wave[:20], wave[:9]], y=y, **train)),
            ("predict waves", hs.predict, dict(model=model, x=[wave, wave[:20], wave[:9]])),
        ]
    if name == "wave":
        every += [
            ("wave prepare", model.prepare, dict(wave=wave)),
            ("wave generate", model.generate, dict(samples=2, prompt=wave[:5], temperature=1.0, seed=0)),
        ]
    if name == "sequence":
        every += [
            ("encode", hs.audio.mu_law_encode, dict(wave=wave, levels=16)),
            ("decode", hs.audio.mu_law_decode, dict(codes=torch.tensor([0, 3]), levels=16)),
            ("vary", hs.audio.vary, dict(waves=[wave, wave[:9]], copies=1, speed=0.1, colour=1.0, seed=0)),
            ("spec_augment", hs.audio.spec_augment, dict(x=x, lengths=torch.tensor([T, 2, 3]), bands=1, steps=2, masks=1, seed=0)),
            ("Augment", hs.audio.Augment, dict(speed=0.1, colour=1.0, noise=(5, 30), bands=2, steps=3, masks=1)),
            ("copy", AUGMENT.wave, dict(wave=wave, seed=0, epoch=1, index=2)),
            ("edit_distance", hs.audio.edit_distance, dict(reference="ab", hypothesis=[1, 2], unit="label")),
            ("error_rate", hs.audio.error_rate, dict(references=["a b", "c"], hypotheses=["a", "c"], unit="word")),
            ("write", hs.audio.write, dict(path=os.devnull, wave=wave, rate=100)),
            ("Frames", hs.audio.Frames, dict(samples=4)),
            ("LogMel", hs.audio.LogMel, dict(rate=1000, mels=5, window=32, hop=16)),
            ("MFCC", hs.audio.MFCC, dict(rate=1000, coefficients=3, mels=5, window=32, hop=16)),
        ]  # fmt: skip
    return every


def training_step(model, x, lengths, y, mask, clip, rule=None, optimizer=None, batch=None):
    family = "recurrent" if not isinstance(model, hs.Layered) else "layered"
    if rule is None:
        rule = hs.rules.make("bptt" if family == "recurrent" else "bp", family=family)
    if optimizer is None and isinstance(model, torch.nn.Module):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batch = hs.Batch(x, lengths, y, mask) if batch is None else batch
    return hs.step(model, batch, rule, optimizer, clip)


def shown(value):
    try:
        return f"{type(value).__name__} {value!r}"[:70].replace("\n", "")
    except Exception:
        return type(value).__name__


def everything(model):
    """Weights, gradients, modes and random states, to compare."""
    return (
        [p.detach().clone() for p in [*model.parameters(), *model.buffers()]],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [m.training for m in model.modules()],
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
    )


def same(a, b):
    for one, two in zip(a, b, strict=True):
        if isinstance(one, torch.Tensor):
            ok = torch.equal(one, two)
        elif isinstance(one, list) and one and isinstance(one[0], torch.Tensor | None.__class__):
            ok = all(p is q if p is None or q is None else torch.equal(p, q) for p, q in zip(one, two, strict=True))
        else:
            ok = one == two
        if not ok:
            return False
    return True


def malformed(seed):
    """One call. What came of it: "fine" or "refused", or a sentence that says what went wrong."""
    g = random.Random(seed)
    torch.manual_seed(seed)
    name, (model, x, y) = g.choice(sorted(models().items(), key=lambda one: one[0]))
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    model.train(g.random() < 0.5)
    label, call, arguments = g.choice(calls(g, name, model, x, y))
    if label in ("fit", "gradient") and g.random() < 0.4:
        arguments["rule"] = g.choice(RULES)
        if g.random() < 0.5:
            arguments[
                g.choice(["block_size", "blocksize", "sweeps", "most", "tolerance", "memory", "discount", "carry"])
            ] = odd_scalar(g)
    words = sorted(arguments)
    for word in g.sample(words, g.randint(1, min(3, len(words)))):
        if word == "progress" or (word == "model" and g.random() < 0.7):
            continue  # only how it is shown; and no model at all is refused at once
        if g.random() < 0.4:
            arguments[word] = another_form(g, arguments[word])
        elif word in (
            "steps",
            "epochs",
            "length",
            "samples",
            "copies",
            "rate",
            "window",
            "hop",
            "mels",
            "coefficients",
        ):
            arguments[word] = odd_scalar(g)
        else:
            arguments[word] = odd(g)
    said = f"seed {seed}: {label} of {name} with { {k: shown(v) for k, v in arguments.items() if k != 'model'} }"
    before = everything(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", hs.EngineWarning)
            call(**arguments)
    except hs.InputError:
        return label, "refused" if same(before, everything(model)) else f"{said}: something was left behind"
    except hs.DivergenceError:
        return label, "diverged"
    except (Exception, Warning) as error:
        return label, f"{said}: {type(error).__name__}: {error}"
    return label, "fine"


def run(seeds):
    counts, wrong = collections.Counter(), []
    for seed in seeds:
        label, came = malformed(seed)
        if came in ("fine", "refused", "diverged"):
            counts[came] += 1
            counts[f"  {label}"] += 1
        else:
            wrong.append(came)
    print("\n" + "\n".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    assert counts["refused"] > len(seeds) // 4 and counts["fine"] > len(seeds) // 10
    assert not wrong, f"{len(wrong)} of {len(seeds)} calls:\n" + "\n".join(wrong[:40])


def test_some_hundred_malformed_calls():
    run(range(SHORT))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_ten_thousand_malformed_calls(part):
    run(range(part * LONG // 10, (part + 1) * LONG // 10))
