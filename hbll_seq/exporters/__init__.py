"""Trained models as files for other programs: ONNX, and programs of `torch.export`.

`export` is the entrance; `onnx_graph`, `onnx_cells` and `onnx_model` write ONNX's own recurrent operators; `program`
makes a program of PyTorch whose loop over time has any length; `check` runs what was written beside the model. What a
model is, and how it is saved for this package, is not in here (`checkpoint`).
"""

from hbll_seq.exporters.entrance import export as export
