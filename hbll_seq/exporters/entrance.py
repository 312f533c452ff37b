"""`export`: a model as a file for other programs."""

import contextlib
import importlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hbll_seq.checkpoint.replace import replace_file
from hbll_seq.data.scalars import flag
from hbll_seq.errors import InputError
from hbll_seq.exporters.check import check_onnx, check_program
from hbll_seq.exporters.onnx_model import layer_graph, model_graph
from hbll_seq.exporters.parts import Part, check_part, check_whole, is_layer, is_model
from hbll_seq.exporters.program import program

KINDS = (".onnx", ".pt2")


def export(model: nn.Module, path: str | os.PathLike[str], *, part: str = "whole", check: bool = True) -> None:
    """Write a trained model as ONNX or as a program of `torch.export`, by the ending of the file's name.

    Batch and time are dynamic: one file serves any number of sequences of any length. Dropout is off. A front end for
    sound is not in the file: its input is the time steps.

    What a file takes and gives, all float32 but for symbols and lengths, which are int64:

    - A recurrent model, `part="whole"`: `x` `(B, T)` symbols or `(B, T, D)`; `lengths` `(B,)` too, if the model has one
      target a sequence or a backward direction. `out` as the model returns it; time steps after a sequence's end hold
      anything.
    - A recurrent model, `part="step"`: `x` `(B,)` or `(B, D)`, `state_0` `(B, S)` and so on, zero where a sequence
      starts. `out` `(B, V)`, `next_state_0` and so on. A program takes and returns the states as a list.
    - A recurrent layer, ONNX alone: `input`, `h_0` and for an LSTM `c_0`, in the layer's own layouts; `output`, `h_n`,
      `c_n`.

    Args:
        model: a recurrent model of this package (`SequenceModel` and its children), or an `nn.GRU`, `nn.LSTM`, `nn.RNN`
            or layer of `hbll_seq.nn`; on any device, in float32. Models with cells of your own have `.pt2` alone.
        path: a name that ends in `.onnx` (needs the extra `onnx`) or `.pt2`.
        part: "whole" sequences, or one time "step".
        check: run the file and compare with the model: a program always, ONNX where onnxruntime is installed.

    Raises:
        InputError: something that cannot be exported; says what can.
        ImportError: ONNX without its package.
        RuntimeError: the file's results differ from the model's; nothing is written.
        OSError: the file could not be written; an older file of that name is unchanged.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "a module")
    if not isinstance(path, str | os.PathLike):
        raise InputError("path", type(path).__name__, "a path")
    kind = pathlib.Path(path).suffix
    if kind not in KINDS:
        raise InputError("path", repr(os.fspath(path)), f"a name that ends in {' or '.join(KINDS)}")
    if not is_model(model) and not (is_layer(model) and kind == ".onnx"):
        known = "a recurrent model of hbll_seq.models" + (", or a recurrent layer" if kind == ".onnx" else "")
        raise InputError("model", type(model).__name__, known + "; for other modules see PyTorch's own exporters")
    wanted, checked = check_part(model, part), flag("check", check)
    check_whole(model)
    with _on_the_cpu(model):
        if kind == ".onnx":
            file = _onnx(model, wanted).SerializeToString()
            runtime = _runtime()
            if checked and runtime is not None:
                check_onnx(model, wanted, file, runtime)
        else:
            assert is_model(model)
            stream = io.BytesIO()
            torch.export.save(program(model, wanted), stream)
            file = stream.getvalue()
            if checked:
                check_program(model, wanted, file)
    replace_file(path, [file])


def _onnx(model: nn.Module, part: Part) -> Any:
    if is_model(model):
        return model_graph(model, part)
    assert is_layer(model)
    return layer_graph(model)


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        return None


@contextlib.contextmanager
def _on_the_cpu(model: nn.Module) -> Iterator[None]:
    """Hold the model on the CPU in evaluation mode for the length of the block."""
    modes = [(module, module.training) for module in model.modules()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        model.eval().to("cpu")
        yield
    finally:
        model.to(device)
        for module, training in modes:
            module.training = training
