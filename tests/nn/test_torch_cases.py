"""PyTorch's own test cases for its recurrent layers, through ours: equal to 1e-10 in float64."""

import pytest
import torch

from tests.nn.torch_layers import pair, run, schedules

pytest.importorskip("expecttest")
from torch.testing._internal.common_modules import module_db  # noqa: E402  needs expecttest


def cases():
    for info in module_db:
        kind = info.name.removeprefix("nn.")
        if kind in ("RNN", "GRU", "LSTM"):
            for training in (True, False):
                given = info.module_inputs_func(
                    info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
                )
                for number, one in enumerate(given):
                    yield pytest.param(kind, training, one, id=f"{kind}-{training}-{number}")


CASES = list(cases())


def test_there_are_as_many_cases_as_pytorch_has():
    assert len(CASES) >= 80


@pytest.mark.parametrize("kind, training, case", CASES)
def test_outputs_states_and_gradients_are_pytorchs(kind, training, case):
    made, called = case.constructor_input, case.forward_input
    args = [*called.args, *called.kwargs.values()]
    wanted = [one for one in flat(args) if one.requires_grad]
    for options in schedules():
        theirs, ours = pair(kind, *made.args, options=options, **{**made.kwargs, "dtype": torch.float64})
        theirs.train(training), ours.train(training)
        exact = run(theirs, args, wanted=wanted)
        torch.testing.assert_close(run(ours, args, wanted=wanted), exact, rtol=1e-10, atol=1e-10)
        assert ours.engine.records, "PyTorch's layer ran instead"


def flat(values):
    for one in values:
        if isinstance(one, torch.Tensor):
            yield one
        elif hasattr(one, "batch_sizes"):
            continue
        elif isinstance(one, tuple):
            yield from flat(one)
