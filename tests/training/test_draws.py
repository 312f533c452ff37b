"""Seeds decide what is drawn, in any number of threads, and torch's global random state stays as it was."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import hbll_seq as hs
from hbll_seq.data.draws import SeededDraws, borrowed_generators
from hbll_seq.training.seeding import may_draw

G = torch.Generator().manual_seed(5)
X, Y = torch.randn(12, 8, 3, generator=G), torch.randint(0, 4, (12,), generator=G)
MODELS = {
    "gru": lambda seed: hs.models.SequenceModel(6, 5, hidden=7, seed=seed),
    "lstm": lambda seed: hs.models.CharLM(6, hidden=7, cell="lstm", layers=2, seed=seed),
    "mingru": lambda seed: hs.models.SequenceModel(6, 5, hidden=7, cell="mingru", input_kind="features", seed=seed),
    "mlp": lambda seed: hs.models.MLP(6, 3, hidden=8, layers=3, norm=True, seed=seed),
    "vit": lambda seed: hs.models.ViT((1, 8, 8), 3, patch=4, hidden=8, heads=2, layers=3, seed=seed),
    "gpt": lambda seed: hs.models.GPT(9, context=6, hidden=8, heads=2, layers=3, seed=seed),
}


class Dropping(torch.nn.Module):
    """A cell with dropout inside, unknown to the package."""

    hidden_size = 6
    input_size = 3

    def __init__(self) -> None:
        super().__init__()
        with SeededDraws(3):
            self.linear = torch.nn.Linear(9, 6)

    def forward(self, x, h):
        return torch.tanh(torch.nn.functional.dropout(self.linear(torch.cat((x, h), -1)), 0.3, self.training))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def state():
    return torch.get_rng_state()


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_global_generator_seeded_alike(name, monkeypatch):
    """Seeds mean what they meant when constructors seeded torch's own generator."""
    before = state()
    ours = weights(MODELS[name](11))
    assert torch.equal(state(), before) and not torch.equal(ours, weights(MODELS[name](12)))
    module = __import__(type(MODELS[name](0)).__module__, fromlist=["x"])
    for where in (module, hs.models.recurrent):
        monkeypatch.setattr(where, "SeededDraws", lambda seed: torch.random.fork_rng(devices=[]), raising=False)
    torch.manual_seed(11)
    assert torch.equal(weights(MODELS[name](0)), ours)  # its seed is ignored now


def test_a_seed_that_is_none_is_refused():
    for seed in ("one", None, 2**64, 1.5):
        with pytest.raises(hs.InputError, match="seed: got"):
            hs.models.CharLM(5, hidden=4, seed=seed)


def train(seed):
    model = hs.models.SequenceModel(3, 4, input_kind="features", task="sequence", cell=Dropping(), seed=seed)
    run = hs.fit(model, X, Y, steps=6, batch_size=4, seed=seed, progress=False, rule="bptt")
    return weights(model), run.history["loss"]


def build(seed):
    return torch.cat([weights(make(seed)) for make in MODELS.values()])


def test_threads_that_build_and_train_with_dropout_get_what_one_thread_gets():
    wanted = {(do, seed): do(seed) for do in (build, train) for seed in range(6)}
    before = state()
    jobs = [(do, seed) for seed in range(6) for do in (build, train, build)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: job[0](job[1]), jobs))
    for job, got in zip(jobs, found, strict=True):
        if job[0] is build:
            assert torch.equal(got, wanted[job])
        else:
            assert torch.equal(got[0], wanted[job][0]) and got[1] == wanted[job][1]
    assert torch.equal(state(), before)
    print(f"{len(jobs)} jobs in 8 threads: {len(jobs)} equal those of one thread")


def test_steps_that_draw_nothing_do_not_wait_for_each_other():
    rule = hs.rules.make("bptt")
    plain = hs.models.CharLM(5, hidden=4)
    assert not may_draw(plain, rule)
    gpt = lambda p: hs.models.GPT(5, context=4, hidden=4, heads=1, layers=2, dropout=p)
    assert not may_draw(gpt(0.0), rule) and may_draw(gpt(0.1), rule)
    stack = torch.nn.GRU(4, 4, 2, batch_first=True, dropout=0.2)
    assert may_draw(stack, rule) and not may_draw(torch.nn.GRU(4, 4, 2), rule)
    assert may_draw(hs.models.SequenceModel(3, 4, cell=Dropping(), input_kind="features"), rule)
    plain.readout.register_forward_hook(lambda *_: None)  # it might draw
    assert may_draw(plain, rule)
    entered = threading.Event()
    with borrowed_generators():  # held here: a run that draws nothing goes on all the same
        thread = threading.Thread(
            target=lambda: (hs.fit(hs.models.CharLM(5, hidden=4), X.argmax(-1), steps=2, progress=False), entered.set())
        )
        thread.start()
        thread.join(60)
    assert entered.is_set()


class Noisy(TensorDataset):
    """Augmentation from the global generator."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + 0.1 * torch.randn(x.shape), y


@pytest.mark.parametrize("data", [TensorDataset(X, Y), Noisy(X, Y)])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataloader_moves_no_global_state(data, workers):
    model = hs.models.SequenceModel(3, 4, input_kind="features", task="sequence", hidden=5)
    loader = lambda: DataLoader(data, batch_size=5, shuffle=True, num_workers=workers, timeout=120 * workers)
    calls = (
        lambda: hs.evaluate(model, loader()),
        lambda: hs.gradient(model, loader()),
        lambda: hs.fit(model, loader(), steps=2, validation=loader(), rule="bptt", progress=False).history["val_loss"],
    )
    for call in calls[:2] if workers else calls:
        torch.manual_seed(1)
        before = state()
        one = call()
        assert torch.equal(state(), before)
        torch.manual_seed(2)
        two = call()  # nor does it depend on it
        if isinstance(one, dict):
            assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(two[k])) for k in one)
