"""ONNX files give what the model gives, by another library's runtime: whole and step by step, any batch and length."""

import pathlib
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hbll_seq as hs


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, **given):
    found = session(path).run(None, {k: v.detach().numpy() for k, v in given.items()})
    return [torch.from_numpy(np.asarray(one)) for one in found]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(
    cell=st.sampled_from(["gru", "lstm", "elman", "mingru"]),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    task=st.sampled_from(["step", "sequence"]),
    symbols=st.booleans(),
    norm=st.sampled_from([None, "layer"]),
    residual=st.booleans(),
    projection=st.sampled_from([None, 6]),
    b=st.integers(1, 9),
    t=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_whole_model(tmp_path_factory, cell, layers, task, symbols, b, t, seed, **between):
    path = tmp_path_factory.mktemp("o") / "m.onnx"
    kind = "symbols" if symbols else "features"
    options = dict(hidden=8, layers=layers, task=task, input_kind=kind, seed=seed, dropout=0.3, **between)
    model = hs.models.SequenceModel(5, 7, cell=cell, **options)
    hs.export(model, path, check=False)
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(5, (b, t), generator=g) if symbols else torch.randn(b, t, 5, generator=g)
    lengths = torch.randint(1, t + 1, (b,), generator=g)
    lengths[0] = t
    assert model.training  # as it was
    model.eval()
    with torch.no_grad():
        if task == "sequence":
            close(run(path, x=x, lengths=lengths)[0], model(x, lengths))
        elif between["bidirectional"]:
            (found,), wanted = run(path, x=x, lengths=lengths), model(x, lengths)
            for one, right, n in zip(found, wanted, lengths, strict=True):
                close(one[:n], right[:n])
        else:
            close(run(path, x=x)[0], model(x))


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "mingru"])
def test_step_by_step_is_the_whole_sequence(cell, tmp_path):
    model = hs.models.SequenceModel(5, 7, hidden=8, cell=cell, layers=2, input_kind="features").eval()
    hs.export(model, tmp_path / "step.onnx", part="step")
    hs.export(model, tmp_path / "whole.onnx")
    x, step = torch.randn(3, 200, 5), session(tmp_path / "step.onnx")
    state = {f"state_{i}": np.zeros((3, c.state_size), np.float32) for i, c in enumerate(model.cells)}
    outputs = []
    for now in x.unbind(1):
        out, *after = step.run(None, {"x": now.numpy(), **state})
        state = dict(zip(state, after, strict=True))
        outputs.append(torch.from_numpy(out))
    with torch.no_grad():
        close(torch.stack(outputs, 1), model(x))
    close(run(tmp_path / "whole.onnx", x=x)[0], torch.stack(outputs, 1))


@pytest.mark.parametrize("cell", ["gru", "lstm", "elman", "mingru"])
def test_five_thousand_steps(cell, tmp_path):
    model = hs.models.SequenceModel(5, 7, hidden=16, cell=cell, input_kind="features").eval()
    hs.export(model, tmp_path / "m.onnx", check=False)
    x = torch.randn(2, 5000, 5)
    with torch.no_grad():
        close(run(tmp_path / "m.onnx", x=x)[0], model(x))


@settings(max_examples=20)
@given(
    kind=st.sampled_from([nn.GRU, nn.LSTM, nn.RNN, hs.nn.GRU, hs.nn.LSTM, hs.nn.RNN, hs.nn.MinGRU]),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    relu=st.booleans(),
    b=st.integers(1, 5),
    t=st.integers(1, 20),
)
def test_a_layer_in_its_own_layout(tmp_path_factory, kind, layers, bidirectional, batch_first, bias, relu, b, t):
    path = tmp_path_factory.mktemp("o") / "l.onnx"
    more = {} if kind is hs.nn.MinGRU else {"bias": bias}
    if issubclass(kind, nn.RNN):
        more["nonlinearity"] = "relu" if relu else "tanh"
    layer = kind(3, 4, layers, bidirectional=bidirectional, batch_first=batch_first, **more)
    hs.export(layer, path)
    x = torch.randn(*((b, t) if batch_first else (t, b)), 3)
    states = [torch.rand(layers * (1 + bidirectional), b, 4) - 0.5 for _ in range(1 + isinstance(layer, nn.LSTM))]
    with torch.no_grad():
        out, last = layer(x, tuple(states) if len(states) > 1 else states[0])
    found = run(path, input=x, **dict(zip(("h_0", "c_0"), states, strict=False)))
    for one, right in zip(found, [out, *(last if len(states) > 1 else [last])], strict=True):
        close(one, right)


def test_computed_weights_are_exported_as_they_are(tmp_path):
    layer = nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    assert type(layer) is not nn.GRU  # a parametrized class
    with pytest.raises(hs.InputError, match="model: got ParametrizedGRU"):
        hs.export(layer, tmp_path / "l.onnx")


def test_children_of_the_model_and_their_names(tmp_path):
    model = hs.models.CharLM(5, hidden=8, symbols=list("abcde"))
    hs.export(model, tmp_path / "m.onnx")
    one = session(tmp_path / "m.onnx")
    assert [i.name for i in one.get_inputs()] == ["x"] and one.get_inputs()[0].shape == ["B", "T"]
    assert [o.name for o in one.get_outputs()] == ["out"] and one.get_outputs()[0].shape == ["B", "T", 5]


@pytest.mark.parametrize("embedding", [None, 6])
def test_tied_weights(embedding, tmp_path):
    model = hs.models.LanguageModel(9, hidden=8, layers=2, tie_weights=True, embedding=embedding).eval()
    hs.export(model, tmp_path / "m.onnx")
    x = torch.randint(9, (2, 12))
    with torch.no_grad():
        close(run(tmp_path / "m.onnx", x=x)[0], model(x))


class Louder(hs.models.SequenceModel):
    def read(self, h, lengths):
        return 2 * super().read(h, lengths)


def spread():
    model = hs.models.SequenceModel(5, 5)
    model.readout.to("meta")
    return model


def hooked():
    model = hs.models.SequenceModel(5, 5)
    model.readout.register_forward_hook(lambda *a: None)
    return model


def replaced():
    model = hs.models.SequenceModel(5, 5)
    model.readout = nn.Sequential(model.readout, nn.Tanh())
    return model


def own_cell():
    class Own(nn.Module):
        hidden_size = input_size = 4

        def forward(self, x, h):
            return torch.tanh(x + h)

    return hs.models.SequenceModel(5, 5, cell=Own(), input_kind="symbols")


@pytest.mark.parametrize(
    "make,options,says",
    [
        (
            lambda: nn.Linear(2, 2),
            {},
            "model: got Linear; expected a recurrent model of hbll_seq.models, or a recurrent layer",
        ),
        (lambda: Louder(5, 5), {}, "model: got Louder"),
        (replaced, {}, "model: got SequenceModel; expected a recurrent model"),
        (hooked, {}, "model: got a hook on readout; expected no hooks"),
        (own_cell, {}, "model: got a UserCell; expected layers gru, lstm, elman or mingru, or a .pt2 file"),
        (lambda: hs.models.SequenceModel(5, 5).double(), {}, "weights of torch.float64; expected float32"),
        (lambda: hs.models.SequenceModel(5, 5).to("meta"), {}, "weights on meta; expected one device that holds"),
        (spread, {}, "weights on cpu, meta; expected one device"),
        (lambda: nn.LSTM(3, 4, proj_size=2), {}, "model: got an LSTM with proj_size"),
        (lambda: nn.GRU(3, 4), {"part": "step"}, "part: got 'step' of a GRU"),
        (
            lambda: hs.models.SequenceModel(5, 5, bidirectional=True),
            {"part": "step"},
            "part: got a bidirectional model",
        ),
        (lambda: hs.models.SequenceModel(5, 5), {"part": "half"}, "part: got 'half'; expected 'whole' or 'step'"),
        (lambda: hs.models.SequenceModel(5, 5), {"check": 1.5}, "check"),
        (lambda: 3, {}, "model: got int"),
    ],
)
def test_what_cannot_be_exported_is_said(make, options, says, tmp_path):
    with pytest.raises(hs.InputError, match=says):
        hs.export(make(), tmp_path / "m.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_names_and_missing_packages(tmp_path, monkeypatch):
    model = hs.models.SequenceModel(5, 5)
    with pytest.raises(hs.InputError, match=r"path: got '.*m.bin'; expected a name that ends in .onnx or .pt2"):
        hs.export(model, tmp_path / "m.bin")
    with pytest.raises(hs.InputError, match="path: got int"):
        hs.export(model, 3)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"hs.export to ONNX needs onnx, .*pip install 'hbll_seq\[onnx\]'"):
        hs.export(model, tmp_path / "m.onnx")


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    from hbll_seq.exporters import onnx_cells

    file = pathlib.Path(tmp_path / "m.onnx")
    file.write_bytes(b"before")
    monkeypatch.setitem(onnx_cells.ORDER, onnx_cells.GRUCell, ("GRU", (0, 1, 2)))  # PyTorch's order, not ONNX's
    with pytest.raises(RuntimeError, match="the exported out differs from the model's by"):
        hs.export(hs.models.SequenceModel(5, 5, hidden=8), file)
    assert file.read_bytes() == b"before"
