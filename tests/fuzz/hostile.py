"""Runs hostile files in a process of its own and prints what they did: counts, and how far memory grew."""

import copy
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

import hbll_seq as hs
from hbll_seq import checkpoint as ckpt

DEEP = json.loads("[" * 60 + "]" * 60)
VALUES = (
    None, True, -1, 0, 3, 10**6, 10**9, 2**31, 10**12, 2**63, 10**30, -(10**18), 1.5, 1e308, float("nan"),
    float("inf"), "x", "", "gru", "9" * 5000, [], {}, [10**9], [10**9] * 3, {"a": 1}, [[]], DEEP,
)  # fmt: skip
FRONT = {"kind": "mfcc", "rate": 8000, "coefficients": 5, "mels": 8, "window": 32, "hop": 16}
MODELS = (
    lambda: hs.models.SequenceModel(6, 5, hidden=7, layers=2),
    lambda: hs.models.CharLM(5, hidden=6, cell="lstm", symbols=list("abcde")),
    lambda: hs.models.AudioClassifier(3, FRONT, hidden=6),
    lambda: hs.models.WaveModel(8000, 16, hidden=6),
    lambda: hs.models.MLP((2, 3), 3, hidden=8, layers=3),
    lambda: hs.models.ViT((1, 8, 8), 3, patch=4, hidden=8, heads=2, layers=3),
    lambda: hs.models.GPT(9, context=6, hidden=8, heads=2, layers=3),
)  # fmt: skip
TEXT = torch.randint(0, 5, (120,), generator=torch.Generator().manual_seed(1))
RUN = dict(rule="hbll", steps=2, batch_size=3, window=20, progress=False)


def places(value, path=()):
    """Every place in nested lists and dictionaries, outermost first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def mutate(facts, rng):
    """One change somewhere: another value, an entry gone, or one more."""
    facts = copy.deepcopy(facts)
    path = rng.choice([p for p in places(facts) if p])
    holder = facts
    for key in path[:-1]:
        holder = holder[key]
    how = rng.randrange(4)
    if how == 0:
        del holder[path[-1]]
    elif how == 1 and isinstance(holder, dict):
        holder["more"] = rng.choice(VALUES)
    else:
        holder[path[-1]] = copy.deepcopy(rng.choice(VALUES))
    return facts


def mutate_tensors(tensors, rng):
    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    one = tensors[name]
    how = rng.randrange(6)
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors["more"] = torch.ones(3)
    elif how == 2:
        tensors[name] = one.to(rng.choice([torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.uint8]))
    elif how == 3:
        tensors[name] = one.reshape(-1, 1)
    elif how == 4:
        tensors[name] = torch.zeros(0)
    else:
        tensors[name] = one.flatten()[: max(1, one.numel() // 2)].clone()
    return tensors


def mutate_header(data, rng):
    """Shapes, types and offsets of a header that lie, in the older format, which has no checksum."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = rng.choice([k for k in header if k != "__metadata__"])
    key = rng.choice(["shape", "dtype", "data_offsets"])
    header[name][key] = rng.choice([*VALUES, [2**40, 2**40], [-1, 4], [0, 2**62], "F64", "I8", "F4", [4, 0]])
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def load(file):
    model = hs.load(file)
    tensors = ckpt.read(file)[0]  # harmless: a seed, a dropout, a time scale
    assert all(torch.equal(v, tensors[k]) for k, v in model.state_dict().items())


def resume(file):
    hs.fit(hs.models.CharLM(5, hidden=6), TEXT, checkpoint=file, resume=True, **RUN)


def cases(count, rng, folder):
    """(use, file) for `count` hostile files."""
    originals = []
    for k, make in enumerate(MODELS):
        hs.save(make(), folder / f"model{k}")
        originals.append((load, folder / f"model{k}"))
    hs.fit(hs.models.CharLM(5, hidden=6), TEXT, checkpoint=folder / "run", **RUN)
    originals += [(resume, folder / "run")] * 3
    file = folder / "hostile"
    for k in range(count):
        use, original = originals[k % len(originals)]
        tensors, facts = ckpt.read(original)
        if k % 5 == 3:
            ckpt.write(file, mutate_tensors(tensors, rng), facts)
        elif k % 5 == 4:
            save_file(tensors, file, {"format": "hbll_seq-1", "facts": json.dumps(facts)})
            file.write_bytes(mutate_header(file.read_bytes(), rng))
        elif use is resume and k % 5 == 2:
            history = json.loads(tensors["history"].numpy().tobytes())
            text = json.dumps(mutate(history, rng)).encode()
            ckpt.write(file, tensors | {"history": torch.frombuffer(bytearray(text), dtype=torch.uint8)}, facts)
        else:
            ckpt.write(file, tensors, mutate(facts, rng))
        yield use, file
    # the file of 220 bytes that took 3.3 GB
    ckpt.write(file, {}, {"class": "SequenceModel", "config": {"input_size": 5, "output_size": 5, "hidden": 16_000}})
    yield load, file


def main(count, seed):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        found, longest, start = Counter(), 0.0, None
        for use, file in cases(count, rng, Path(folder)):
            start = start or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            began = time.perf_counter()
            try:
                use(file)
                found["harmless"] += 1
            except hs.InputError as error:
                found["refused"] += 1
                if str(file) not in str(error):
                    found[f"without the file's name: {error}"] += 1
            except Exception as error:
                found[f"{use.__name__}: {type(error).__name__}: {str(error)[:200]}"] += 1
                if "--verbose" in sys.argv:
                    import traceback

                    traceback.print_exc()
            longest = max(longest, time.perf_counter() - began)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024
    print(json.dumps({"found": found, "longest": longest, "grown_mb": grown}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
