"""The choice of a token as ONNX nodes; `charloom.network.sampling` has the same in torch.

Axis letters: B rows, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import onnx

from charloom.export.adaptation_graph import AdaptationGraph
from charloom.export.graph import FLOAT, UINT8, Axes


class SamplingGraph(AdaptationGraph):
    """Writes what leads from the logits of a step to its tokens, but for constraints."""

    def _changed(self, logits: str) -> onnx.GraphProto:
        """The logits [B, V] with what rows have learnt, what `_learnt` has to know, and the logits after penalties."""
        with self._subgraph() as nodes:
            adapted, prediction = self.ops(
                "If", 2, "adaptive", then_branch=self._predicted(logits), else_branch=self._not_predicted(logits)
            )
            wanted = self.op(
                "If", "penalised", then_branch=self._penalties(adapted), else_branch=self._unchanged(adapted)
            )
        return self._looking("changed_logits", nodes, [adapted, prediction, wanted])

    def _not_changed(self, logits: str) -> onnx.GraphProto:
        """The same where nobody learns or has penalties, for less."""
        with self._subgraph() as nodes:
            outputs = [self.op("Identity", one) for one in (logits, self._no_prediction(), logits)]
        return self._looking("unchanged_logits", nodes, outputs)

    def _penalties(self, logits: str) -> onnx.GraphProto:
        """Repetition, frequency and presence penalty, for tokens that have occurred."""
        with self._subgraph() as nodes:
            occurred = self.op("Greater", "counts_in", self._float(0.0))
            factor = self._column("repetition")
            positive = self.op("Greater", logits, self._float(0.0))
            repeated = self.op("Where", positive, self.op("Div", logits, factor), self.op("Mul", logits, factor))
            logits = self.op("Where", occurred, repeated, logits)
            amount = self.op("Mul", "counts_in", self._column("frequency"))
            once = self.op("Mul", self.op("Cast", occurred, to=FLOAT), self._column("presence"))
            output = self.op("Sub", logits, self.op("Add", amount, once))
        return self._branch(nodes, output)

    def _scaled(self, logits: str) -> str:
        largest = self.op("ReduceMax", logits, self.ints(1))
        return self.op("Div", self.op("Sub", logits, largest), "divisor")

    def _sampled(self, scaled: str, all_uniform: str, step: str) -> str:
        """Inverse-CDF with this step's uniform numbers: the first token whose cumulative weight exceeds its share.

        The weights stand as [V, B], so that the sums, each in the order of the tokens, go over all rows at once.
        """
        uniform = self.op("Gather", all_uniform, step, axis=0)
        weight = self.op("Transpose", self.op("Exp", scaled), perm=[1, 0])
        cumulative = self.op("CumSum", weight, self._int(0))
        total = self.op("Gather", cumulative, self._int(self._weights.vocabulary - 1), axis=0)
        return self._first(self.op("Greater", cumulative, self.op("Mul", uniform, total)), keepdims=0)

    def _first(self, conditions: str, keepdims: int) -> str:
        """Where the first true one is along axis 0."""
        return self.op("ArgMax", self.op("Cast", conditions, to=UINT8), axis=0, keepdims=keepdims)

    def _filters(self, scaled: str) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            output = self._filtered(scaled)
        return self._branch(nodes, output)

    def _filtered(self, scaled: str) -> str:
        """Minus infinity for all tokens that top_k, then top_p, then min_p leave out."""
        size = self._weights.vocabulary
        ranked, order = self.ops("TopK", 2, scaled, self.ints(size), axis=1)
        probability = self.op("Softmax", ranked, axis=1)
        rank = self.constant("rank", np.arange(size)[None], np.int64)
        limit = self.op("Where", self.op("Greater", "top_k", self._int(0)), "top_k", self._int(size))
        in_top_k = self.op("Less", rank, self._column(limit))
        probability = self.op("Where", in_top_k, probability, self._float(0.0))
        before = self.op("Sub", self.op("CumSum", probability, self._int(1)), probability)
        total = self.op("ReduceSum", probability, self.ints(1))
        reached = self.op("Less", before, self.op("Mul", self._column("top_p"), total))
        unlimited = self.op("GreaterOrEqual", self._column("top_p"), self._float(1.0))
        in_top_p = self.op("Or", reached, unlimited)
        first = self.op("Gather", probability, self.ints(0), axis=1)
        in_min_p = self.op("GreaterOrEqual", probability, self.op("Mul", self._column("min_p"), first))
        kept = self.op("And", self.op("And", in_top_k, in_top_p), in_min_p)
        kept = self.op("Or", kept, self.op("Equal", rank, self._int(0)))  # the first is always kept
        by_rank = self.op("Where", kept, self._float(1.0), self._float(0.0))
        by_token = self.op("ScatterElements", scaled, order, by_rank, axis=1)  # every element is written
        mask = self.op("Greater", by_token, self._float(0.0))
        return self.op("Where", mask, scaled, self._float(-np.inf))

    def _fed_or(self, chosen: str, all_forced: str, step: str) -> str:
        """The forced token where there is one, the chosen one elsewhere."""
        forced = self.op("Gather", all_forced, step, axis=0)
        return self.op("Where", self.op("GreaterOrEqual", forced, self._int(0)), forced, chosen)

    def _logprob(self, logprobs: str, token: str) -> str:
        """That of one token per row."""
        return self.op("GatherND", logprobs, self._column(token), batch_dims=1)

    def _unchanged(self, value: str) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            output = self.op("Identity", value)
        return self._branch(nodes, output)

    def _branch(self, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        shape: Axes = ["B", self._weights.vocabulary]
        return self._body_of(f"branch_{output}", nodes, [(output, FLOAT, shape)])
