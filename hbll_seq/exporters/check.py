"""What was written, run beside the model on inputs of several lengths and batches."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hbll_seq.cells import MinGRU
from hbll_seq.exporters.parts import Part, is_model, needs_lengths
from hbll_seq.models.recurrent import SequenceModel

SHAPES = ((1, 1), (3, 7))  # batch, time steps
WITHIN = 1e-4  # of the largest value, in float32

Named = dict[str, Tensor]


def cases(model: nn.Module, part: Part) -> Iterator[tuple[Named, Named]]:
    """Make inputs and the results of the model, by the names of the file, without padding in either.

    The global random state is not touched.
    """
    draws = torch.Generator().manual_seed(0)
    for batch, steps in SHAPES:
        if not is_model(model):
            yield _layer_case(model, batch, steps, draws)
        elif part == "step":
            yield _step_case(model, batch, draws)
        else:
            x = _draw(model, (batch, steps), draws)
            if needs_lengths(model):  # all different where there are several; results are compared inside them
                lengths = torch.arange(steps, steps - batch, -1).clamp(min=1)
                yield {"x": x, "lengths": lengths}, {"out": model(x, lengths)}
            else:
                yield {"x": x}, {"out": model(x)}


def inside(out: Tensor, lengths: Tensor) -> Tensor:
    """Return the outputs `(N, C)` of valid time steps."""
    return torch.cat([one[:n] for one, n in zip(out, lengths.tolist(), strict=True)])


def _draw(model: SequenceModel, shape: tuple[int, ...], draws: torch.Generator) -> Tensor:
    if model.embedding is not None:
        return torch.randint(model.input_size, shape, generator=draws)
    return torch.randn(*shape, model.input_size, generator=draws)


def _step_case(model: SequenceModel, batch: int, draws: torch.Generator) -> tuple[Named, Named]:
    x = _draw(model, (batch,), draws)
    states = [torch.rand(batch, cell.state_size, generator=draws) - 0.5 for cell in model.cells]
    out, after = model.step(x, states)
    named = {f"state_{i}": one for i, one in enumerate(states)}
    return {"x": x, **named}, {"out": out, **{f"next_state_{i}": one for i, one in enumerate(after)}}


def _layer_case(layer: Any, batch: int, steps: int, draws: torch.Generator) -> tuple[Named, Named]:
    first = (batch, steps) if layer.batch_first else (steps, batch)
    x = torch.randn(*first, layer.input_size, generator=draws)
    count = layer.num_layers * (1 + layer.bidirectional)
    states = [torch.rand(count, batch, layer.hidden_size, generator=draws) - 0.5 for _ in range(1 + _pair(layer))]
    out, last = layer(x, tuple(states) if _pair(layer) else states[0])
    lasts = last if _pair(layer) else (last,)
    given = dict(zip(("h_0", "c_0"), states, strict=False))
    return {"input": x, **given}, {"output": out, **dict(zip(("h_n", "c_n"), lasts, strict=False))}


def _pair(layer: nn.RNNBase | MinGRU) -> bool:
    return isinstance(layer, nn.LSTM)


def run_onnx(session: Any, given: Named) -> Named:
    """Run an onnxruntime session."""
    names = [one.name for one in session.get_outputs()]
    found = session.run(names, {name: value.detach().numpy() for name, value in given.items()})
    return {name: torch.from_numpy(np.asarray(value)) for name, value in zip(names, found, strict=True)}


def check_onnx(model: nn.Module, part: Part, file: bytes, runtime: Any) -> None:
    """Compare an ONNX file with the model by onnxruntime.

    Raises:
        RuntimeError: results differ.
    """
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # threads that spin while they wait slow down everything beside them
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for given, wanted in cases(model, part):
            _compare(run_onnx(session, given), wanted, given.get("lengths"))


def check_program(model: SequenceModel, part: Part, file: bytes) -> None:
    """Compare a program's file with the model. Raises as `check_onnx`."""
    module = torch.export.load(io.BytesIO(file)).module()
    with torch.no_grad():
        for given, wanted in cases(model, part):
            if part == "step":
                out, states = module(given["x"], [v for k, v in given.items() if k != "x"])
                found = {"out": out, **{f"next_state_{i}": one for i, one in enumerate(states)}}
            else:
                found = {"out": module(*given.values())}
            _compare(found, wanted, given.get("lengths"))


def _compare(found: Named, wanted: Named, lengths: Tensor | None) -> None:
    for name, right in wanted.items():
        came = found[name]
        if lengths is not None and right.ndim == 3:
            came, right = inside(came, lengths), inside(right, lengths)
        if came.shape != right.shape:
            raise RuntimeError(f"the exported {name} has shape {tuple(came.shape)}, the model's {tuple(right.shape)}")
        worst = float((came - right).abs().max() / right.abs().max().clamp(min=1e-3))
        if not worst <= WITHIN:
            raise RuntimeError(f"the exported {name} differs from the model's by {worst:.1e} of its largest value")
