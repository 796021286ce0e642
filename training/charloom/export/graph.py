"""Writing ONNX graphs: nodes, constants and subgraphs by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from charloom.export.errors import ExportError

OPSET, IR_VERSION = 18, 9
LARGEST_CONSTANTS = 2**31 - 2**24
"""Bytes of all constants of a graph: protobuf writes less than 2 GiB, and the nodes take some."""
Axes = list[str | int | None]
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
BOOL, UINT8 = TensorProto.BOOL, TensorProto.UINT8
Value = tuple[str, int, Axes]
"""Name, element type and axes of an input or output."""


class GraphBuilder:
    """Collects nodes; a value in the graph is known by its name."""

    def __init__(self) -> None:
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._count = 0
        self._bytes = 0

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operator; returns its output, which may be given a name."""
        output = name or self._fresh(kind)
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with several outputs; returns them."""
        outputs = [self._fresh(kind) for _ in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def constant(self, name: str, value: npt.ArrayLike, kind: npt.DTypeLike | None = None) -> str:
        """A constant, added with its first use.

        Raises:
            ExportError: there are more bytes of constants than a file of ONNX holds.
        """
        if name not in self._initializers:
            array = np.asarray(value, dtype=kind)
            self._bytes += array.nbytes
            if self._bytes > LARGEST_CONSTANTS:
                raise ExportError(
                    f"the model is too large for ONNX: its matrices have more than {LARGEST_CONSTANTS:,} bytes, and an "
                    "ONNX file holds no more; export it with --decoders torchscript --no-inspector"
                )
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def _int(self, value: int) -> str:
        return self.constant(f"int_{value}".replace("-", "minus_"), value, np.int64)

    def ints(self, *values: int) -> str:
        """A constant vector of integers."""
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "minus"), values, np.int64)

    def _float(self, value: float) -> str:
        return self.constant(f"float_{value}".replace("-", "minus_"), value, np.float32)

    def _column(self, value: str) -> str:
        """From [B] to [B, 1]."""
        return self.op("Unsqueeze", value, self.ints(1))

    @contextmanager
    def _subgraph(self) -> Iterator[list[onnx.NodeProto]]:
        outer, self._nodes = self._nodes, []
        try:
            yield self._nodes
        finally:
            self._nodes = outer

    def _body_of(
        self, name: str, nodes: list[onnx.NodeProto], outputs: Sequence[Value], inputs: Sequence[Value] = ()
    ) -> onnx.GraphProto:
        """Nodes as a graph without constants: a branch, or the body of a loop."""
        told, given = ([helper.make_tensor_value_info(*value) for value in values] for values in (outputs, inputs))
        return helper.make_graph(nodes, name, given, told)

    def _finished(
        self, name: str, inputs: list[Value], outputs: list[Value], metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The collected nodes as a checked model."""
        graph = self._body_of(name, self._nodes, outputs, inputs)
        graph.initializer.extend(self._initializers.values())
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="charloom"
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model, full_check=True)
        return model
