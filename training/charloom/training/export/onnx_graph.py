"""The decoder as an ONNX graph: K steps for B rows in one call, sampling included.

Knows: ONNX operators and the decoder contract. Does not know: torch, training, how a runtime executes the graph.

The graph is a `Loop` over the K steps. Its body is one step: gates, output layer, choice of the next token, and a
freeze of the rows that have taken all their steps. The top_k, top_p and min_p filters stand under an `If` that no
call pays for when no row asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from charloom.training.export.quantize import ACTIVATION_SCALE, ACTIVATION_ZERO_POINT, quantize_columns
from charloom.training.export.weights import DecoderWeights, Matrix

OPSET, IR_VERSION = 18, 9
Axes = list[str | int | None]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def build_decoder(weights: DecoderWeights, *, int8: bool, metadata: dict[str, str]) -> onnx.ModelProto:
    """The decoder graph of a model, its matrix products in fp32 or in static int8."""
    return _Builder(weights, int8).model(metadata)


def build_bare_step(weights: DecoderWeights, *, int8: bool) -> onnx.ModelProto:
    """One step of the same network and nothing else, from token, h and c to logits: what no decoder can be faster than.

    For measurements. The products, gates and output layer are those of `build_decoder`; there is no loop, no sampling.
    """
    return _Builder(weights, int8).bare_step()


class _Builder:
    """Collects nodes; a value in the graph is known by its name."""

    def __init__(self, weights: DecoderWeights, int8: bool) -> None:
        self._weights = weights
        self._int8 = int8
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._count = 0

    # Small vocabulary for writing graphs.

    def _op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = name or self._fresh(kind)
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        outputs = [self._fresh(kind) for _ in range(count)]
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def _constant(self, name: str, value: npt.ArrayLike, kind: npt.DTypeLike | None = None) -> str:
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.asarray(value, dtype=kind), name)
        return name

    def _int(self, value: int) -> str:
        return self._constant(f"int_{value}".replace("-", "minus_"), value, np.int64)

    def _ints(self, *values: int) -> str:
        return self._constant("ints_" + "_".join(map(str, values)).replace("-", "minus"), values, np.int64)

    def _float(self, value: float) -> str:
        return self._constant(f"float_{value}".replace("-", "minus_"), value, np.float32)

    def _column(self, value: str) -> str:
        """From [B] to [B, 1]."""
        return self._op("Unsqueeze", value, self._ints(1))

    @contextmanager
    def _subgraph(self) -> Iterator[list[onnx.NodeProto]]:
        outer, self._nodes = self._nodes, []
        try:
            yield self._nodes
        finally:
            self._nodes = outer

    # The graph, from the outside in.

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        layers, hidden, vocabulary = self._weights.layers, self._weights.hidden, self._weights.vocabulary
        state: Axes = [layers, "B", hidden]
        steps: Axes = ["K", "B"]
        inputs: list[tuple[str, int, Axes]] = [
            ("token", INT64, ["B"]),
            ("h", FLOAT, state),
            ("c", FLOAT, state),
            ("forced", INT64, steps),
            ("steps", INT64, ["B"]),
            ("uniform", FLOAT, steps),
            ("temperature", FLOAT, ["B"]),
            ("top_k", INT64, ["B"]),
            ("top_p", FLOAT, ["B"]),
            ("min_p", FLOAT, ["B"]),
            ("bias", FLOAT, ["B", vocabulary]),
        ]
        outputs = [
            ("tokens", INT64, steps),
            ("logprob", FLOAT, steps),
            ("h_out", FLOAT, state),
            ("c_out", FLOAT, state),
        ]
        self._outside()
        graph = helper.make_graph(
            self._nodes,
            "charloom_decoder",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            list(self._initializers.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="charloom"
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model, full_check=True)
        return model

    def bare_step(self) -> onnx.ModelProto:
        layers, hidden = range(self._weights.layers), self._weights.hidden
        names = [f"{part}_{layer}" for part in "hc" for layer in layers]
        h, c = self._cells("token", names[: len(layers)], names[len(layers) :])
        logits = self._op("Add", self._product(h[-1], "head", self._weights.head), self._bias_of_head())
        state: Axes = ["B", hidden]
        inputs = [helper.make_tensor_value_info("token", INT64, ["B"])]
        inputs += [helper.make_tensor_value_info(name, FLOAT, state) for name in names]
        outputs = [helper.make_tensor_value_info(logits, FLOAT, ["B", self._weights.vocabulary])]
        outputs += [helper.make_tensor_value_info(name, FLOAT, state) for name in h + c]
        graph = helper.make_graph(self._nodes, "charloom_bare_step", inputs, outputs, list(self._initializers.values()))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        checker.check_model(model, full_check=True)
        return model

    def _outside(self) -> None:
        layers = range(self._weights.layers)
        h = [self._op("Gather", "h", self._int(layer), axis=0) for layer in layers]
        c = [self._op("Gather", "c", self._int(layer), axis=0) for layer in layers]
        greedy = self._op("Equal", "temperature", self._float(0.0), name="greedy")
        self._op("Where", self._column(greedy), self._float(1.0), self._column("temperature"), name="divisor")
        filters = self._op(
            "Or",
            self._op("Or", self._op("Greater", "top_k", self._int(0)), self._op("Less", "top_p", self._float(1.0))),
            self._op("Greater", "min_p", self._float(0.0)),
        )
        any_filter = self._op("ReduceMax", self._op("Cast", filters, to=INT64), keepdims=0)
        self._op("Cast", any_filter, to=BOOL, name="filtered")
        trips = self._op("Squeeze", self._op("Shape", "forced", start=0, end=1), self._ints(0))
        carried = ["token", *h, *c]
        results = self._ops(
            "Loop", len(carried) + 2, trips, self._constant("true", True, np.bool_), *carried, body=self._body()
        )
        h_out, c_out = results[1 : 1 + len(h)], results[1 + len(h) : 1 + 2 * len(h)]
        for name, parts in (("h_out", h_out), ("c_out", c_out)):
            self._op("Concat", *[self._op("Unsqueeze", part, self._ints(0)) for part in parts], axis=0, name=name)
        self._op("Identity", results[-2], name="tokens")
        self._op("Identity", results[-1], name="logprob")

    def _body(self) -> onnx.GraphProto:
        layers = range(self._weights.layers)
        h_in, c_in = [f"h_in_{layer}" for layer in layers], [f"c_in_{layer}" for layer in layers]
        with self._subgraph() as nodes:
            h, c = self._cells("token_in", h_in, c_in)
            logits = self._op("Add", self._product(h[-1], "head", self._weights.head), self._bias_of_head())
            forced = self._op("Gather", "forced", "step", axis=0)
            uniform = self._op("Gather", "uniform", "step", axis=0)
            feeding = self._op("GreaterOrEqual", forced, self._int(0))
            next_token = self._op("Where", feeding, forced, self._choice(logits, uniform))
            logprob = self._op(
                "GatherElements", self._op("LogSoftmax", logits, axis=1), self._column(next_token), axis=1
            )
            active = self._op("Less", "step", "steps")
            outputs = [self._op("Identity", "continue_in"), self._op("Where", active, next_token, "token_in")]
            active_column = self._column(active)
            outputs += [self._op("Where", active_column, new, old) for new, old in zip(h + c, h_in + c_in, strict=True)]
            outputs += [
                self._op("Identity", outputs[1]),
                self._op("Squeeze", logprob, self._ints(1)),
            ]
        rows: Axes = ["B"]
        state: Axes = ["B", self._weights.hidden]
        inputs: list[tuple[str, int, Axes]] = [("step", INT64, []), ("continue_in", BOOL, [])]
        inputs += [("token_in", INT64, rows)]
        inputs += [(name, FLOAT, state) for name in h_in + c_in]
        kinds: list[tuple[int, Axes]] = [(BOOL, []), (INT64, rows)]
        kinds += [*[(FLOAT, state)] * (2 * len(h_in)), (INT64, rows), (FLOAT, rows)]
        return helper.make_graph(
            nodes,
            "step",
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(n, *k) for n, k in zip(outputs, kinds, strict=True)],
        )

    def _cells(self, token: str, h_in: Sequence[str], c_in: Sequence[str]) -> tuple[list[str], list[str]]:
        """One step of all layers; returns the new h and c of each."""
        h: list[str] = []
        c: list[str] = []
        old = [self._activation(name) for name in h_in]
        for layer, c_old in enumerate(c_in):
            if layer == 0:
                added = self._op("Gather", self._constant("table", self._weights.table), token, axis=0)
                product = self._product(old[0], "recurrent", self._weights.recurrent, ready=True)
            else:
                matrix, bias = self._weights.upper[layer - 1]
                added = self._constant(f"bias_{layer}", bias)
                both = self._op("Concat", self._activation(h[-1]), old[layer], axis=1)
                product = self._product(both, f"layer_{layer}", matrix, ready=True)
            h_new, c_new = self._gates(self._op("Add", product, added), c_old)
            h.append(h_new)
            c.append(c_new)
        return h, c

    def _gates(self, preactivation: str, c_old: str) -> tuple[str, str]:
        hidden = self._weights.hidden
        to_sigmoid, to_tanh = self._ops("Split", 2, preactivation, self._ints(3 * hidden, hidden), axis=1)
        i, f, o = self._ops("Split", 3, self._op("Sigmoid", to_sigmoid), self._ints(hidden, hidden, hidden), axis=1)
        kept = self._op("Mul", f, c_old)
        c = self._op("Add", kept, self._op("Mul", i, self._op("Tanh", to_tanh)))
        return self._op("Mul", o, self._op("Tanh", c)), c

    def _activation(self, h: str) -> str:
        """H as the matrix products take it: as it is, or as uint8 with the fixed scale 1/127."""
        if not self._int8:
            return h
        scale = self._float(ACTIVATION_SCALE)
        return self._op("QuantizeLinear", h, scale, self._constant("zero_point", ACTIVATION_ZERO_POINT, np.uint8))

    def _product(self, h: str, name: str, matrix: Matrix, *, ready: bool = False) -> str:
        """H [B, n] times `matrix` [n, m] -> [B, m], float32."""
        if not self._int8:
            return self._op("MatMul", h, self._constant(name, matrix))
        quantized, scales = quantize_columns(matrix)
        total = self._op(
            "MatMulInteger",
            h if ready else self._activation(h),
            self._constant(name, quantized),
            self._constant("zero_point", ACTIVATION_ZERO_POINT, np.uint8),
        )
        scale = self._constant(f"{name}_scale", scales * np.float32(ACTIVATION_SCALE))
        return self._op("Mul", self._op("Cast", total, to=FLOAT), scale)

    def _bias_of_head(self) -> str:
        return self._constant("head_bias", self._weights.head_bias)

    def _choice(self, logits: str, uniform: str) -> str:
        """Bias, temperature, filters, inverse-CDF; see charloom.training.sampling for the same in torch."""
        biased = self._op("Add", logits, "bias")
        largest = self._op("ReduceMax", biased, self._ints(1))
        scaled = self._op("Div", self._op("Sub", biased, largest), "divisor")
        unfiltered, with_filters = self._branch(scaled, filters=False), self._branch(scaled, filters=True)
        allowed = self._op("If", "filtered", then_branch=with_filters, else_branch=unfiltered)
        weight = self._op("Exp", allowed)
        cumulative = self._op("CumSum", weight, self._int(1))
        total = self._op("Gather", cumulative, self._ints(self._weights.vocabulary - 1), axis=1)
        threshold = self._op("Mul", self._column(uniform), total)
        below = self._op("Cast", self._op("LessOrEqual", cumulative, threshold), to=INT64)
        sampled = self._op("ReduceSum", below, self._ints(1), keepdims=0)
        best = self._op("ArgMax", biased, axis=1, keepdims=0)
        return self._op("Where", "greedy", best, sampled)

    def _branch(self, scaled: str, *, filters: bool) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            output = self._filtered(scaled) if filters else self._op("Identity", scaled)
        shape: Axes = ["B", self._weights.vocabulary]
        name = "with_filters" if filters else "without_filters"
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, shape)])

    def _filtered(self, scaled: str) -> str:
        """Minus infinity for all tokens that top_k, then top_p, then min_p leave out."""
        size = self._weights.vocabulary
        ranked, order = self._ops("TopK", 2, scaled, self._ints(size), axis=1)
        probability = self._op("Softmax", ranked, axis=1)
        rank = self._constant("rank", np.arange(size)[None], np.int64)
        limit = self._op("Where", self._op("Greater", "top_k", self._int(0)), "top_k", self._int(size))
        in_top_k = self._op("Less", rank, self._column(limit))
        probability = self._op("Where", in_top_k, probability, self._float(0.0))
        before = self._op("Sub", self._op("CumSum", probability, self._int(1)), probability)
        total = self._op("ReduceSum", probability, self._ints(1))
        reached = self._op("Less", before, self._op("Mul", self._column("top_p"), total))
        unlimited = self._op("GreaterOrEqual", self._column("top_p"), self._float(1.0))
        in_top_p = self._op("Or", reached, unlimited)
        first = self._op("Gather", probability, self._ints(0), axis=1)
        in_min_p = self._op("GreaterOrEqual", probability, self._op("Mul", self._column("min_p"), first))
        kept = self._op("And", self._op("And", in_top_k, in_top_p), in_min_p)
        kept = self._op("Or", kept, self._op("Equal", rank, self._int(0)))  # the first is always kept
        by_rank = self._op("Where", kept, self._float(1.0), self._float(0.0))
        by_token = self._op("ScatterElements", scaled, order, by_rank, axis=1)  # every element is written
        mask = self._op("Greater", by_token, self._float(0.0))
        return self._op("Where", mask, scaled, self._float(-np.inf))
