"""What constraints allow, as ONNX nodes: which tokens each row may choose, and what becomes of their logits.

`charloom.network.sampling` has the same in torch.
"""

from __future__ import annotations

import numpy as np
import onnx

from charloom.controls import ENDED
from charloom.export.graph import BOOL, INT32, UINT8, Axes
from charloom.export.network_graph import NetworkGraph


class ConstraintGraph(NetworkGraph):
    """Writes the parts of a step that only rows with a constraint need."""

    def _prepare_constraints(self) -> None:
        """What is the same in all steps of a call."""
        self.op("Unsqueeze", "greedy", self.ints(1), name="greedy_column")
        self.op("Unsqueeze", self.op("Cast", "left", to=INT32), self.ints(1), name="left_column")
        near = self.op("Less", "distance", self.constant("int32_never", np.iinfo(np.int32).max, np.int32))
        nearest = self.op("Where", near, "distance", self.constant("int32_free", -1, np.int32))
        self.op("ReduceMax", nearest, keepdims=0, name="longest")

    def _reachable(self, step: str) -> tuple[str, str]:
        """[B, V] and [B, V]: the state after each token, and which tokens are allowed."""
        after = self.op("Gather", "next_state", "automaton_in", axis=0)
        remaining = self.op("Sub", "left_column", self.op("Cast", step, to=INT32))
        # To look up the distance after each token costs more than anything else here.
        allowed = self.op(
            "If",
            self.op("Less", "longest", self.op("ReduceMin", remaining, keepdims=0)),
            then_branch=self._in_time(after),
            else_branch=self._in_time(after, remaining),
        )
        return after, allowed

    def _in_time(self, after: str, remaining: str = "") -> onnx.GraphProto:
        """Which tokens are allowed; without `remaining`, of rows with tokens enough to end whatever they choose."""
        with self._subgraph() as nodes:
            if remaining:
                allowed = self.op("Less", self.op("Gather", "distance", after, axis=0), remaining)
            else:
                allowed = self.op("Not", self.op("Equal", after, self.constant("int32_ended", ENDED, np.int32)))
        shape: Axes = ["B", self._weights.vocabulary]
        name = f"allowed_{'with_few' if remaining else 'with_many'}_tokens_left"
        return self._body_of(name, nodes, [(allowed, BOOL, shape)])

    def _allowed(self, scaled: str, allowed: str, may_end: str) -> tuple[str, str]:
        """What a constraint makes of the logits, and `allowed`; see `charloom.network.sampling.allow`."""
        nothing = self._float(-np.inf)
        column = self._column(may_end)
        kept = self.op("Where", allowed, scaled, nothing)
        # Where the text may end, the mass of what is not allowed is asked for; elsewhere that of what is.
        asked = self.op("Where", self.op("Xor", allowed, column), scaled, nothing)
        above = self.op("ReduceMax", self.op("LogSoftmax", asked, axis=1), self.ints(1))
        # Not by Log, which rounds the last rows of a batch otherwise.
        largest = self.op("ReduceMax", asked, self.ints(1))
        mass = self.op("Where", self.op("Greater", largest, nothing), self.op("Sub", largest, above), nothing)
        end = self.op("Where", column, mass, nothing)
        of_best = self.op("ReduceMax", self.op("LogSoftmax", scaled, axis=1), self.ints(1))  # whose logit is 0
        left = self.op("Squeeze", self.op("Add", mass, of_best), self.ints(1))
        left = self.op("Where", may_end, self._float(0.0), left)
        best = self.op("ReduceMax", kept, self.ints(1))
        ends = self.op("And", "greedy_column", self.op("GreaterOrEqual", end, best))
        end = self.op("Where", ends, self._float(1e30), end)  # above all tokens
        refused = self.op("Not", allowed)
        first = self.op("ArgMax", self.op("Cast", refused, to=UINT8), axis=1, keepdims=1)
        ids = self.constant("ids", np.arange(self._weights.vocabulary)[None], np.int64)
        at_end = self.op("And", refused, self.op("Equal", ids, first))
        kept = self.op("Where", at_end, end, kept)
        return self.op("Sub", kept, self.op("ReduceMax", kept, self.ints(1))), left
