"""What a transcriber refuses, before any training starts: every message names the utterance or the argument."""

import numpy as np
import pytest
import torch

import hbll_seq as hs
from hbll_seq.audio import Frames, LogMel

MEL = LogMel(8000, 12, 32, 16)
SOUND = torch.sin(torch.arange(4000) / 5)


def model(**options):
    return hs.models.Transcriber("abc", MEL, hidden=8, **options)


@pytest.mark.parametrize("waves, transcripts, words", [
    ([SOUND, SOUND], ["ab", ""], ["y[1]", "empty transcript"]),
    ([SOUND, SOUND], ["ab", "axb"], ["y[1]", "'x' at 1", "abc"]),
    ([SOUND, SOUND], ["ab", [0, 3]], ["y[1]", "position 3", "0..2"]),
    ([SOUND, SOUND], ["ab", [0.5]], ["y[1]", "0.5 at 0"]),
    ([SOUND, SOUND], ["ab", None], ["y[1]", "NoneType"]),
    ([SOUND, SOUND], ["ab", "abc" * 8], ["y[1]", "24 labels", "4000 samples", "16"]),
    ([SOUND, SOUND], ["ab", "aaaaaaaaa"], ["y[1]", "9 labels, which need 17 outputs"]),
    ([SOUND, torch.zeros(4000)], ["ab", "b"], ["waves[1]", "silence"]),
    ([SOUND, torch.ones(1)], ["ab", "bc"], ["y[1]", "1 samples", "which give 1"]),
    ([SOUND, torch.zeros(0)], ["ab", "b"], ["waves[1]", "at least 1"]),
    ([SOUND, torch.full((40,), torch.nan)], ["ab", "b"], ["waves[1]", "not finite"]),
    ([SOUND, torch.arange(100)], ["ab", "b"], ["waves[1]", "int64"]),
    ([SOUND, "b.wav"], ["ab", "b"], ["waves[1]", "str"]),
    ([SOUND, SOUND], ["ab"], ["y", "1 transcripts", "2, one for each wave"]),
    ([SOUND, SOUND], "ab", ["y", "str", "a list of transcripts"]),
    ([SOUND, SOUND], None, ["y", "None", "transcripts"]),
    (SOUND, ["ab"], ["waves", "a list of waves"]),
    ([], [], ["waves", "none"]),
])  # fmt: skip
def test_bad_utterances_are_named_before_training(waves, transcripts, words):
    one = model()
    before = [p.clone() for p in one.parameters()]
    with pytest.raises(hs.InputError) as error:
        hs.fit(one, waves, transcripts, steps=1, progress=False)
    assert all(word in str(error.value) for word in words), error.value
    assert all(torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True))


def test_every_copy_of_an_utterance_has_room_for_its_labels():
    tight = "abc" * 5
    assert hs.evaluate(model(), [SOUND], [tight])["loss"] > 0
    with pytest.raises(hs.InputError, match=r"y\[0\].*shortest copy that augment= makes of 4000"):
        hs.fit(model(augment=hs.audio.Augment(speed=0.5)), [SOUND], [tight], steps=1, progress=False)


def test_bad_validation_data_are_named_too():
    with pytest.raises(hs.InputError, match=r"validation: y\[0\]"):
        hs.fit(model(), [SOUND], ["ab"], validation=([SOUND], [""]), steps=1, progress=False)


@pytest.mark.parametrize("options, words", [
    ({"loss": "ctc"}, ["loss", "CTC"]), ({"metrics": {"m": lambda out, y: 0}}, ["metrics", "CTC"]),
    ({"mask": np.ones((1, 2), bool)}, ["mask"]), ({"stateful": True}, ["stateful"]),
    ({"sample_weight": [1, 2]}, ["sample_weight"]), ({"window": 64}, ["window", "64", "whole"]),
    ({"ignore_index": 0}, ["ignore_index", "-100"]),
])  # fmt: skip
def test_arguments_of_fit_without_a_meaning_here(options, words):
    with pytest.raises(hs.InputError) as error:
        hs.fit(model(), [SOUND], ["ab"], steps=1, progress=False, **options)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("arguments, options, words", [
    (("", MEL), {}, ["labels"]), (("aba", MEL), {}, ["labels", "'a' twice"]), ((["a", "b c"], MEL), {}, ["labels"]),
    ((["a", 3], MEL), {}, ["labels", "3"]), (("ab", "mel"), {}, ["front"]),
    (("ab", MEL), {"cell": torch.nn.GRU(3, 4)}, ["cell"]), (("ab", MEL), {"cell": "transformer"}, ["cell"]),
    (("ab", MEL), {"conv": ((8, 3),)}, ["conv[0]", "(channels, kernel, stride)"]),
    (("ab", MEL), {"conv": ((8, 2, 3),)}, ["conv[0]", "stride 3"]), (("ab", MEL), {"conv": 8}, ["conv"]),
    (("ab", Frames(16)), {"filters": (8, 3, 4, 8)}, ["filters", "stride 8"]),
    (("ab", MEL), {"normalise": "utterance"}, ["normalise", "bidirectional=True"]),
    (("ab", MEL), {"normalise": "batch"}, ["normalise"]),
    (("ab", MEL), {"augment": hs.audio.Augment(bands=12)}, ["augment", "12"]), (("ab", MEL), {"augment": 3}, ["augment"]),
])  # fmt: skip
def test_constructor_arguments(arguments, options, words):
    with pytest.raises(hs.InputError) as error:
        hs.models.Transcriber(*arguments, **options)
    assert all(word in str(error.value) for word in words), error.value


def test_use_of_a_model():
    one = model()
    for call, word in (
        (lambda: one.transcribe([SOUND], beam_width=0), "beam_width"), (lambda: one.transcribe(SOUND), "waves"),
        (lambda: one.align([SOUND], ["a" * 50]), r"transcripts\[0\]"), (lambda: one.listen(SOUND, "here"), "where"),
        (lambda: one.listen(torch.full((3,), torch.inf)), "chunk"), (lambda: one.error_rate([SOUND], [""]), r"y\[0\]"),
    ):  # fmt: skip
        with pytest.raises(hs.InputError, match=word):
            call()
    for call, word in (
        (lambda: one.error_rate([SOUND], ["ab"], unit="letter"), "unit"),
        (lambda: one.error_rate([SOUND], ["ab", "c"]), "2 transcripts"), (lambda: one.align([SOUND], ["x"]), r"y\[0\]"),
    ):  # fmt: skip
        with pytest.MonkeyPatch.context() as patch, pytest.raises(hs.InputError, match=word):
            patch.setattr(one, "_scores", lambda *_: pytest.fail("work began"))
            call()
    assert one.transcribe([torch.zeros(500), torch.ones(1)]) is not None  # silence is no error here


def test_the_position_of_another_model_is_refused():
    one = model(layers=2)
    where = one.listen(SOUND)[1]
    for other, word in (
        (hs.models.Transcriber("abc", LogMel(8000, 12, 16, 8), hidden=8), "wait"),
        (hs.models.Transcriber("abc", LogMel(8000, 20, 32, 16), hidden=8), "encoder outputs"),
        (model(layers=2, conv=((64, 5, 2), (64, 3, 1))), "encoder outputs"), (model(layers=2, conv=()), "encoder outputs"),
        (model(layers=2, normalise=None), "running mean"), (model(), "states"), (model(layers=2, cell="lstm"), "states"),
    ):  # fmt: skip
        with pytest.raises(hs.InputError, match=f"where.*another model.*{word}"):
            other.listen(SOUND, where)
    assert len(one.listen(SOUND, where)[0].scores)


@pytest.mark.parametrize("change, word", [
    (lambda b: 3, "batch"), (lambda b: b._replace(x=b.x[:, :, :5]), "batch.x"), (lambda b: b._replace(y=b.y[0]), "batch.y"),
    (lambda b: b._replace(target_lengths=None), "target_lengths"), (lambda b: b._replace(y=b.y + 9), "batch.y"),
    (lambda b: b._replace(y=b.y * 0), "labels in 0..0"), (lambda b: b._replace(y=b.y.double()), "batch.y"),
    (lambda b: b._replace(y=b.y[:, :0]), "lengths"), (lambda b: b._replace(lengths=None), "batch.lengths"),
    (lambda b: b._replace(lengths=b.lengths + 999), "lengths"), (lambda b: b._replace(x=b.x * torch.nan), "batch.x"),
    (lambda b: b._replace(target_lengths=b.target_lengths + 1), "lengths"), (lambda b: b._replace(x=b.x[:0], y=b.y[:0]), "batch.x"),
    (lambda b: b._replace(weight=torch.ones(3)), "weight"),
])  # fmt: skip
def test_batches_of_a_loop_of_one_s_own(change, word):
    one = model()
    rule, optimizer = hs.rules.make("bptt"), torch.optim.Adam(one.parameters())
    batch = one.make_source([SOUND], ["ab"]).batch(0, 1, 0)
    assert hs.step(one, batch, rule, optimizer).updated
    with pytest.raises(hs.InputError, match=word):
        hs.step(one, change(batch), rule, optimizer)


@pytest.mark.parametrize("first", [0, 1])
def test_a_held_out_part_needs_an_utterance_of_some_weight(first):
    weights = [first, first, 1 - first, 1 - first]
    with pytest.raises(hs.InputError, match=f"sample_weight above 0 in the {('first', 'last')[first]} 2"):
        hs.fit(model(), [SOUND] * 4, ["ab"] * 4, steps=1, progress=False, validation=0.5, sample_weight=weights)
