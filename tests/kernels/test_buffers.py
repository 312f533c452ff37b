"""Work buffers: on loan to whoever rolls, back once, and nobody else's while a view of them is in a caller's hands."""

import gc
import threading

import pytest
import torch
from cases import NAMED, batch, gradient, model
from torch import nn

import hbll_seq as hs
from hbll_seq.cells import AutogradRoll, MixedCell, SymbolCell, gru_roll
from hbll_seq.engine import block_loss
from hbll_seq.engine.block_roll import BlockRoll
from hbll_seq.engine.blocks import Depth, to_blocks
from hbll_seq.engine.effort import Effort
from hbll_seq.engine.layer import run_layer
from hbll_seq.engine.plan import Plan, Record
from hbll_seq.engine.sequential import InOrder
from hbll_seq.kernels import buffers, cross_entropy
from hbll_seq.kernels.gru_reference import ReferenceGRURoll


@pytest.fixture
def waiting(monkeypatch):
    """The buffers that wait for a user, none at first."""
    found = []
    monkeypatch.setattr(buffers, "_waiting", found)
    return found


@pytest.fixture
def taken(monkeypatch):
    """Where the memory of each buffer lies that is taken; what is allocated anew is counted in `.fresh`."""

    class Taken(list):
        fresh = 0

    found, take, allocate = Taken(), buffers.take, buffers._allocate

    def count(size, like):
        found.fresh += 1
        return allocate(size, like)

    def note(shape, like):
        buffer = take(shape, like)
        found.append(buffer.untyped_storage().data_ptr())
        return buffer

    monkeypatch.setattr(buffers, "_allocate", count)
    monkeypatch.setattr(buffers, "take", note)
    monkeypatch.setattr(cross_entropy, "take", note)
    return found


def places(tensors):
    return [one.untyped_storage().data_ptr() for one in tensors]


def rolls():
    """One of each class of rolls that has work buffers, by name: how it is made."""
    g = torch.Generator().manual_seed(0)
    made = {}
    for name in NAMED:
        cell = model(name, hidden=16).float().cells[0]
        x, state = torch.randn(4, 6, 16, generator=g), torch.randn(6, cell.state_size, generator=g).tanh()
        made[name] = lambda keep=True, cell=cell, x=x, state=state: cell.roll(x, state, keep=keep)
        made[f"{name} whole"] = lambda keep=True, cell=cell, x=x, state=state: cell.whole(x, state, keep=keep, every=2)
    layer = model("gru", hidden=16).cells[0]
    made["gru in float64"] = lambda keep=True: layer.roll(x.double(), state[:, :16].double(), keep=keep)
    bf16 = MixedCell(model("gru", hidden=16).float().cells[0])
    made["gru in bfloat16"] = lambda keep=True: bf16.roll(x, state[:, :16], keep=keep)
    by_symbol = SymbolCell(model("gru", hidden=16).float().cells[0], nn.Parameter(torch.randn(5, 16)))
    symbols = torch.randint(5, (4, 6, 1), generator=g)
    made["symbols"] = lambda keep=True: by_symbol.roll(symbols, state[:, :16], keep=keep)
    return made


ROLLS = list(rolls())


@pytest.mark.parametrize("name", ROLLS)
def test_the_buffers_of_a_roll_come_back_exactly_once(name, waiting, taken):
    make = rolls()[name]
    taken.clear()
    roll = make()
    roll.backward_state(torch.ones_like(roll.outputs), None)
    roll.gradients()
    mine = set(taken)
    assert len(mine) >= 2 and not set(places(waiting)) & set(places([roll.outputs]))
    roll.release()
    back = places(waiting)
    assert len(back) == len(set(back)) and mine <= set(back)
    roll.release()
    assert places(waiting) == back
    with make(keep=False) as ends:
        assert ends.outputs is None
    assert len(set(places(waiting))) == len(waiting)


@pytest.mark.parametrize("name", ROLLS)
def test_a_released_roll_says_so_and_its_end_stays(name, waiting):
    make = rolls()[name]
    with make() as roll:
        kept = [roll.end, roll.carry, *([roll.link] if roll.link is not None else [])]
        if getattr(roll, "marks", None) is not None:
            kept.append(roll.marks)
        before = [one.clone() for one in kept]
        start = roll.backward_state(torch.ones_like(roll.outputs), None)
        dx, grads = roll.gradients()
        kept += [start, *(one for one in (dx, *grads) if one is not None)]
        before += [one.clone() for one in kept[len(before) :]]
    for one in waiting:
        one.fill_(float("nan"))
    assert all(torch.equal(p, q) for p, q in zip(kept, before, strict=True))
    for use in (
        lambda: roll.outputs,
        lambda: roll.backward_state(None, kept[0]),
        lambda: roll.gradients(),
        lambda: roll.end,
    ):
        with pytest.raises(
            RuntimeError, match=f"{type(roll).__name__}.* was released, its work buffers are others' now"
        ):
            use()


def test_a_block_ended_by_an_error_gives_back_too(waiting):
    make = rolls()["lstm"]
    with pytest.raises(ZeroDivisionError), make() as roll:
        place = places([roll.outputs])[0]
        raise ZeroDivisionError
    assert place in places(waiting)


def test_without_a_release_nothing_comes_back_by_itself(waiting):
    for make in rolls().values():
        waiting.clear()
        roll = make()
        roll.backward_state(None, roll.end)
        before = places(waiting)
        del roll
        gc.collect()
        assert places(waiting) == before


def test_a_buffer_given_twice_is_refused(waiting):
    buffer = buffers.take((3, 4), torch.zeros(1))
    buffers.give(buffer)
    with pytest.raises(RuntimeError, match="given back twice"):
        buffers.give(buffer)
    with pytest.raises(RuntimeError, match="given back twice"):
        buffers.give(buffer[1:])  # the same memory
    assert len(waiting) == 1
    buffers.give(buffers.take((3, 4), torch.zeros(1)))  # taken again, so it may be given again
    buffers.give(torch.zeros(0))
    assert len(waiting) == 1


def test_an_attribute_there_never_was_is_an_ordinary_error():
    roll = rolls()["gru"]()
    with pytest.raises(AttributeError, match="has no attribute 'output'"):
        roll.output  # noqa: B018
    assert not roll.released


def test_what_one_thread_records_does_not_keep_another_from_sharing(waiting):
    inside, done = threading.Event(), threading.Event()

    def record():
        with buffers.private():
            inside.set()
            buffers.give(buffers.take((50,), torch.zeros(1)))
            done.wait(10)

    one = threading.Thread(target=record)
    one.start()
    inside.wait(10)
    buffers.give(torch.zeros(40))
    place = places(waiting)
    with buffers.private():
        pass
    assert places([buffers.take((40,), torch.zeros(1))]) == place
    done.set()
    one.join()
    assert not waiting


def test_threads_never_share_a_buffer(waiting):
    def use(number):
        for turn in range(200):
            with buffers.Borrower() as mine:
                some = [mine.borrow((64, 8), torch.zeros(1)) for _ in range(3)]
                for one in some:
                    one.fill_(number)
                    wrong.append(turn) if not (one == number).all() else None
                assert len(set(places(some))) == 3
                wrong.extend(turn for one in some if not bool((one == number).all()))

    wrong: list[int] = []
    threads = [threading.Thread(target=use, args=(i,)) for i in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong and len(set(places(waiting))) == len(waiting)


RULES = [
    ("hbll", dict(execution="sequential", block_size=8)),
    ("hbll", dict(execution="parallel", block_size=8, discount=1.0)),
    ("hbll", dict(execution="parallel", block_size=8, sweeps=3, feedback=1)),
    ("hbll", dict(execution="exact-forward", block_size=8)),
    ("hbll", dict(group=2, block_size=8)),
    ("hbll", dict(memory="30kB", block_size=8)),
    ("bptt", {}),
    ("bptt", dict(memory="30kB")),
    ("tbptt", dict(block_size=8)),
    ("dsf", {}),
]


@pytest.fixture
def poisoned(waiting, monkeypatch):
    """What is given back is filled with NaN, and so is what is taken: nobody may still read the one, or rely on the other."""
    give, take = buffers.give, buffers.take

    def bad(buffer):
        buffer.detach().fill_(float("nan"))
        give(buffer)

    def unset(shape, like):
        return take(shape, like).fill_(float("nan"))

    def on(active):
        for name, value in (("give", bad if active else give), ("take", unset if active else take)):
            for module in (buffers, gru_roll, block_loss, cross_entropy):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, value)

    return on


@pytest.mark.parametrize("rule,options", RULES, ids=str)
@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
@pytest.mark.parametrize("steps", [1, 40])
def test_no_step_reads_what_was_given_back(cell, steps, rule, options, poisoned):
    """With one step, outputs in another order of axes are the same memory: a view that escapes shows there first."""
    options = options if steps > 1 or "block_size" not in options else options | {"block_size": 1}
    for layers in (1, 2):
        for dtype in (torch.float32, torch.float64):
            net, data = model(cell, hidden=16, layers=layers).to(dtype), batch(3, steps)
            found = []
            for active in (False, True):
                poisoned(active)
                learner = hs.rules.make(rule, **options)
                learner.setup(net, torch.Generator().manual_seed(0))
                found.append([gradient(learner, net, data), gradient(learner, net, data), net(data.x).detach()])
                with torch.no_grad():
                    found[-1].append(net(data.x))
            for plain, other in zip(*found, strict=True):
                assert torch.equal(plain, other), (layers, dtype)


@pytest.mark.parametrize("steps", [1, 20])
@pytest.mark.parametrize("execution", ["sequential", "exact-forward", "parallel"])
@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
def test_a_layers_output_and_gradients_outlast_its_buffers(cell, execution, steps, poisoned):
    poisoned(True)
    for dtype in (torch.float32, torch.float64):
        layer = model(cell, hidden=16).to(dtype).cells[0]
        x, state = torch.randn(3, steps, 16, dtype=dtype), torch.zeros(3, layer.state_size, dtype=dtype)
        x.requires_grad_()
        effort = Effort(9, 9, 0.0, fixed=True)  # exact, of so few blocks
        out, _ = run_layer(layer, x, state, None, Plan(min(4, steps), effort, effort, execution), Record())
        kept = out.detach().clone()
        out.square().sum().backward()
        exact = AutogradRoll(layer, x.detach().transpose(0, 1), state, keep=True)
        exact.backward_state(2 * exact.outputs, None)
        assert torch.equal(out, kept)
        dx, grads = exact.gradients()
        ours = [x.grad, *(p.grad for p in layer.parameters())]
        torch.testing.assert_close(ours, [dx.transpose(0, 1), *grads], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("rule,options", RULES, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm", "mingru"])
def test_after_a_step_everything_that_was_taken_is_back(cell, layers, rule, options, waiting, taken, monkeypatch):
    monkeypatch.setattr(buffers, "KEPT", 10**6)
    for dtype in (torch.float32, torch.float64):
        net = model(cell, hidden=16, layers=layers).to(dtype)
        learner = hs.rules.make(rule, check_every=0, **options) if rule == "hbll" else hs.rules.make(rule, **options)
        learner.setup(net, torch.Generator().manual_seed(0))
        for seed in range(2):
            learner.step(net, batch(3, 40, seed=seed))
            with torch.no_grad():
                net(batch(2, 30).x)
            assert set(taken) <= set(places(waiting))
    assert taken or cell != "gru"


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_credit_reads_nothing_that_was_given_back(cell, poisoned):
    net, data = model(cell, hidden=16, layers=2, task="sequence").float(), batch(4, 24, task="sequence")
    found = []
    for active in (False, True):
        poisoned(active)
        for kind in ("knockout", "posterior", "gradient"):
            found.append(hs.credit(net, data.x, data.y, kind=kind, block_size=6).nodes)
    for plain, other in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(plain, other, rtol=0, atol=0, equal_nan=True)
        assert all(one.isfinite().any() for one in plain)


def test_the_ends_of_segments_that_were_let_go_are_nobody_elses(waiting):
    """They were views on the work buffers of rolls that had been given back."""
    layer = model("gru", hidden=16).float().cells[0]
    x, state = torch.randn(48, 3, 16), torch.zeros(3, 16)
    effort = Effort(0, 0, 0.0, fixed=True)
    record = Record()
    chain = InOrder(layer, x, state, Plan(4, effort, effort, "sequential", group=4), record)
    outputs = chain.outputs
    torch.testing.assert_close(record.end, outputs[3::4])
    chain.release()
    with pytest.raises(RuntimeError, match="InOrder.* was released"):
        chain.backward(lambda first, stop, _: torch.ones(stop - first, 3, 16), inputs=False)


def test_a_released_level_says_so_and_one_that_was_let_go_rolls_again(waiting):
    layer = model("gru", hidden=16).float().cells[0]
    x = to_blocks(torch.randn(2, 24, 16), 6)
    level = BlockRoll(
        layer, x, torch.zeros(4, 2, 16), keep=True, group=None, depth=Depth(), projected=layer.projected(x)
    )
    end, dend = level.end, torch.randn(4, 2, 16)
    start = level.backward(None, dend, gradients=False)[0]
    level.let_go()
    assert torch.equal(level.backward(None, dend, gradients=False)[0], start) and level.outputs is None
    level.release()
    level.release()
    assert len(set(places(waiting))) == len(waiting) and end.isfinite().all()
    for use in (lambda: level.end, lambda: level.backward(None, dend, gradients=False)):
        with pytest.raises(RuntimeError, match="BlockRoll.* was released"):
            use()


@pytest.mark.parametrize("options", [o for r, o in RULES if r == "hbll"], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("inputs", ["symbols", "features"])
def test_a_steady_state_of_training_allocates_nothing(inputs, cell, layers, options, waiting, taken):
    net = hs.models.SequenceModel(7, 7, hidden=16, cell=cell, layers=layers, input_kind=inputs, seed=0)
    data = batch(3, 60)
    if inputs == "features":
        data = data._replace(x=torch.randn(3, 60, 7))
    rule = hs.rules.make("hbll", check_every=0, **options)
    rule.setup(net, torch.Generator().manual_seed(0))
    optimizer, fresh = torch.optim.SGD(net.parameters(), lr=0.01), []
    for _ in range(6):
        before = taken.fresh
        gradient(rule, net, data)
        optimizer.step()
        fresh.append(taken.fresh - before)
    assert fresh[0] > 0 and not any(fresh[2:]), fresh


@pytest.mark.parametrize("execution", ["sequential", "exact-forward", "parallel"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_that_fails_gives_back_what_it_had(layers, execution, waiting, taken):
    net = hs.models.SequenceModel(7, 7, hidden=16, layers=layers, seed=0)
    rule, data = hs.rules.make("hbll", execution=execution, block_size=8, check_every=0), batch(3, 40)
    wrong = data._replace(y=data.y + 7)
    for _ in range(2):
        gradient(rule, net, data)
    held = len(waiting)
    with pytest.raises((hs.InputError, IndexError)):
        rule.step(net, wrong)
    if layers == 1:  # in a stack the loss comes after the layers, whose activations are freed with autograd's graph
        assert len(waiting) == held
    gradient(rule, net, data)
    taken.fresh = 0
    gradient(rule, net, data)
    assert not taken.fresh


def test_a_roll_by_hand_gives_its_scratch_back_before_it_ends(waiting):
    gi, w, b, h = torch.randn(3, 4, 15), torch.randn(15, 5), torch.randn(15), torch.zeros(4, 5)
    roll = ReferenceGRURoll(gi, w, b, h, keep=True)
    assert [one.numel() for one in waiting] == [4 * 15]
    roll.backward_state(None, h)
    assert len(waiting) <= 2
    roll.release()
    assert len(set(places(waiting))) == len(waiting) >= 4
