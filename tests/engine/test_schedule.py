"""`choose`: the one place that decides what a call does, as a table."""

import inspect
from dataclasses import fields

import pytest

import hbll_seq as hs
from hbll_seq.engine import Layer, Options, Schedule, Shape, choose
from hbll_seq.engine.cost import Machine
from hbll_seq.engine.memory import activation_bytes

TWO = Machine(threads=2, width=16, registers=32)
MANY = Machine(threads=32, width=16, registers=32)
GRU = {d: Layer(gates=3, parts=1, hidden=d, compiled=True, bytes=4 * 26 * d) for d in (64, 128, 256, 512, 1024)}
OWN = Layer(gates=1, parts=1, hidden=64, compiled=False, bytes=4 * 26 * 64)


def chosen(layer, batch, steps, device="cpu", machine=TWO, *, credit=None, whole=True, avoid="", **options):
    shape = Shape(batch, steps, credit or min(steps, 64), whole)
    return choose(layer, shape, device, machine, Options(**options), avoid=avoid)


@pytest.mark.parametrize(
    "layer,batch,steps,device,machine,options,execution",
    [
        # asked for
        (GRU[64], 1, 1024, "cpu", TWO, dict(execution="sequential"), "sequential"),
        (GRU[64], 1, 1024, "cpu", TWO, dict(execution="exact-forward"), "exact-forward"),
        (GRU[64], 1, 1024, "cpu", TWO, dict(execution="parallel"), "parallel"),
        (GRU[64], 32, 1024, "cpu", TWO, dict(sweeps=2), "parallel"),
        (GRU[64], 32, 1024, "cpu", TWO, dict(feedback=1), "parallel"),
        # room, or a price on every step
        (GRU[64], 32, 1024, "cuda", TWO, {}, "parallel"),
        (OWN, 1, 1024, "cpu", TWO, {}, "parallel"),
        # two cores: one compiled call each way, whose threads share rows, or the units of wide layers
        (GRU[64], 1, 1024, "cpu", TWO, {}, "sequential"),
        (GRU[64], 1, 4096, "cpu", TWO, {}, "sequential"),
        (GRU[64], 8, 4096, "cpu", TWO, {}, "sequential"),
        (GRU[128], 32, 1024, "cpu", TWO, {}, "sequential"),
        (GRU[256], 64, 256, "cpu", TWO, {}, "sequential"),
        (GRU[512], 1, 4096, "cpu", TWO, {}, "sequential"),
        (GRU[1024], 1, 1024, "cpu", TWO, {}, "sequential"),
        # many cores: blocks in parallel where rows alone leave them idle
        (GRU[128], 1, 4096, "cpu", MANY, {}, "parallel"),
        (GRU[256], 1, 16384, "cpu", MANY, {}, "parallel"),
        (GRU[256], 256, 1024, "cpu", MANY, {}, "sequential"),
    ],
)
def test_the_table(layer, batch, steps, device, machine, options, execution):
    assert chosen(layer, batch, steps, device, machine, **options).execution == execution


@pytest.mark.parametrize("avoid,execution", [("states", "exact-forward"), ("messages", "sequential")])
def test_what_did_not_converge_before_is_not_tried(avoid, execution):
    for device, layer in (("cuda", GRU[64]), ("cpu", OWN)):
        assert chosen(layer, 1, 1024, device, avoid=avoid).execution == execution
        assert chosen(layer, 1, 1024, device, avoid=avoid, execution="parallel").execution == execution
    assert chosen(GRU[512], 1, 4096, avoid=avoid).execution in (execution, "sequential")
    fixed = chosen(OWN, 1, 1024, avoid=avoid, execution="parallel", sweeps=3)
    assert fixed.execution == "parallel"  # what the user fixed is done


def test_execution_blocks_divide_credit_blocks_where_messages_are_discounted():
    for credit in (60, 64, 100, 97):
        for whole in (True, False):
            found = chosen(GRU[128], 1, 4096, machine=MANY, credit=credit, whole=whole)
            assert found.execution == "parallel"
            assert whole or credit % found.block == 0
    assert chosen(OWN, 1, 4096, credit=64).block == 64
    assert chosen(OWN, 1, 4096, credit=64, execution_block=16).block == 16
    assert chosen(GRU[64], 1, 4096, credit=64, execution="sequential").block == 64


def test_a_budget_decides_groups():
    layer = GRU[64]
    assert chosen(layer, 2, 4096, memory="1MB", execution="sequential") == Schedule(
        "sequential", 64, 10**6 // (layer.bytes * 64 * 2)
    )
    tight = chosen(layer, 1, 4096, memory="1MB", execution="parallel")
    assert tight.block < 64 and tight.group == 10**6 // (layer.bytes * tight.block)
    assert chosen(layer, 2, 4096, group=3, execution="parallel").group == 3
    assert chosen(layer, 1, 4096, memory="256MB").execution == "sequential"  # all of it fits: nothing is rolled again
    assert chosen(layer, 1, 1 << 20, memory="256MB").execution == "sequential"


def test_a_small_lstm_with_whole_credit_is_pytorchs():
    cell = hs.nn.LSTM(8, 64).cells()[0][0]
    layer = Layer.of(cell, cell.parameters()[0])
    assert chosen(layer, 8, 256, whole=True).execution == "pytorch"
    for options in ({"whole": False}, {"memory": "1GB"}, {"precision": "bf16"}, {"execution": "sequential"}):
        assert chosen(layer, 8, 256, **{"whole": True} | options).execution != "pytorch"
    assert chosen(layer, 16, 1024, whole=True).execution == "sequential"


def test_a_layer_is_described_by_its_cell():
    net = hs.models.CharLM(7, hidden=24, cell="lstm")
    cell, like = net.cells[0], net.readout.weight
    assert Layer.of(cell, like) == Layer(4, 2, 24, True, activation_bytes(cell, like.dtype), True)
    assert not Layer.of(cell, like.double()).compiled


def test_the_rule_has_the_engines_options_and_defaults():
    known = {name: p.default for name, p in inspect.signature(hs.rules.HBLL).parameters.items()}
    assert known.pop("check_every") == 50
    assert known == {field.name: field.default for field in fields(Options)}


@pytest.mark.parametrize(
    "options",
    [
        dict(most=0), dict(most=-1), dict(tolerance=float("inf")), dict(tolerance=float("nan")), dict(tolerance=True),
        dict(discount=1.5), dict(discount=True), dict(pull=float("inf")), dict(sweeps=-1), dict(sweeps=1.5),
        dict(execution="fast"), dict(execution_block=0), dict(execution="sequential", sweeps=2), dict(group=0),
        dict(execution="exact-forward", sweeps=3), dict(group=2, memory="1MB"), dict(block_size=True),
    ],
    ids=str,
)  # fmt: skip
def test_options_out_of_range_are_named(options):
    with pytest.raises(hs.InputError, match=rf"({'|'.join(options)}): got"):
        Options(**options)
