"""Models of sound read waves, and augment them while training: which batches, what is left alone, resumed runs."""

import pytest
import torch
from torch.utils.data import DataLoader

import hbll_seq as hs
from hbll_seq.audio import Augment

LABELS = torch.arange(7) % 2
ALL = Augment(speed=0.2, colour=0.5, noise=(5, 30), bands=3, steps=4)
TRAIN = dict(batch_size=3, progress=False)


def waves():
    return [
        torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (400, 500, 900, 100, 333, 700, 50)
    ]


def classifier(augment=None, **options):
    front = hs.audio.LogMel(2000, mels=6, window=32, hop=16)
    return hs.models.AudioClassifier(2, front, hidden=6, timescale=20.0, augment=augment, **options)


def source(model, x, y=LABELS):
    return model.make_source(x, y, mask=None, window=None, ignore_index=-100)


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_waves_train_score_and_predict_as_their_time_steps_do():
    one, two = classifier(), classifier()
    x = one.prepare(waves())
    run = hs.fit(one, waves(), LABELS, steps=4, validation=(waves(), LABELS), **TRAIN)
    other = hs.fit(two, x, LABELS, steps=4, validation=(x, LABELS), **TRAIN)
    assert same(one, two) and run.history["val_loss"] == other.history["val_loss"]
    assert torch.equal(hs.predict(one, waves()), hs.predict(one, x))
    assert hs.evaluate(one, [w.numpy() for w in waves()], LABELS) == hs.evaluate(one, x, LABELS)
    pairs = list(zip(waves(), LABELS.tolist(), strict=True))
    loader = DataLoader(pairs, batch_size=7, collate_fn=lambda items: [list(part) for part in zip(*items, strict=True)])
    assert hs.evaluate(one, loader) == hs.evaluate(one, x, LABELS)


def test_every_epoch_hears_fresh_copies_of_every_sound():
    found, model = source(classifier(ALL), waves()), classifier(ALL)
    lengths = []
    for step in range(6):  # two epochs of three batches
        batch = found.batch(step, 3, seed=5)
        epoch, at = divmod(step, 3)
        order = torch.randperm(7, generator=torch.Generator().manual_seed(5 * 1_000_003 + epoch))
        rows = order[3 * at : 3 * at + 3].tolist()
        copies = [ALL.wave(waves()[i], seed=5, epoch=epoch, index=i) for i in rows]
        x, n = model.prepare(copies)
        assert torch.equal(batch.x, ALL.mask(x, n, seed=5, epoch=epoch, indices=rows))
        assert torch.equal(batch.lengths, n) and torch.equal(batch.y, LABELS[rows])
        assert torch.equal(batch.x, found.batch(step, 3, seed=5).x)  # asked for again
        lengths += n.tolist()
    assert max(lengths) <= found.longest()


def test_held_out_data_are_left_alone():
    found, clean = source(classifier(ALL), waves()), source(classifier(), waves())
    before, after = found.tail(0.3)
    for part, whole in ((found, clean), (after, clean.tail(0.3)[1])):
        for one, other in zip(part.in_order(2), whole.in_order(2), strict=True):
            assert torch.equal(one.x, other.x)
    assert torch.equal(after.batch(0, 2, 0).x, clean.tail(0.3)[1].batch(0, 2, 0).x)
    assert not torch.equal(before.batch(0, 5, 0).x.sum(), clean.tail(0.3)[0].batch(0, 5, 0).x.sum())
    model = classifier(ALL)
    assert torch.equal(model.prepare(waves())[0], classifier().prepare(waves())[0])


def test_masks_alone_need_no_waves():
    x = classifier().prepare(waves())
    augment = Augment(bands=2, steps=3, masks=2)
    one, two = classifier(augment), classifier(augment)
    hs.fit(one, waves(), LABELS, steps=5, **TRAIN)
    hs.fit(two, x, LABELS, steps=5, **TRAIN)
    plain = classifier()
    hs.fit(plain, x, LABELS, steps=5, **TRAIN)
    assert same(one, two) and not same(one, plain)


def test_a_resumed_run_hears_what_it_would_have_heard(tmp_path):
    whole, halves = classifier(ALL), classifier(ALL)
    before = torch.get_rng_state()
    run = hs.fit(whole, waves(), LABELS, steps=8, **TRAIN)

    class Stop:
        def on_step_end(self, run, step):
            return step == 5

    options = dict(steps=8, checkpoint=tmp_path / "run", checkpoint_every=1, **TRAIN)
    hs.fit(halves, waves(), LABELS, callbacks=[Stop()], **options)
    fresh = classifier(ALL)
    again = hs.fit(fresh, waves(), LABELS, resume=True, **options)
    assert same(whole, fresh) and again.history["loss"] == run.history["loss"]
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(hs.InputError, match="augment: speed was 0.2, now 0.1"):
        other = classifier(Augment(speed=0.1, colour=0.5, noise=(5, 30), bands=3, steps=4))
        hs.fit(other, waves(), LABELS, resume=True, **options)


def test_weights_of_sequences_and_other_losses_keep_the_augmentation():
    runs = []
    for extra in ({}, {"sample_weight": torch.ones(7)}, {"loss": torch.nn.CrossEntropyLoss()}):
        model = classifier(ALL)
        runs.append(hs.fit(model, waves(), LABELS, steps=3, **TRAIN, **extra).history["loss"])
        assert runs[-1] == pytest.approx(runs[0], rel=1e-5)
    plain = classifier()
    for model in (classifier(ALL), plain):  # targets of another kind than the model's own
        shares = torch.nn.functional.one_hot(LABELS).float()
        runs.append(hs.fit(model, waves(), shares, steps=3, loss="mse", **TRAIN).history["loss"])
    assert runs[-2] != pytest.approx(runs[-1], rel=1e-3)
    assert runs[0] != pytest.approx(hs.fit(classifier(), waves(), LABELS, steps=3, **TRAIN).history["loss"], rel=1e-3)


def test_augmentation_is_saved_with_the_model(tmp_path):
    hs.save(classifier(ALL), tmp_path / "m")
    assert hs.load(tmp_path / "m").augment == ALL
    hs.save(classifier(), tmp_path / "m")
    assert hs.load(tmp_path / "m").augment is None


def test_taggers_keep_their_time_steps():
    def tagger(augment):
        front = hs.audio.Frames(10)
        return hs.models.AudioTagger(2, front, hidden=4, augment=augment)

    steps = [torch.zeros(-(-len(w) // 10), dtype=torch.int64) for w in waves()]
    model = tagger(Augment(noise=(5, 30), steps=4))
    hs.fit(model, waves(), steps, steps=3, **TRAIN)
    with pytest.raises(hs.InputError, match="augment: got speed=0.2; expected 0: targets belong to time steps"):
        tagger(ALL)
    with pytest.raises(hs.InputError, match="a Streams beside a model's augment="):
        hs.fit(
            model,
            torch.randn(100, 10),
            torch.zeros(100, dtype=torch.int64),
            steps=1,
            batch_size=1,
            stateful=True,
            window=20,
            progress=False,
        )


def test_what_cannot_be_augmented_is_refused_before_training():
    model = classifier(ALL)
    held = [p.clone() for p in model.parameters()]
    x = model.prepare(waves())
    with pytest.raises(hs.InputError, match="x: got no list of waves"):
        hs.fit(model, x, LABELS, steps=1, **TRAIN)
    loader = DataLoader([(x[0][0], 1)])
    for extra in ({}, {"loss": torch.nn.CrossEntropyLoss()}):
        with pytest.raises(hs.InputError, match="a Loader beside a model's augment="):
            hs.fit(model, loader, steps=1, **TRAIN, **extra)
    with pytest.raises(hs.InputError, match=r"waves\[1\]: got shape \(0,\)"):
        hs.fit(model, [torch.randn(50), torch.randn(0)], [0, 1], steps=1, **TRAIN)
    assert all(torch.equal(p, q) for p, q in zip(held, model.parameters(), strict=True))
    assert hs.evaluate(model, x, LABELS) == hs.evaluate(model, waves(), LABELS)
    with pytest.raises(hs.InputError, match="augment: got bands=6; expected bands below 6"):
        classifier(Augment(bands=6))
