"""Data sets: the answers are recomputed another way, the downloads are broken on purpose."""

import gzip
import hashlib
import io
import math
import os
import tarfile
import urllib.error
import wave
from collections import Counter
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbll_seq import datasets
from hbll_seq.datasets import DownloadError, Text, shakespeare, speech_commands, synthetic
from hbll_seq.datasets.download import fetch
from hbll_seq.datasets.python_text import ascii_only
from hbll_seq.errors import InputError

DATA = Path(os.environ.get("HBLL_SEQ_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """No test sees the machine's data or cache unless it asks."""
    monkeypatch.delenv("HBLL_SEQ_DATA", raising=False)
    monkeypatch.setenv("HBLL_SEQ_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(request, monkeypatch):
    """HBLL_SEQ_DATA set, or a skip where the named set is absent."""
    if not (DATA / request.param).is_dir():
        pytest.skip(f"no {request.param} under {DATA}: set HBLL_SEQ_DATA")
    monkeypatch.setenv("HBLL_SEQ_DATA", str(DATA))


def on(name):
    return pytest.mark.parametrize("data", [name], indirect=True)


# Names and options


def test_names_are_sorted_and_errors_list_them():
    assert list(datasets.names()) == sorted(datasets.names())
    with pytest.raises(InputError, match="'wikitext'; expected one of adding, copy, .*tinyshakespeare"):
        datasets.load("wikitext")
    with pytest.raises(InputError, match="stepz: .*expected one of steps, symbols, n, seed"):
        datasets.load("recall", stepz=3)


# Text


def test_pydoc_is_whole_ascii_and_decodes_back():
    from pydoc_data.topics import topics

    text = datasets.load("pydoc")
    whole = torch.cat([text.train, text.valid, text.test])
    assert whole.dtype == torch.int64 and int(whole.max()) < text.vocab_size
    back = text.decode(whole)
    assert back.isascii() and hashlib.sha256(back.encode()).hexdigest() == text.sha256
    assert back.startswith(ascii_only(topics[min(topics)])) and back.endswith(ascii_only(topics[max(topics)]))
    assert len(text.train) == len(back) * 90 // 100 and abs(len(text.valid) - len(text.test)) <= 1
    assert "CPython" in text.source and text.sha256 == datasets.load("pydoc").sha256
    assert torch.equal(text.encode(back[:500]), text.train[:500])


def test_bits_per_character_of_pydoc():
    text = datasets.load("pydoc")
    bits = text.bits_per_character()
    counts, held_out = Counter(text.train.tolist()), text.valid.tolist()
    total = len(text.train) + text.vocab_size
    unigram = sum(-math.log2((counts[c] + 1) / total) for c in held_out) / len(held_out)
    assert bits["unigram"] == pytest.approx(unigram, abs=1e-9)
    # Having read `train` helps, and helps xz (8 MiB of memory) more than gzip (32 kB).
    assert bits["xz"] < bits["xz_alone"] and bits["gzip"] < bits["gzip_alone"]
    assert 1 < bits["xz"] < bits["gzip"] < bits["unigram"] < math.log2(text.vocab_size)


def test_stdlib_is_limited_and_repeatable():
    text = datasets.load("stdlib", limit_characters=50_000)
    assert len(text.train) + len(text.valid) + len(text.test) == 50_000
    assert text.sha256 == datasets.load("stdlib", limit_characters=50_000).sha256
    longer = datasets.load("stdlib", limit_characters=100_000)
    assert longer.decode(longer.train[:40_000]) == text.decode(text.train[:40_000])
    with pytest.raises(InputError, match="limit_characters"):
        datasets.load("stdlib", limit_characters=10)


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=20, max_size=200))
def test_any_text_encodes_and_decodes(string):
    text = Text.from_string(string)
    assert text.symbols == sorted(set(string))
    assert text.decode(text.encode(string)) == string
    assert text.decode(torch.cat([text.train, text.valid, text.test])) == string


def test_text_refuses_what_it_cannot_use():
    text = Text.from_string("abcd" * 10)
    with pytest.raises(InputError, match="'z' at character 2; expected one of the 4 symbols"):
        text.encode("abz")
    with pytest.raises(InputError, match="symbol numbers 0 .. 3"):
        text.decode(torch.tensor([0, 4]))
    with pytest.raises(InputError, match="integers of shape"):
        text.decode(torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(InputError, match="at least 20"):
        Text.from_string("short")
    with pytest.raises(InputError, match="train_end"):
        Text.from_string("abcd" * 10, train_end=50)
    assert text.decode(torch.empty(0, dtype=torch.int64)) == "" and text.encode("").shape == (0,)


def test_ascii_only_spells_out():
    assert ascii_only("“Straße” – café… 3°") == '"Strasse" - cafe... 3?'


@on("tinyshakespeare")
def test_tinyshakespeare_from_the_data_folder(data):
    text = datasets.load("tinyshakespeare")
    assert text.sha256 == shakespeare.SHA256 and text.vocab_size == 65
    assert (len(text.train), len(text.valid), len(text.test)) == (1_000_000, 115_394, 0)
    folder = DATA / "tinyshakespeare"
    assert datasets.load("tinyshakespeare", path=folder).sha256 == text.sha256
    assert datasets.load("tinyshakespeare", path=folder / "input.txt").sha256 == text.sha256


def test_tinyshakespeare_missing_or_short(tmp_path):
    with pytest.raises(InputError, match="HBLL_SEQ_DATA not set.*download=True.*raw.githubusercontent"):
        datasets.load("tinyshakespeare")
    with pytest.raises(InputError, match="no file"):
        datasets.load("tinyshakespeare", path=tmp_path / "absent.txt", download=True)
    (tmp_path / "input.txt").write_text("too short")
    with pytest.raises(InputError, match="9 characters .*more than 1,000,000"):
        datasets.load("tinyshakespeare", path=tmp_path)


# Downloads, from a server that can be told to misbehave


class Server:
    """Stands in for `urlopen`: honours Range, and can cut a transfer or ignore or refuse a Range."""

    def __init__(self, body, cut=None, ranges=True):
        self.body, self.cut, self.ranges, self.asked = body, cut, ranges, []

    def __call__(self, request, timeout):
        start = int(request.get_header("Range", "bytes=0-")[6:-1])
        self.asked.append(start)
        if start and self.ranges and start >= len(self.body):
            raise urllib.error.HTTPError(request.full_url, 416, "Range Not Satisfiable", Message(), None)
        start = start if self.ranges else 0
        response = io.BytesIO(self.body[start : self.cut])
        response.status = 206 if start else 200
        response.headers = {"Content-Length": str(len(self.body) - start)}
        return response


@pytest.fixture
def serve(monkeypatch):
    def install(*args, **options):
        server = Server(*args, **options)
        monkeypatch.setattr("urllib.request.urlopen", server)
        return server

    return install


BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()
URL = "https://example.org/file"


def test_download_is_whole_cached_and_leaves_no_part(serve, tmp_path):
    server, target = serve(BODY), tmp_path / "new" / "file"
    assert fetch(URL, SHA, target).read_bytes() == BODY
    assert os.listdir(target.parent) == ["file"]
    fetch(URL, SHA, target)
    assert server.asked == [0]
    target.write_bytes(b"damaged later")
    assert fetch(URL, SHA, target).read_bytes() == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_resumes(serve, tmp_path, ranges):
    target = tmp_path / "file"
    serve(BODY, cut=100_000)
    with pytest.raises(DownloadError, match="(?s)156,000 bytes early.*100,000 bytes .*kept.*curl -fL"):
        fetch(URL, SHA, target)
    assert os.listdir(tmp_path) == ["file.part"]
    server = serve(BODY, ranges=ranges)
    assert fetch(URL, SHA, target).read_bytes() == BODY
    assert server.asked == [100_000] and os.listdir(tmp_path) == ["file"]


def test_part_that_is_whole_or_too_long(serve, tmp_path):
    server, target = serve(BODY), tmp_path / "file"
    (tmp_path / "file.part").write_bytes(BODY)  # stopped just before the rename
    assert fetch(URL, SHA, target).read_bytes() == BODY and server.asked == []
    target.unlink()
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    assert fetch(URL, SHA, target).read_bytes() == BODY and server.asked == [len(BODY) + 4, 0]


def test_wrong_checksum_leaves_nothing(serve, tmp_path):
    serve(b"<html>log in to the wifi</html>")
    with pytest.raises(DownloadError, match=f"expected {SHA}; it was removed"):
        fetch(URL, SHA, tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_offline_says_what_to_do(monkeypatch, tmp_path):
    def offline(request, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DownloadError, match="(?s)service not known.*Check the connection.*curl -fL https"):
        datasets.load("tinyshakespeare", download=True)


def test_tinyshakespeare_download_then_cache(serve, monkeypatch):
    body = b"To be, or not to be: that is the question.\n" * 25_000
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(body).hexdigest())
    monkeypatch.setattr(shakespeare, "SIZE", len(body))
    server = serve(body)
    assert len(datasets.load("tinyshakespeare", download=True).train) == 1_000_000
    datasets.load("tinyshakespeare")
    assert server.asked == [0]


# Synthetic tasks


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 12), st.integers(0, 99))
def test_recall_and_parity_answers(batch, steps, symbols, seed):
    for distractors, shift in (("own", symbols), ("same", 0)):
        x, y = synthetic.recall(batch, steps, symbols, seeded(seed), distractors)
        assert x.shape == (batch, steps) and 0 <= int(x[:, 0].min()) <= int(x[:, 0].max()) < symbols
        assert all(shift <= s < shift + symbols for row in x[:, 1:].tolist() for s in row)
        assert y.tolist() == [row[0] for row in x.tolist()]
    x, y = synthetic.parity(batch, steps, seeded(seed))
    for bits, running in zip(x.tolist(), y.tolist(), strict=True):
        assert running == [bits[: t + 1].count(1) % 2 for t in range(steps)]
    again, last = synthetic.parity(batch, steps, seeded(seed), per_step=False)
    assert torch.equal(again, x) and last.tolist() == y[:, -1].tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(2, 40), st.integers(0, 99))
def test_adding_answer_and_cause(batch, steps, seed):
    sequences = datasets.load("adding", n=batch, steps=steps, seed=seed)
    assert sequences.x.shape == (batch, steps, 2) and sequences.y.shape == (batch, 1)
    for row, answer, cause in zip(sequences.x.numpy(), sequences.y[:, 0], sequences.cause, strict=True):
        first, second = np.flatnonzero(row[:, 1])
        assert first < steps // 2 <= second and set(row[:, 1]) <= {0.0, 1.0}
        assert [first, second] == cause.tolist()
        assert float(answer) == pytest.approx(row[first, 0] + row[second, 0], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 20), st.integers(2, 9), st.integers(0, 99))
def test_copy_answer_and_cause(batch, length, extra, symbols, seed):
    steps = 2 * length + extra
    s = datasets.load("copy", n=batch, steps=steps, length=length, symbols=symbols, seed=seed)
    for x, y, cause in zip(s.x.tolist(), s.y.tolist(), s.cause.tolist(), strict=True):
        assert x.index(symbols + 1) == steps - length - 1 and x.count(symbols + 1) == 1
        assert x.count(symbols) == steps - length - 1 and max(x[:length]) < symbols
        assert y == [-100] * (steps - length) + [x[c] for c in cause]
    assert (s.input_size, s.classes, s.task) == (symbols + 2, symbols, "step")


@pytest.mark.parametrize("name", ["recall", "adding", "copy", "parity"])
def test_sets_are_repeatable_and_leave_the_global_generator(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (datasets.load(name, n=64, steps=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.x, two.x) and torch.equal(one.y, two.y) and not torch.equal(one.x, other.x)
    train, valid = one.split(10)
    assert len(train) == 54 and len(valid) == 10 and len(valid.cause) == 10
    assert torch.equal(torch.cat([train.x, valid.x]), one.x) and train.task == one.task
    with pytest.raises(InputError, match="n_valid: got 64"):
        one.split(64)


def test_sets_say_what_they_are():
    recall, parity = datasets.load("recall", n=4), datasets.load("parity", n=4, per_step=False)
    assert recall.cause.tolist() == [0] * 4 and recall.lengths is None and recall.task == "sequence"
    assert parity.task == "sequence" and parity.y.shape == (4,) and parity.cause.shape == (4, 128)
    assert datasets.load("adding", n=4).loss == "mse"
    with pytest.raises(InputError, match="steps: got 16; expected an int of at least 17"):
        datasets.load("copy", steps=16)
    with pytest.raises(InputError, match="symbols: got 1"):
        datasets.load("recall", symbols=1)


# Images and sound


@pytest.mark.parametrize("name, file", [("mnist10k", "t10k-images-idx3-ubyte.gz"), ("fsdd", "7_jackson_32.wav")])
def test_missing_files_are_named(name, file, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"HBLL_SEQ_DATA not set; expected .*{file}.*HBLL_SEQ_DATA/{name}"):
        datasets.load(name)
    monkeypatch.setenv("HBLL_SEQ_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"no folder .*{name}"):
        datasets.load(name)
    with pytest.raises(InputError, match=f"{file}.*path="):
        datasets.load(name, path=tmp_path)


@on("mnist10k")
def test_mnist10k_pixels_and_permutation(data):
    plain = datasets.load("mnist10k")
    assert plain.train_x.shape == (8000, 784, 1) and plain.test_x.shape == (2000, 784, 1)
    assert plain.train_x.dtype == torch.float32 and float(plain.train_x.min()) == 0
    assert float(plain.train_x.max()) == 1 and plain.order is None and plain.train_lengths is None
    assert plain.train_y[:5].tolist() == [7, 2, 1, 0, 4]  # the well-known first test digits
    assert set(plain.test_y.tolist()) == set(range(10)) and plain.input_size == 1
    shuffled = datasets.load("mnist10k", permuted=True, seed=3)
    assert sorted(shuffled.order.tolist()) == list(range(784))
    assert torch.equal(shuffled.test_x, plain.test_x[:, shuffled.order])


def test_mnist10k_refuses_other_files(tmp_path):
    for file in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / file).write_bytes(gzip.compress(b"\0\0\x08\x01" + b"\0" * 40))
    with pytest.raises(InputError, match="IDX uint8 of shape"):
        datasets.load("mnist10k", path=tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(InputError, match="a whole gzip file"):
        datasets.load("mnist10k", path=tmp_path)


def write_wave(file, samples, rate=8000):
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def voices(tmp_path):
    """Two speakers, two digits, takes 0 and 5; 10 samples each, one silent recording."""
    for speaker in ("ann", "bob"):
        for digit in (0, 1):
            for take in (0, 5):
                write_wave(tmp_path / f"{digit}_{speaker}_{take}.wav", (digit + 1) * np.arange(-4, 6) * 100)
    write_wave(tmp_path / "0_ann_0.wav", np.zeros(10))
    return tmp_path


def test_fsdd_waves_lengths_and_splits(voices):
    by_speaker = datasets.load("fsdd", path=voices, held_out="bob", steps=4, samples_per_step=4)
    assert by_speaker.test_y.tolist() == [0, 1, 0, 1] and by_speaker.test_x.shape == (4, 4, 4)
    assert by_speaker.test_lengths.tolist() == [3] * 4  # 10 samples, 4 a step
    wanted = torch.cat([torch.arange(-4, 6) / 5, torch.zeros(6)])
    torch.testing.assert_close(by_speaker.test_x[1].flatten(), wanted)
    assert not by_speaker.train_x[0].any()  # silence stays silent, and finite
    official = datasets.load("fsdd", path=voices, held_out=None, steps=2, samples_per_step=3, normalise="rms")
    assert len(official.test_y) == 4 and len(official.train_y) == 4
    assert official.train_lengths.tolist() == [2] * 4
    torch.testing.assert_close(official.train_x.pow(2).mean((1, 2)), torch.ones(4))


def test_fsdd_refuses(voices):
    with pytest.raises(InputError, match="'eve'; expected None or one of ann, bob"):
        datasets.load("fsdd", path=voices, held_out="eve")
    with pytest.raises(InputError, match="steps: got 0"):
        datasets.load("fsdd", path=voices, steps=0)
    with pytest.raises(InputError, match="'peak' or 'rms'"):
        datasets.load("fsdd", path=voices, normalise="max")
    write_wave(voices / "3_bob_1.wav", [1, 2], rate=16000)
    with pytest.raises(InputError, match="3_bob_1.wav: 16000 Hz"):
        datasets.load("fsdd", path=voices, held_out="ann")
    (voices / "3_bob_1.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match="3_bob_1.wav .*PCM WAV"):
        datasets.load("fsdd", path=voices, held_out="ann")


@on("fsdd")
def test_fsdd_as_recorded(data):
    d = datasets.load("fsdd")
    assert d.train_x.shape[1:] == d.test_x.shape[1:] == (512, 8) and d.classes == 10
    assert Counter(d.test_y.tolist()) == dict.fromkeys(range(10), 50)
    assert float(d.train_x.abs().max()) == 1 and int(d.train_lengths.max()) == 512
    after = torch.arange(512) >= d.train_lengths[:, None]  # (n, T)
    assert not d.train_x[after].any()
    official = datasets.load("fsdd", held_out=None, steps=64)
    assert len(official.test_y) == 200 and len(official.train_y) == 1800


# Speech: folds by speaker, strings of digits, words


def test_fsdd_with_every_speaker_held_out_in_turn(voices):
    folds = datasets.load("fsdd", path=voices, split="leave-one-speaker-out", steps=4, samples_per_step=4)
    assert sorted(folds) == ["ann", "bob"]
    for speaker, fold in folds.items():
        alone = datasets.load("fsdd", path=voices, held_out=speaker, steps=4, samples_per_step=4)
        for part in ("train_x", "train_y", "train_lengths", "test_x", "test_y", "test_lengths"):
            assert torch.equal(getattr(fold, part), getattr(alone, part))
        assert speaker in fold.source
    official = datasets.load("fsdd", path=voices, split="official", steps=4, samples_per_step=4)
    assert len(official.test_y) == 4 and "takes 0-4" in official.source
    with pytest.raises(InputError, match="split: got 'random'"):
        datasets.load("fsdd", path=voices, split="random")


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(digits=st.integers(1, 3), more=st.integers(0, 500), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_digit_strings_begin_with_the_answer(voices, digits, more, width, seed):
    delay = 4096 * (digits - 1) + more
    options = dict(path=voices, digits=digits, delay=delay, samples_per_step=width, n=5, n_test=3, held_out="bob")
    data = datasets.load("digitstrings", noise=0.0, seed=seed, **options)
    again = datasets.load("digitstrings", noise=0.0, seed=seed, **options)
    assert torch.equal(data.train_x, again.train_x) and torch.equal(data.test_y, again.test_y)
    assert data.train_x.shape[2] == width and data.test_x.shape[0] == 3 and data.train_lengths is None
    whole = data.test_x.flatten(1)
    digit = torch.arange(-4, 6) * 1.0  # every recording is this, louder for digit 1, ten samples long
    torch.testing.assert_close(whole[:, :10], (0.2 * digit / digit.square().mean().sqrt()).expand(3, 10))
    assert whole[:, -100:].any(1).all()  # the question
    between = whole[:, 10 : 4096 + delay].abs() > 0
    assert (between.sum(1) <= 10 * (digits - 1) + 40 * width).all()
    assert (data.test_cause == 5 // width).all()


def test_digit_strings_refuse(voices):
    with pytest.raises(InputError, match="delay: got 9600; expected an integer >= 12288, room for 3 digits"):
        datasets.load("digitstrings", path=voices, digits=4, held_out="ann")
    with pytest.raises(InputError, match="'eve'; expected one of ann, bob"):
        datasets.load("digitstrings", path=voices, held_out="eve")
    with pytest.raises(InputError, match="noise: got nan"):
        datasets.load("digitstrings", path=voices, held_out="ann", noise=float("nan"))


@pytest.fixture
def words(tmp_path):
    """Two words of three recordings: one for training, one for validation, one for the test; and noise."""
    root = tmp_path / "words"
    for word in ("yes", "no", "_background_noise_"):
        (root / word).mkdir(parents=True)
        for i, speaker in enumerate(("aa", "bb", "cc")):
            write_wave(root / word / f"{speaker}_nohash_0.wav", np.full(20 + i, 1000), rate=16000)
    (root / "validation_list.txt").write_text("yes/bb_nohash_0.wav\nno/bb_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/cc_nohash_0.wav\nno/cc_nohash_0.wav\n")
    return root


def test_speech_commands_parts_and_lengths(words):
    data = datasets.load("speechcommands", path=words)
    assert data.names == ["no", "yes"] and data.rate == 16000
    assert [[len(w) for w in part.waves] for part in data[:3]] == [[20, 20], [21, 21], [22, 22]]
    assert all(part.labels.tolist() == [0, 1] for part in data[:3])
    slow = datasets.load("speechcommands", path=words, words=["yes"], rate=8000)
    assert slow.names == ["yes"] and len(slow.train.waves[0]) == 10
    assert "train 2, validation 2, test 2" in repr(data)


def test_speech_commands_refuse(words, tmp_path):
    with pytest.raises(InputError, match=r"words: got \['maybe'\]; expected some of no, yes"):
        datasets.load("speechcommands", path=words, words=["maybe", "no"])
    with pytest.raises(InputError, match="HBLL_SEQ_DATA not set, and no earlier download.*download=True"):
        datasets.load("speechcommands")
    (words / "no" / "dd_nohash_0.wav").write_text("no sound")
    with pytest.raises(InputError, match="(?s)1 unreadable files.*dd_nohash_0.wav"):
        datasets.load("speechcommands", path=words)
    with pytest.raises(InputError, match="validation_list.txt"):
        datasets.load("speechcommands", path=tmp_path)


def test_speech_commands_download_resumes_and_unpacks(words, serve, monkeypatch, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for file in sorted(words.rglob("*.*")):
            tar.add(file, file.relative_to(words))
    body = packed.getvalue()
    monkeypatch.setattr(speech_commands, "SHA256", hashlib.sha256(body).hexdigest())
    serve(body, cut=len(body) // 2)
    with pytest.raises(DownloadError, match="are kept, and the same call resumes"):
        datasets.load("speechcommands", download=True)
    server = serve(body)
    data = datasets.load("speechcommands", download=True)
    assert server.asked == [len(body) // 2] and len(data.train.waves) == 2
    assert len(datasets.load("speechcommands").train.waves) == 2 and len(server.asked) == 1
    assert not list(Path(os.environ["HBLL_SEQ_CACHE"]).rglob("*.gz*"))


def test_an_archive_that_reaches_outside_leaves_nothing(serve, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside.txt"), io.BytesIO(b""))
    monkeypatch.setattr(speech_commands, "SHA256", hashlib.sha256(packed.getvalue()).hexdigest())
    serve(packed.getvalue())
    with pytest.raises(DownloadError, match="could not unpack"):
        datasets.load("speechcommands", download=True)
    left = [p.name for p in Path(os.environ["HBLL_SEQ_CACHE"]).rglob("*") if p.is_file()]
    assert left == ["speech_commands_v0.02.tar.gz"]
