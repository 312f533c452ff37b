"""Texts of one's own: strings, files, folders; what each part is; the standard sets from folders, archives, a server."""

import hashlib
import io
import zipfile

import pytest
import torch

from hbll_seq import datasets
from hbll_seq.datasets import Text, standard_text
from hbll_seq.datasets.download import DownloadError
from hbll_seq.datasets.standard_text import File
from hbll_seq.errors import InputError
from hbll_seq.text import BPETokenizer, ByteTokenizer

pytestmark = pytest.mark.usefixtures("own_folders")

LINES = "".join(f"line {i} of a text, naïve\n" for i in range(200))


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:280", ByteTokenizer()])
def test_three_contiguous_parts(tokenizer):
    text = datasets.text(LINES, tokenizer, valid=0.1, test=0.2)
    parts = [text.decode(part) for part in (text.train, text.valid, text.test)]
    assert "".join(parts) == LINES and len(parts[2]) == round(0.2 * len(LINES)) and len(parts[1]) == len(LINES) // 10
    assert text.train.dtype == text.tokenizer.dtype and text.vocab_size == text.tokenizer.vocab_size
    assert text.sha256 == hashlib.sha256(LINES.encode()).hexdigest()
    assert (text.symbols is None) == (tokenizer != "char")


def test_bpe_learns_from_the_training_part_alone():
    early, late = "the cat sat\n" * 60, "zyzzyva\n" * 60
    text = datasets.text(early + late, "bpe:400", valid=0.25, test=0.25)
    assert text.tokenizer.config() == BPETokenizer.train(text.decode(text.train), 400).config()
    assert len(text.test) == len(text.decode(text.test)), "nothing in the test part was merged"
    whole = Text.from_string(early + late, tokenizer=BPETokenizer.train(early + late, 400))
    assert len(whole.test) < len(text.decode(text.test)) / 3


def test_characters_are_those_of_the_whole_text():
    text = datasets.text("a" * 50 + "\n" + "b" * 49, valid=0.2, test=0.2)
    assert text.symbols == ["\n", "a", "b"] and text.decode(text.test) == "b" * 20


def test_a_file_and_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst file\r\n")
    (tmp_path / "deep" / "b.txt").write_text("second file, naïve text", encoding="utf-8")
    (tmp_path / "c.md").write_text("no text")
    text = datasets.text(tmp_path, "byte", valid=0.2, test=0)
    assert text.decode(torch.cat([text.train, text.valid])) == "first file\r\n\n\nsecond file, naïve text"
    assert not len(text.test) and text.skipped == ()
    one = datasets.text(str(tmp_path / "deep" / "b.txt"), valid=0.3, test=0.2)
    assert one.decode(one.train) == "second file" and str(tmp_path) in one.source


def test_files_that_cannot_be_read_are_reported_and_not_fatal(tmp_path):
    (tmp_path / "a.txt").write_text("a file that can be read, some of it")
    (tmp_path / "b.txt").write_bytes(b"abc\xff\xfe")
    with pytest.warns(UserWarning, match=r"1 files that utf-8 cannot read are left out:\n.*b.txt, byte 3"):
        text = datasets.text(tmp_path, valid=0.2, test=0.2)
    assert len(text.skipped) == 1 and "b.txt" in text.skipped[0]
    (tmp_path / "a.txt").unlink()
    with pytest.raises(InputError, match="no file that utf-8 can read"):
        datasets.text(tmp_path)
    with pytest.raises(InputError, match="b.txt, byte 3.*expected text in utf-8"):
        datasets.text(tmp_path / "b.txt")


@pytest.mark.parametrize(
    "options,says",
    [
        (dict(source="missing.txt"), "source: got no file or folder missing.txt"),
        (dict(source=5), "source: got int"),
        (dict(source="short\n"), "a text of 6 characters"),
        (dict(valid=0), "valid, test"),
        (dict(valid=0.6, test=0.4), "valid, test"),
        (dict(valid=1.5), "valid: got 1.5; expected a number from 0 to 1"),
        (dict(tokenizer="bpe:10"), "vocab_size: got 10"),
        (dict(tokenizer="syllable"), "tokenizer: got 'syllable'"),
    ],
)
def test_what_is_no_text_is_named(options, says):
    with pytest.raises(InputError, match=says):
        datasets.text(**{"source": LINES, **options})
    with pytest.raises(InputError, match="encoding"):
        datasets.text(__file__, encoding="no-such-thing")


def test_the_sets_of_this_machine_by_tokenizer():
    text = datasets.load("pydoc", tokenizer="bpe:300")
    chars = datasets.load("pydoc")
    assert text.sha256 == chars.sha256 and text.decode(text.valid) == chars.decode(chars.valid)
    assert "symbols (bpe)" in repr(text) and len(text.valid) < len(chars.valid)
    bits = text.bits_per_character()
    assert bits["xz"] == chars.bits_per_character()["xz"] and bits["unigram"] < chars.bits_per_character()["unigram"]


def test_a_standard_set_from_its_folder(tmp_path, monkeypatch):
    for part in ("train", "valid", "test"):
        (tmp_path / f"ptb.{part}.txt").write_text(f" the <unk> of {part} \n" * 3)
    text = datasets.load("penntreebank", path=tmp_path)
    assert text.decode(text.valid).startswith(" the <unk> of valid") and "Penn" in text.source
    monkeypatch.setenv("HBLL_SEQ_DATA", str(tmp_path.parent))
    tmp_path.rename(tmp_path.parent / "penntreebank")
    assert datasets.load("penntreebank", tokenizer="byte").test.dtype == torch.uint8
    (tmp_path.parent / "penntreebank" / "ptb.test.txt").unlink()
    with pytest.raises(InputError, match="without ptb.test.txt"):
        datasets.load("penntreebank")


def test_a_set_without_a_known_checksum_is_not_downloaded():
    with pytest.raises(InputError, match="no checksum of Penn Treebank is known here.*ptb.train.txt.*path="):
        datasets.load("penntreebank", download=True)


def archive(**members):
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as made:
        for name, text in members.items():
            made.writestr(f"folder/{name.replace('_', '.')}", text)
    return found.getvalue()


def test_wikitext_is_fetched_checked_and_read_from_the_archive(serve, monkeypatch):
    body = archive(wiki_train_tokens="= train =\n" * 5, wiki_valid_tokens="valid\n", wiki_test_tokens="test\n")
    server = serve(body)
    sha = hashlib.sha256(body).hexdigest()
    one = standard_text.STANDARD["wikitext2"]
    with pytest.raises(DownloadError, match="expected 92675f1d"):
        datasets.load("wikitext2", download=True)
    known = one._replace(files=(File("https://example.org/wikitext-2-v1.zip", sha),))
    monkeypatch.setitem(standard_text.STANDARD, "wikitext2", known)
    with pytest.raises(InputError, match=r"no earlier download.*download=True.*wikitext-2-v1.zip"):
        datasets.load("wikitext2")
    asked = len(server.asked)
    text = datasets.load("wikitext2", download=True, tokenizer="char")
    assert text.decode(text.train) == "= train =\n" * 5 and text.decode(text.test) == "test\n"
    assert datasets.load("wikitext2").train.dtype == torch.uint8 and len(server.asked) == asked + 1


def test_one_file_is_split_at_its_usual_bytes_and_no_character_is_cut(tmp_path, monkeypatch):
    one = standard_text.STANDARD["enwik8"]._replace(ends=(10, 15))
    monkeypatch.setitem(standard_text.STANDARD, "enwik8", one)
    (tmp_path / "enwik8").write_text("abcdefghié0123456789", encoding="utf-8")  # byte 10 is inside é
    for path in (tmp_path, tmp_path / "enwik8"):
        text = datasets.load("enwik8", path=path)
        assert [text.decode(p) for p in (text.train, text.valid, text.test)] == ["abcdefghi", "é0123", "456789"]
    (tmp_path / "enwik8").write_text("short")
    with pytest.raises(InputError, match="a file of 5 bytes; expected more than 15"):
        datasets.load("enwik8", path=tmp_path)
    with pytest.raises(InputError, match="no folder"):
        datasets.load("enwik8", path=tmp_path / "absent")


def test_two_files_need_both(serve, monkeypatch, tmp_path):
    body = b"Once upon a time there was a model.\n" * 3
    serve(body)
    files = tuple(
        File(f"https://example.org/TinyStories-{part}.txt", hashlib.sha256(body).hexdigest(), len(body))
        for part in ("train", "valid")
    )
    one = standard_text.STANDARD["tinystories"]._replace(files=files)
    monkeypatch.setitem(standard_text.STANDARD, "tinystories", one)
    text = datasets.load("tinystories", download=True)
    assert text.decode(text.train) == text.decode(text.valid) == body.decode() and not len(text.test)
    assert torch.equal(datasets.load("tinystories").valid, text.valid)


def test_a_line_or_pattern_that_names_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="source: got no file or folder word word"):
        datasets.text("word " * 60)  # longer than a name may be, shorter than a text of one line
    (tmp_path / "a.txt").write_text(LINES, encoding="utf-8")
    for pattern in ("../**.txt[", "", "/a*"):
        with pytest.raises(InputError, match="^(pattern|source): got"):
            datasets.text(tmp_path, pattern=pattern)
    with pytest.raises(InputError, match="encoding: got None"):
        datasets.text(tmp_path, encoding=None)


def test_a_text_without_a_validation_part_has_no_bits_of_it():
    with pytest.raises(InputError, match="valid: got no symbols"):
        Text.from_parts("a text to train on", "").bits_per_character()


@pytest.mark.parametrize("pattern", ["../*", "a/../../*.txt", "..", "*/.."])
def test_a_pattern_does_not_leave_the_folder(tmp_path, pattern):
    inside = tmp_path / "inside"
    inside.mkdir()
    for folder, name in ((tmp_path, "a.txt"), (inside, "b..txt")):
        (folder / name).write_text(f"{name}: a text of two lines, long enough\n" * 3)
    with pytest.raises(InputError, match="pattern: got .*leaves the folder"):
        datasets.text(inside, pattern=pattern)
    found = datasets.text(inside, pattern="b..*")  # dots in a name are no way out
    assert found.decode(found.train).startswith("b..txt")
