"""Folders of recordings: labels, transcripts, tables, mixed rates, what cannot be read."""

import os
import warnings

import numpy as np
import pytest
import torch
from scipy.io import wavfile

import hbll_seq as hs
from hbll_seq import audio

FROM_NAME = {"labels": lambda stem: stem.split("_")[0]}


def put(file, rate=8000, seconds=0.1):
    file.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate) * 0.5
    wavfile.write(file, rate, tone.astype(np.float32))


def test_folders_of_labels_are_read_to_any_depth_in_one_order(tmp_path):
    for name in ("yes/b.wav", "no/speaker2/a.wav", "no/speaker10/c.wav", "no/a.wav", "yes/.hidden.wav", ".git/x.wav"):
        put(tmp_path / name)
    (tmp_path / "no" / "README.txt").write_text("no sound")
    found = audio.read_folder(tmp_path, 8000)
    assert [f.relative_to(tmp_path).as_posix() for f in found.files] == [
        "no/a.wav", "no/speaker10/c.wav", "no/speaker2/a.wav", "yes/b.wav",
    ]  # fmt: skip
    waves, labels, names = found
    assert waves is found.waves and labels.tolist() == [0, 0, 0, 1] and names == ["no", "yes"]
    assert found.transcripts is None and found.problems == [] and found.rate == 8000
    flat = audio.read_folder(tmp_path / "no", 8000, labels=lambda stem: stem)
    assert flat.names == ["a", "c"] and flat.labels.tolist() == [0, 1, 0]


def test_labels_from_names_and_from_a_table(tmp_path):
    for name in ("yes_1", "no_1", "yes_2"):
        put(tmp_path / f"{name}.wav")
    _, labels, names = audio.read_folder(tmp_path, 8000, **FROM_NAME)
    assert labels.tolist() == [0, 1, 1] and names == ["no", "yes"]
    table = tmp_path / "labels.csv"
    table.write_text("file,label,who\nyes_2.wav,b,x\nno_1.wav,a,y\n")
    waves, labels, names = audio.read_folder(tmp_path, 8000, labels=table)
    assert len(waves) == 2 and labels.tolist() == [0, 1] and names == ["a", "b"]
    found = audio.read_folder(tmp_path, 8000, labels="labels.csv", columns=("file", "who"))  # in the folder
    assert found.names == ["x", "y"] and found.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "path,text\na/1.wav,one two\nb.wav,\"three, four\"\n"),
        ("t.csv", "\ufeffid;file_name;sentence\n7; b.wav ;three, four\n\n8;a/1.wav;one two\n"),
        ("t.tsv", "transcription\tfile\nthree, four\tb.wav\none two\ta/1.wav\n"),
    ],
)  # fmt: skip
def test_transcripts_from_a_table(tmp_path, name, text):
    put(tmp_path / "a" / "1.wav")
    put(tmp_path / "b.wav", seconds=0.2)
    put(tmp_path / "not_in_the_table.wav")
    (tmp_path / name).write_text(text, encoding="utf-8")
    waves, texts = audio.read_folder(tmp_path, 8000, transcripts=tmp_path / name)
    assert texts == ["one two", "three, four"] and [len(w) for w in waves] == [800, 1600]
    found = audio.read_folder(tmp_path, 8000, transcripts=lambda stem: f"it is {stem}")
    assert found.transcripts == ["it is 1", "it is b", "it is not_in_the_table"] and found.labels is None


def test_mixed_rates_become_one(tmp_path):
    for rate in (8000, 11025, 16000, 44100):
        put(tmp_path / "tone" / f"{rate}.wav", rate, seconds=1)
    waves, _, _ = audio.read_folder(tmp_path, 8000)
    tone = torch.sin(2 * torch.pi * 440 * torch.arange(8000) / 8000) * 0.5
    for one in waves:
        torch.testing.assert_close(one[100:-100], tone[100:-100], rtol=0, atol=0.01)


def test_one_bad_sound_among_many_is_reported_and_not_fatal(tmp_path):
    for i in range(5):
        put(tmp_path / f"a_{i}.wav")
    put(tmp_path / "b_0.wav")
    (tmp_path / "a_2.wav").write_text("no sound")
    wavfile.write(tmp_path / "b_0.wav", 8000, np.zeros(0, np.int16))
    with pytest.warns(UserWarning, match="(?s)2 unreadable sounds left out.*a_2.wav.*b_0.wav: no samples") as told:
        found = audio.read_folder(tmp_path, 8000, **FROM_NAME)
    assert told[0].filename == __file__
    assert [file.stem for file in found.files] == ["a_0", "a_1", "a_3", "a_4"]
    assert found.names == ["a", "b"] and found.labels.tolist() == [0] * 4  # labels do not depend on what can be read
    assert [os.path.basename(file) for file, _ in found.problems] == ["a_2.wav", "b_0.wav"]
    assert found.problems[1].reason == "no samples"
    with pytest.raises(hs.InputError, match="(?s)2 unreadable sounds.*a_2.wav.*b_0.wav: no samples"):
        audio.read_folder(tmp_path, 8000, strict=True, **FROM_NAME)
    for i in (0, 1, 3, 4):
        (tmp_path / f"a_{i}.wav").write_text("no sound either")
    with pytest.raises(hs.InputError, match="6 unreadable sounds"):
        audio.read_folder(tmp_path, 8000, **FROM_NAME)


def test_rows_of_a_table_without_a_sound_are_problems(tmp_path):
    put(tmp_path / "a.wav")
    put(tmp_path / "b.wav")
    (tmp_path / "t.csv").write_text("path,text\na.wav,one\ngone.wav,two\nb.wav,\n,three\na.wav,four\nb.wav\n")
    with pytest.warns(UserWarning, match="5 unreadable sounds"):
        found = audio.read_folder(tmp_path, 8000, transcripts="t.csv")
    assert found.transcripts == ["one"] and [reason for _, reason in found.problems] == [
        "no such file", "row 4 of the table has no transcript", "row 5 of the table has no file",
        "row 6 of the table names it again", "row 7 of the table has no transcript",
    ]  # fmt: skip
    with pytest.raises(hs.InputError, match="(?s)5 unreadable sounds.*gone.wav: no such file"):
        audio.read_folder(tmp_path, 8000, transcripts="t.csv", strict=True)


def test_many_problems_are_not_all_in_the_message(tmp_path):
    put(tmp_path / "good.wav")
    for i in range(30):
        (tmp_path / f"bad{i:02}.wav").write_text("no sound")
    with pytest.warns(UserWarning, match="(?s)30 unreadable.*bad19.*and 10 more"):
        found = audio.read_folder(tmp_path, 8000, labels=lambda stem: "a")
    assert len(found.problems) == 30 and len(found.waves) == 1


def test_a_bar_counts_the_files_of_a_large_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hbll_seq.audio.folder.BAR_FROM", 3)
    for i in range(3):
        put(tmp_path / f"a{i}.wav")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio.read_folder(tmp_path, 8000, labels=lambda stem: "a")
    assert "3/3" in capsys.readouterr().out
    audio.read_folder(tmp_path, 8000, labels=lambda stem: "a", progress=False)
    assert capsys.readouterr().out == ""


def test_what_is_refused(tmp_path):
    put(tmp_path / "a.wav")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes(b"path,text\na.wav,\xe9\n")
    (tmp_path / "names.csv").write_text("name,label\na.wav,x\n")
    (tmp_path / "only.csv").write_text("path,label\n")
    for options, match in (
        ({}, "a folder of sound files for each label, or labels="),
        ({"labels": "gone.csv"}, "labels: got gone.csv .no such file.; expected 'folders', a function, or a CSV file"),
        ({"labels": "names.csv"}, r"with columns \['name', 'label'\]; expected columns 'path' or 'file' or .*or columns="),
        ({"transcripts": "names.csv"}, "columns .* and 'text' or 'transcript'"),
        ({"transcripts": "empty.csv"}, r"with columns \[\]"),
        ({"transcripts": "latin.csv"}, "a CSV file in UTF-8"),
        ({"labels": "only.csv"}, "no sound file with a label"),
        ({"labels": "names.csv", "columns": "name"}, "columns: got 'name'"),
        ({"labels": len, "columns": ("a", "b")}, "columns: got .* expected None without a table"),
        ({"labels": len}, "labels: got a function that returns 1"),
        ({"labels": "names.csv", "transcripts": "names.csv"}, "given beside labels"),
        ({"transcripts": 3}, "transcripts: got 3"),
        ({"on_error": "skip"}, "on_error: got 'skip'; expected strict=True for on_error='raise'; 'skip' is the default"),
        ({"bogus": 1}, "bogus: got 1; expected no such argument"),
        ({"strict": 1}, "strict: got 1"),
    ):  # fmt: skip
        with pytest.raises(hs.InputError, match=match):
            audio.read_folder(tmp_path, 8000, **options)
    for path in (tmp_path / "absent", 3):
        with pytest.raises(hs.InputError, match="a folder of sound files"):
            audio.read_folder(path, 8000)


def test_a_file_without_permission_is_a_problem(tmp_path, monkeypatch):
    put(tmp_path / "a.wav")

    def denied(file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hbll_seq.audio.files.check_whole", denied)  # root may read every file
    with pytest.raises(hs.InputError, match="a.wav .Permission denied."):
        audio.read(tmp_path / "a.wav")


def test_a_text_with_commas_and_no_quotes_is_not_cut(tmp_path):
    for name in "ab":
        hs.audio.write(tmp_path / f"{name}.wav", torch.full((80,), 0.1), 8000)
    (tmp_path / "t.csv").write_text('path,text\na.wav,well, yes\nb.wav,"well, yes",\n')
    with pytest.warns(UserWarning, match="row 2 of the table has 3 cells, not 2"):
        found = hs.audio.read_folder(tmp_path, 8000, transcripts="t.csv")
    assert found.transcripts == ["well, yes"] and len(found.problems) == 1
