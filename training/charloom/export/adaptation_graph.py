"""What adaptive rows have learnt and learn, as ONNX nodes; `charloom.engine.decoding.adaptation` states it in NumPy.

A step of rows that do not learn pays for it with three values that are handed on, all of them empty but the logits.

Axis letters: B rows, M adaptive rows among them, V vocabulary, N contexts, D tokens of the longest one, S numbers of a
state.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import onnx

from charloom.controls.adaptation import (
    BIAS_RATE,
    BUCKETS,
    COEFFICIENTS,
    LEVELS,
    ORDERS,
    TRUSTS,
    WEIGHT_RATE,
    layout,
    state_size,
)
from charloom.export.constraint_graph import ConstraintGraph
from charloom.export.graph import FLOAT, INT64, Axes


class AdaptationGraph(ConstraintGraph):
    """Writes the parts of a step that only adaptive rows need."""

    def _logprobs(self, logits: str) -> str:
        return self.op("LogSoftmax", logits, axis=1)

    def _part(self, state: str, number: int) -> str:
        """A part of the states [M, S], as `charloom.controls.adaptation.Layout` counts them."""
        borders = [0, *accumulate(layout(self._weights.vocabulary))]
        return self.op("Slice", state, self.ints(borders[number]), self.ints(borders[number + 1]), self.ints(1))

    def _looking(self, name: str, nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.GraphProto:
        """A branch with logits, what was predicted, and maybe other logits."""
        table: Axes = ["B", self._weights.vocabulary]
        kinds: list[tuple[int, Axes]] = [(FLOAT, table), (INT64, ["M", 4 * len(ORDERS)]), (FLOAT, table)]
        return self._body_of(name, nodes, [(each, *kind) for each, kind in zip(outputs, kinds, strict=False)])

    def _no_prediction(self) -> str:
        return self.constant("no_prediction", np.zeros((0, 4 * len(ORDERS))), np.int64)

    def _predicted(self, logits: str) -> onnx.GraphProto:
        """The logits with what the adaptive rows have learnt; and of these [M, 4 N]: where the contexts stand in the
        state, whether anything is known of them, what they predict, and where the weights stand.
        """
        contexts = np.arange(len(ORDERS))[None]
        first_weight = layout(self._weights.vocabulary).seen
        with self._subgraph() as nodes:
            own = self.op("Gather", logits, "adaptive_rows", axis=0)
            history = self.op("Cast", self._part("adaptation_in", 3), to=INT64)
            coefficients = self.constant("coefficients", np.array(COEFFICIENTS).T, np.int64)
            bucket = self.op("Mod", self.op("MatMul", history, coefficients), self._int(BUCKETS))
            place = self.op("Add", bucket, self.constant("tables", contexts * BUCKETS, np.int64))
            seen = self.op("Cast", self.op("GatherElements", "adaptation_in", place, axis=1), to=INT64)
            known = self.op("Min", seen, self._int(1))
            code = self.op("Sub", seen, known)
            token = self.op("Div", code, self._int(TRUSTS))
            trust = self.op("Mod", code, self._int(TRUSTS))
            improbable = self.op("Neg", self.op("GatherElements", self._logprobs(own), token, axis=1))
            level = self.op("Min", self.op("Floor", improbable), self._float(LEVELS - 1.0))
            firsts = self.constant("weights_of_contexts", first_weight + contexts * TRUSTS * LEVELS, np.int64)
            kind = self.op("Add", self.op("Mul", trust, self._int(LEVELS)), firsts)
            weight = self.op("Add", kind, self.op("Cast", level, to=INT64))
            added = self.op("GatherElements", "adaptation_in", weight, axis=1)
            added = self.op("Mul", added, self.op("Cast", known, to=FLOAT))
            if layout(self._weights.vocabulary).bias:
                own = self.op("Add", own, self._part("adaptation_in", 2))
            result = self.op("ScatterElements", own, token, added, axis=1, reduction="add")
            adapted = self.op("ScatterND", logits, self._column("adaptive_rows"), result)
            outputs = [adapted, self.op("Concat", place, known, token, weight, axis=1)]
        return self._looking("predicted", nodes, outputs)

    def _not_predicted(self, logits: str) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            outputs = [self.op("Identity", one) for one in (logits, self._no_prediction())]
        return self._looking("not_predicted", nodes, outputs)

    def _learnt(self, prediction: str, adapted: str, next_token: str, going: str) -> onnx.GraphProto:
        """The states [M, S] after a step in which these tokens came [B], of rows that take it [B]."""
        sizes, size = layout(self._weights.vocabulary), state_size(self._weights.vocabulary)
        with self._subgraph() as nodes:
            place, known, token, weight = self.ops("Split", 4, prediction, axis=1, num_outputs=4)
            known = self.op("Cast", known, to=FLOAT)
            chosen = self._column(self.op("Gather", next_token, "adaptive_rows", axis=0))
            takes = self._column(self.op("Gather", going, "adaptive_rows", axis=0))
            probability = self.op("Softmax", self.op("Gather", adapted, "adaptive_rows", axis=0), axis=1)
            right = self.op("Mul", self.op("Cast", self.op("Equal", token, chosen), to=FLOAT), known)
            wrong = self.op("Mul", self.op("GatherElements", probability, token, axis=1), known)
            once = self.op("Cast", self.op("Add", self.op("Mul", chosen, self._int(TRUSTS)), self._int(1)), to=FLOAT)
            change = self.op("Mul", self.op("Sub", right, wrong), self._float(WEIGHT_RATE))
            new = [
                self.op("Add", once, right),
                self.op("Add", self.op("GatherElements", "adaptation_in", weight, axis=1), change),
            ]
            if sizes.bias:
                ids = self.constant("ids", np.arange(self._weights.vocabulary)[None], np.int64)
                came = self.op("Cast", self.op("Equal", ids, chosen), to=FLOAT)
                change = self.op("Mul", self.op("Sub", came, probability), self._float(BIAS_RATE))
                new.append(self.op("Add", self._part("adaptation_in", 2), change))
            latest = self.op("Cast", self.op("Add", chosen, self._int(1)), to=FLOAT)
            earlier = self.op("Slice", "adaptation_in", self.ints(size - sizes.history), self.ints(-1), self.ints(1))
            # All that changes is written at once: each write copies the states.
            rest = self.constant("rest_of_state", np.arange(size - sizes.bias - sizes.history, size)[None], np.int64)
            count = self.op("Concat", self.op("Shape", "adaptive_rows"), self.ints(1), axis=0)
            where = self.op("Concat", place, weight, self.op("Expand", rest, count), axis=1)
            before = self.op("GatherElements", "adaptation_in", where, axis=1)
            after = self.op("Where", takes, self.op("Concat", *new, latest, earlier, axis=1), before)
            output = self.op("ScatterElements", "adaptation_in", where, after, axis=1)
        return self._learning("learnt", nodes, output)

    def _nothing_learnt(self) -> onnx.GraphProto:
        """The same where no row is adaptive."""
        with self._subgraph() as nodes:
            output = self.op("Identity", "adaptation_in")
        return self._learning("nothing_learnt", nodes, output)

    def _learning(self, name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        return self._body_of(name, nodes, [(output, FLOAT, ["M", state_size(self._weights.vocabulary)])])
