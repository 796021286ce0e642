"""The decoder as an ONNX graph: K steps for B rows in one call, sampling included.

The steps are taken in three `Loop`s, one after the other, whose bodies are one step:

    reading   gates alone. It takes the steps before the first one in which any row samples.
    plain     gates, output layer, and the choice of the next token by forced tokens and temperature.
    full      that with greedy rows, penalties, bias, constraints, filters, the most probable tokens, rows that learn,
              and the freeze of rows that have taken all their steps or have ended.

The first two take steps up to the shortest row's end: reading where nobody asks for log-probabilities and no token has
to be counted, plain where no row asks for what the full loop alone has. All do the same arithmetic in the same order,
so it has no influence on the results which of them took a step.

The loops stand in the outermost graph, because onnxruntime packs the weights of deeper ones anew at every step.
"""

from __future__ import annotations

import numpy as np
import onnx

from charloom.controls import ADAPTATION_INPUTS, CONSTRAINT_INPUTS, ENDED, FREE, INPUTS, Effect, controls
from charloom.controls.adaptation import state_size
from charloom.export.graph import BOOL, FLOAT, INT32, INT64, Axes, Value
from charloom.export.sampling_graph import SamplingGraph
from charloom.export.weights import DecoderWeights


def build_decoder(weights: DecoderWeights, *, int8: bool, metadata: dict[str, str]) -> onnx.ModelProto:
    """The decoder graph of a model, its matrix products in fp32 or in static int8."""
    return _Builder(weights, int8).model(metadata)


def build_bare_step(weights: DecoderWeights, *, int8: bool) -> onnx.ModelProto:
    """One step of the same network and nothing else, from token and state to logits: no decoder can be faster.

    For measurements. The products, gates and output layer are those of `build_decoder`; there is no loop, no sampling.
    """
    return _Builder(weights, int8).bare_step()


class _Builder(SamplingGraph):
    """Writes the graphs, from the outside in."""

    def model(self, metadata: dict[str, str]) -> onnx.ModelProto:
        hidden, vocabulary = self._weights.hidden, self._weights.vocabulary
        state: Axes = [len(self._weights.cell.arrays), len(self._weights.layers), "B", hidden]
        steps: Axes = ["K", "B"]
        inputs: list[Value] = [
            ("token", INT64, ["B"]),
            ("state", FLOAT, state),
            ("forced", INT64, steps),
            ("steps", INT64, ["B"]),
            ("uniform", FLOAT, steps),
        ]
        axes: dict[str, str | int] = {"B": "B", "V": vocabulary, "1": 1}
        inputs += [(e.name, INT64 if e.type is int else FLOAT, [axes[a] for a in e.axes]) for e in INPUTS.values()]
        table: list[tuple[int, Axes]] = [(INT32, ["S", vocabulary]), (INT32, ["S"]), (INT64, ["B"]), (INT64, ["B"])]
        inputs += [(name, *kind) for name, kind in zip(CONSTRAINT_INPUTS, table, strict=True)]
        inputs += [("logprobs", BOOL, [])]
        adaptation: list[tuple[int, Axes]] = [(INT64, ["M"]), (FLOAT, ["M", state_size(vocabulary)])]
        inputs += [(name, *kind) for name, kind in zip(ADAPTATION_INPUTS, adaptation, strict=True)]
        outputs: list[Value] = [
            ("tokens", INT64, steps),
            ("logprob", FLOAT, steps),
            ("state_out", FLOAT, state),
            ("top_tokens", INT64, [*steps, "N"]),
            ("top_logprob", FLOAT, [*steps, "N"]),
            ("taken", INT64, ["B"]),
            ("automaton_out", INT64, ["B"]),
            ("allowed", FLOAT, steps),
            ("adaptation_out", FLOAT, ["M", state_size(vocabulary)]),
        ]
        self._outside()
        return self._finished("charloom_decoder", inputs, outputs, metadata)

    def bare_step(self) -> onnx.ModelProto:
        old = self._state_names()
        steps = self._network("token", old)
        logits = self._logits(steps)
        state: Axes = ["B", self._weights.hidden]
        inputs: list[Value] = [("token", INT64, ["B"]), *[(name, FLOAT, state) for name in self._flat(old)]]
        outputs: list[Value] = [(logits, FLOAT, ["B", self._weights.vocabulary])]
        outputs += [(name, FLOAT, state) for name in self._flat([step.state for step in steps])]
        return self._finished("charloom_bare_step", inputs, outputs, {})

    def _outside(self) -> None:
        state = self._flat(self._layers_of("state"))
        all_steps = self.op("Shape", "forced", start=0, end=1)
        read_steps, plain_steps, full_steps = self._division(all_steps)
        for name in ("forced", "uniform"):
            self.op("Slice", name, read_steps, all_steps, name=f"{name}_after_reading")

        true = self.constant("true", True, np.bool_)
        carried = ["token", *state]
        carried = self.ops("Loop", len(carried), read_steps, true, *carried, body=self._reading_step())
        plain = self.ops("Loop", len(carried) + 2, plain_steps, true, *carried, body=self._plain_step())
        # Where these matter, all steps but those that read are taken in the full loop.
        carried = [*plain[: len(carried)], "counts", "steps", "automaton", "adaptation"]
        results = self.ops("Loop", len(carried) + 5, full_steps, true, *carried, body=self._full_step())

        read = self.op("Slice", "forced", self.ints(0), read_steps)
        untold = self.op("Expand", self._float(0.0), self.op("Shape", read))
        parts = [self.op("Unsqueeze", part, self.ints(0)) for part in results[1 : 1 + len(state)]]
        sizes = self.ints(len(self._weights.cell.arrays), len(self._weights.layers), -1, self._weights.hidden)
        self.op("Reshape", self.op("Concat", *parts, axis=0), sizes, name="state_out")
        self.op("Concat", read, plain[-2], results[-5], axis=0, name="tokens")
        self.op("Concat", untold, plain[-1], results[-4], axis=0, name="logprob")
        free = self.op("Expand", self._float(0.0), self.op("Shape", plain[-2]))
        self.op("Concat", untold, free, results[-1], axis=0, name="allowed")
        for result, name in zip(results[-8:-5], ("taken", "automaton_out", "adaptation_out"), strict=True):
            self.op("Identity", result, name=name)
        shape = self.op("Concat", self.op("Shape", "forced"), "top", axis=0)
        self.op("Reshape", results[-3], shape, allowzero=1, name="top_tokens")
        self.op("Reshape", results[-2], shape, allowzero=1, name="top_logprob")

    def _division(self, all_steps: str) -> tuple[str, str, str]:
        """How many of the K steps each loop takes, [1] each: reading, plain, full."""
        greedy = self.op("Equal", "temperature", self._float(0.0), name="greedy")
        self.op("Where", self._column(greedy), self._float(1.0), self._column("temperature"), name="divisor")
        for effect, name in ((Effect.FILTERS, "filtered"), (Effect.PENALISES, "penalised")):
            self._any(*[self._differs(control.name, control.neutral) for control in controls(effect)], name=name)
        alternatives = self._any(self.op("Greater", "top", self._int(0)))
        steered = self.op("Or", "filtered", self.op("Or", self._any(greedy), self._any(self._differs("bias", 0.0))))
        constrained = self._any(self._differs("automaton", FREE), name="constrained")
        self._prepare_constraints()
        adaptive = self.op("Size", "adaptive_rows")
        adaptive = self.op("Greater", adaptive, self._int(0), name="adaptive")
        self.op("Not", adaptive, name="nobody_learns")
        changed = self.op("Or", adaptive, "penalised", name="changed")
        watched = self.op("Or", changed, alternatives)
        full = self.op("Or", self.op("Or", steered, constrained), watched)
        looked_at = self.op("Or", "logprobs", watched)

        shortest = self.op("ReduceMin", self.op("Concat", "steps", all_steps, axis=0), self.ints(0))
        fed_first = self.op("Min", self._first_sampled(), shortest)
        read_steps = self.op("Where", looked_at, self.ints(0), fed_first)
        before_full = self.op("Where", full, read_steps, shortest)
        self.op("Squeeze", before_full, name="before_full")
        return read_steps, self.op("Sub", before_full, read_steps), self.op("Sub", all_steps, before_full)

    def _first_sampled(self) -> str:
        """[1]: the first step in which any row samples; K if none does."""
        lowest = self.op("ReduceMin", "forced", self.ints(1), keepdims=0)
        sampled, end = self.op("Less", lowest, self._int(0)), self.constant("end", [True], np.bool_)
        return self._first(self.op("Concat", sampled, end, axis=0), keepdims=1)

    def _differs(self, name: str, neutral: float) -> str:
        """Where an input is not at its neutral value."""
        value = self._int(neutral) if isinstance(neutral, int) else self._float(neutral)
        return self.op("Not", self.op("Equal", name, value))

    def _any(self, *conditions: str, name: str = "") -> str:
        """Whether one of some conditions of one shape holds anywhere."""
        either = conditions[0]
        for condition in conditions[1:]:
            either = self.op("Or", either, condition)
        return self.op("Cast", self.op("ReduceMax", self._as_int(either), keepdims=0), to=BOOL, name=name)

    def _as_int(self, condition: str) -> str:
        return self.op("Cast", condition, to=INT64)

    def _reading_step(self) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            layers = self._network("token_in", self._state_names())
            state = self._flat([layer.state for layer in layers])
            outputs = [self.op("Identity", "continue_in"), self.op("Gather", "forced", "step", axis=0), *state]
        return self._body("reading_step", nodes, outputs)

    def _plain_step(self) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            layers = self._network("token_in", self._state_names())
            logits = self._logits(layers)
            state = self._flat([layer.state for layer in layers])
            sampled = self._sampled(self._scaled(logits), "uniform_after_reading", "step")
            next_token = self._fed_or(sampled, "forced_after_reading", "step")
            outputs = [self.op("Identity", "continue_in"), next_token, *state]
            outputs += [self.op("Identity", next_token), self._logprob(self._logprobs(logits), next_token)]
        return self._body("plain_step", nodes, outputs)

    def _full_step(self) -> onnx.GraphProto:
        with self._subgraph() as nodes:
            step = self.op("Add", "step", "before_full")
            layers = self._network("token_in", self._state_names())
            logits = self._logits(layers)
            logits, prediction, wanted = self.ops(
                "If", 3, "changed", then_branch=self._changed(logits), else_branch=self._not_changed(logits)
            )
            state = self._flat([layer.state for layer in layers])
            biased = self.op("Add", wanted, "bias")
            scaled = self._scaled(biased)
            choice = (scaled, step)
            next_token, going, taken, automaton, left = self.ops(
                "If",
                5,
                "constrained",
                then_branch=self._constrained_choice(*choice),
                else_branch=self._free_choice(*choice),
            )
            logprobs = self._logprobs(logits)
            top_logprob, top_tokens = self.ops("TopK", 2, logprobs, "top", axis=1)
            kept = self.op("Where", going, next_token, "token_in")
            every = self.op("Cast", self.op("ReduceMin", self._as_int(going), keepdims=0), to=BOOL)
            simple = self.op("And", every, "nobody_learns")
            learnt = self._learnt(prediction, logits, next_token, going)
            *state, adaptation = self.ops(
                "If",
                len(state) + 1,
                simple,
                then_branch=self._taken(state),
                else_branch=self._taken_or_learnt(state, going, learnt),
            )
            outputs = [self.op("Identity", "continue_in"), kept, *state]
            ids = self.constant("ids", np.arange(self._weights.vocabulary)[None], np.int64)
            occurs = self.op("Cast", self.op("Equal", ids, self._column(next_token)), to=FLOAT)
            outputs += [self.op("Add", "counts_in", occurs), taken, automaton, adaptation, self.op("Identity", kept)]
            outputs += [self._logprob(logprobs, next_token), top_tokens, top_logprob, left]
        return self._body("full_step", nodes, outputs, full=True)

    def _taken(self, state: list[str]) -> onnx.GraphProto:
        """The state after a step that all rows take, none of which learns."""
        with self._subgraph() as nodes:
            outputs = [self.op("Identity", new) for new in [*state, "adaptation_in"]]
        return self._after_step("taken_by_all", nodes, outputs)

    def _taken_or_learnt(self, state: list[str], going: str, learnt: onnx.GraphProto) -> onnx.GraphProto:
        """The state after a step of which some rows may take no part, or learn."""
        with self._subgraph() as nodes:
            column, old = self._column(going), self._flat(self._state_names())
            outputs = [self.op("Where", column, new, before) for new, before in zip(state, old, strict=True)]
            outputs.append(self.op("If", "adaptive", then_branch=learnt, else_branch=self._nothing_learnt()))
        return self._after_step("taken_by_some", nodes, outputs)

    def _after_step(self, name: str, nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.GraphProto:
        kinds: list[Axes] = [["B", self._weights.hidden]] * (len(outputs) - 1)
        kinds.append(["M", state_size(self._weights.vocabulary)])
        return self._body_of(name, nodes, [(each, FLOAT, kind) for each, kind in zip(outputs, kinds, strict=True)])

    def _body(
        self, name: str, nodes: list[onnx.NodeProto], outputs: list[str], *, full: bool = False
    ) -> onnx.GraphProto:
        """The body of a loop, of which all but the reading one gather what they chose."""
        rows: Axes = ["B"]
        state: Axes = ["B", self._weights.hidden]
        table: Axes = ["B", self._weights.vocabulary]
        carried: list[Value] = [("continue_in", BOOL, []), ("token_in", INT64, rows)]
        carried += [(part, FLOAT, state) for part in self._flat(self._state_names())]
        gathered: list[tuple[int, Axes]] = [(INT64, rows), (FLOAT, rows)]
        if full:
            carried += [("counts_in", FLOAT, table), ("taken_in", INT64, rows), ("automaton_in", INT64, rows)]
            carried += [("adaptation_in", FLOAT, ["M", state_size(self._weights.vocabulary)])]
            gathered += [(INT64, ["B", None]), (FLOAT, ["B", None]), (FLOAT, rows)]
        inputs: list[Value] = [("step", INT64, []), *carried]
        kinds = [*[value[1:] for value in carried], *gathered][: len(outputs)]
        return self._body_of(name, nodes, [(each, *kind) for each, kind in zip(outputs, kinds, strict=True)], inputs)

    def _picked(self, scaled: str, step: str) -> str:
        """A token for each row, from logits after bias, temperature and constraint."""
        allowed = self.op("If", "filtered", then_branch=self._filters(scaled), else_branch=self._unchanged(scaled))
        best = self.op("ArgMax", scaled, axis=1, keepdims=0)
        return self.op("Where", "greedy", best, self._sampled(allowed, "uniform", step))

    def _free_choice(self, scaled: str, step: str) -> onnx.GraphProto:
        """Of rows that no constraint binds; see `_constrained_choice`."""
        with self._subgraph() as nodes:
            outputs = [self._fed_or(self._picked(scaled, step), "forced", step), self.op("Less", step, "steps")]
            outputs += [self.op("Identity", "taken_in"), self.op("Identity", "automaton_in")]
            outputs += [self.op("Expand", self._float(0.0), self.op("Shape", "steps"))]
        return self._choice("free_choice", nodes, outputs)

    def _constrained_choice(self, scaled: str, step: str) -> onnx.GraphProto:
        """The next token, whether the row takes this step, how many it takes, its automaton's state, and `allowed`."""
        with self._subgraph() as nodes:
            after, allowed = self._reachable(step)
            here = self.op("Gather", "distance", "automaton_in", axis=0)
            may_end = self.op("Equal", here, self.constant("int32_0", 0, np.int32))
            kept, left = self._allowed(scaled, allowed, may_end)
            forced = self.op("Gather", "forced", step, axis=0)
            fed = self.op("GreaterOrEqual", forced, self._int(0))
            next_token = self.op("Where", fed, forced, self._picked(kept, step))

            in_time = self.op("Less", step, "steps")
            may_go = self.op("Not", self.op("Equal", "automaton_in", self._int(ENDED)))
            chosen = self.op("And", self.op("And", in_time, may_go), self.op("Not", fed))
            place = self._column(next_token)
            permitted = self.op("GatherND", allowed, place, batch_dims=1)
            ends = self.op("And", chosen, self.op("Not", permitted))
            taken = self.op("Where", ends, step, "taken_in")
            reached = self.op("Cast", self.op("GatherND", after, place, batch_dims=1), to=INT64)
            reached = self.op("Where", ends, self._int(ENDED), reached)
            automaton = self.op("Where", chosen, reached, "automaton_in")
            going = self.op("And", in_time, self.op("Not", self.op("Equal", automaton, self._int(ENDED))))
            told = self.op("Where", chosen, left, self._float(0.0))
        return self._choice("constrained_choice", nodes, [next_token, going, taken, automaton, told])

    def _choice(self, name: str, nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.GraphProto:
        kinds = (INT64, BOOL, INT64, INT64, FLOAT)
        return self._body_of(name, nodes, [(each, kind, ["B"]) for each, kind in zip(outputs, kinds, strict=True)])
