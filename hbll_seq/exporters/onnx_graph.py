"""An ONNX graph under construction: nodes, constants and fresh names."""

from typing import Any

import numpy as np
from torch import Tensor

from hbll_seq.optional import optional

OPSET = 17  # the first with LayerNormalization


class Graph:
    """A graph that grows node by node. Values are referred to by name."""

    def __init__(self) -> None:
        self.onnx = optional("onnx", "onnx", "hs.export to ONNX")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self._count = 0

    def name(self, what: str) -> str:
        """Return a fresh name."""
        self._count += 1
        return f"{what.lower()}_{self._count}"

    def add(self, kind: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; return the names of its outputs."""
        names = [self.name(kind) for _ in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, names, **attributes))
        return names

    def one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; return its name."""
        return self.add(kind, list(inputs), **attributes)[0]

    def constant(self, value: Tensor | np.ndarray[Any, Any]) -> str:
        """Add a constant; return its name."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        name = self.name("constant")
        self.constants.append(self.onnx.numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def numbers(self, *values: int) -> str:
        """Add a constant of int64 numbers; return its name."""
        return self.constant(np.array(values, dtype=np.int64))

    def take(self, name: str, kind: type[np.generic], shape: list[str | int]) -> str:
        """Declare an input; strings in its shape are sizes that may vary."""
        self.inputs.append(self._value(name, kind, shape))
        return name

    def give(self, value: str, name: str, kind: type[np.generic], shape: list[str | int]) -> None:
        """Declare an output."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._value(name, kind, shape))

    def _value(self, name: str, kind: type[np.generic], shape: list[str | int]) -> Any:
        number = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return self.onnx.helper.make_tensor_value_info(name, number, shape)

    def linear(self, x: str, weight: Tensor, bias: Tensor | None) -> str:
        """Return x W^T + b over the last axis."""
        out = self.one("MatMul", x, self.constant(weight.detach().T))
        return out if bias is None else self.one("Add", out, self.constant(bias))

    def finish(self, name: str) -> Any:
        """Return the checked ONNX model."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="hbll_seq")
        model.ir_version = 8  # that of opset 17; newer ones are refused by older runtimes
        self.onnx.checker.check_model(model, full_check=True)
        return model
