"""Decoders and inspectors that somebody has tampered with, made from good ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.unit.bundle.bundle_files import replace_file

Tamper = Callable[[ModelProto], None]
SIDE_FILE = "numbers.bin"


def tamper(bundle: Path, name: str, change: Tamper) -> None:
    """Change a graph of a bundle, its hash and the digest corrected."""
    graph = onnx.load(bundle / name)
    change(graph)
    replace_file(bundle, name, graph.SerializeToString())


def numbers_elsewhere(graph: ModelProto) -> None:
    """The numbers of the largest tensor are in `SIDE_FILE`, beside the graph."""
    _move(max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data)))


def numbers_of_a_body_elsewhere(graph: ModelProto) -> None:
    """So are those of a constant inside a loop."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(4, np.float32)))
    _move(constant.attribute[0].t)
    _loop(graph, graph.graph.output[-1].name, [constant], [False])


def without_end(graph: ModelProto) -> None:
    """The last output waits for a loop whose condition stays true."""
    _loop(graph, graph.graph.output[-1].name, [], [True])


def terabytes_when_opened(graph: ModelProto) -> None:
    """The last output is a constant that ONNX Runtime computes while it opens the graph."""
    graph.graph.initializer.append(numpy_helper.from_array(np.full(3, 2**14), "huge"))
    _replace(graph, graph.graph.output[-1].name, [("ConstantOfShape", ["huge"])])


def terabytes_when_run(graph: ModelProto) -> None:
    """The size of the last output depends on an input."""
    decodes = any(value.name == "top" for value in graph.graph.input)
    # An inspector is tried with three tokens.
    one, axes = ("top", len(graph.graph.output[-1].type.tensor_type.shape.dim)) if decodes else ("tokens", 3)
    graph.graph.initializer.append(numpy_helper.from_array(np.full(axes, 2 ** (42 // axes)), "huge"))
    last = graph.graph.output[-1].name
    _replace(graph, last, [("Add", [one, "huge"]), ("ConstantOfShape", [f"{last}.0"])])


def terabytes_told(graph: ModelProto) -> None:
    """The sizes of an output are numbers instead of names."""
    output = next(value for value in graph.graph.output if value.name == "tokens")
    for size in output.type.tensor_type.shape.dim:
        size.dim_value = 2**20


def turned_over(graph: ModelProto) -> None:
    """An output has its axes in another order."""
    _replace(graph, "logprob", [("Transpose", ["logprob.old"])])


def gates_twice(graph: ModelProto) -> None:
    """Of an inspector: it shows the gates of twice as many tokens as it reads."""
    graph.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 1, 1]), "twice"))
    _replace(graph, "gates", [("Tile", ["gates.old", "twice"])])


def foreign_tokens(graph: ModelProto) -> None:
    """The tokens are none of the vocabulary."""
    graph.graph.initializer.append(numpy_helper.from_array(np.array(10**6), "many"))
    _replace(graph, "tokens", [("Add", ["tokens.old", "many"])])


def _move(tensor: TensorProto) -> None:
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": SIDE_FILE, "offset": "0", "length": str(size)}.items():
        tensor.external_data.add(key=key, value=value)


def _replace(graph: ModelProto, output: str, operations: Sequence[tuple[str, list[str]]]) -> None:
    """Let an output be what the last of these operations gives; what it was is `OUTPUT.old`."""
    _rename(graph, output)
    for number, (operation, inputs) in enumerate(operations):
        name = output if number == len(operations) - 1 else f"{output}.{number}"
        graph.graph.node.append(helper.make_node(operation, inputs, [name]))


def _loop(graph: ModelProto, output: str, nodes: list[NodeProto], condition: list[bool]) -> None:
    """Send an output through a loop, which goes on while the condition holds."""
    kind = next(value for value in graph.graph.output if value.name == output).type.tensor_type.elem_type
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["on"], ["on_out"]), helper.make_node("Identity", ["x"], ["x_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", kind, None),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x_out", kind, None),
        ],
    )
    graph.graph.initializer.append(helper.make_tensor("goes_on", TensorProto.BOOL, [], condition))
    _rename(graph, output)
    graph.graph.node.append(helper.make_node("Loop", ["", "goes_on", f"{output}.old"], [output], body=body))


def _rename(graph: ModelProto, output: str) -> None:
    for node in graph.graph.node:
        node.output[:] = [f"{name}.old" if name == output else name for name in node.output]
        node.input[:] = [f"{name}.old" if name == output else name for name in node.input]
