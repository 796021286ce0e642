"""The decoder contract: K steps for B rows in one call.

A row is fed text where `forced` holds a token and samples where it holds -1, so that reading a prompt and generating
are the same path. All decoders give the same tokens for the same inputs, and each row's outputs are independent of
the other rows.

Axis letters: K steps, B rows, A arrays of the cell's state (h and c of an LSTM), L layers, H hidden, V vocabulary,
N alternatives.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from charloom.controls import ADAPTATION_INPUTS, CONSTRAINT_INPUTS, FREE, INPUTS, Effect, controls
from charloom.controls.adaptation import state_size

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Int32s = npt.NDArray[np.int32]

NEVER = np.iinfo(np.int32).max
"""The distance of what has no end."""


class Shape(NamedTuple):
    """The sizes of a decoder."""

    arrays: int
    """Of the cell's state; the first is h, what the layer above reads."""
    layers: int
    hidden: int
    vocabulary: int


class Constraints(NamedTuple):
    """Which tokens the rows of a call may choose: their automata in one table, of S states.

    A row may choose a token where `distance` of the state after it is less than the tokens that the row has left, that
    one included; so its text can be ended in time whatever it chooses. Fed tokens do not count. A row in a state of
    distance 0 may end instead: it is then in `ENDED`.
    """

    next: Int32s
    """[S, V] the state after a token; `ENDED`: the token is forbidden. All of `FREE` is `FREE`."""
    distance: Int32s
    """[S] tokens from a state to the nearest end of a text; -1 of `FREE`, `NEVER` of `ENDED`"""
    state: Ints
    """[B] where each row is"""
    left: Ints
    """[B] steps that each row may take, in this call and after it"""

    def by_name(self) -> dict[str, Any]:
        """The arrays by the names that a decoder's file has for them."""
        return dict(zip(CONSTRAINT_INPUTS, self, strict=True))


class Adaptation(NamedTuple):
    """Which rows of a call learn from their text, and what they have learnt; see `charloom.controls.adaptation`."""

    learns: Bools
    """[B]"""
    state: Floats
    """[B, S]; arbitrary where a row does not learn"""

    def by_name(self) -> dict[str, Any]:
        """The arrays by the names that a decoder's file has for them: of the rows that learn alone."""
        return dict(zip(ADAPTATION_INPUTS, (np.flatnonzero(self.learns), self.state[self.learns]), strict=True))


class States(NamedTuple):
    """The states of some rows."""

    network: Any
    """[A, L, B, H], in main memory, or on the decoder's device"""
    learnt: Floats | None
    """[B, S]; None where no row learns"""


class Inputs(NamedTuple):
    """What one decoder call takes."""

    token: Ints
    """[B] the next input token of each row"""
    state: Floats
    """[A, L, B, H]"""
    forced: Ints
    """[K, B] a token where the row is being fed text, -1 where the step samples"""
    steps: Ints
    """[B] how many of the K steps the row takes; past that its state and token are frozen"""
    uniform: Floats
    """[K, B] one number in [0, 1) per step"""
    sampling: Mapping[str, Any]
    """How the tokens are chosen: an array for each of `charloom.controls.INPUTS`, by its name"""
    logprobs: bool = True
    """Whether anyone asks for log-probabilities: without them, and so without the output layer, reading costs less"""
    constraints: Constraints | None = None
    """None where no row has one"""
    adaptation: Adaptation | None = None
    """None where no row learns"""

    @property
    def states(self) -> States:
        """Before the call."""
        return States(self.state, None if self.adaptation is None else self.adaptation.state)

    def by_name(self, lacks: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The arrays by the names that a decoder's file has for them, in the order of the contract.

        Args:
            lacks: inputs that the file does not have
        """
        own = {name: getattr(self, name) for name in ROW_AXIS}
        return {**own, **{name: array for name, array in self.sampling.items() if name not in lacks}}

    def with_rows(self, of: Callable[[Any, int], Any]) -> Inputs:
        """These inputs with `of(array, axis)` in place of each array that counts rows, in that axis."""
        own = {name: of(getattr(self, name), axis) for name, axis in ROW_AXIS.items()}
        sampling = {
            name: of(array, 0) if INPUTS[name].axes[0] == "B" else array for name, array in self.sampling.items()
        }
        constraints = self.constraints
        if constraints is not None:
            constraints = constraints._replace(state=of(constraints.state, 0), left=of(constraints.left, 0))
        adaptation = self.adaptation
        if adaptation is not None:
            adaptation = Adaptation(of(adaptation.learns, 0), of(adaptation.state, 0))
        return self._replace(**own, sampling=sampling, constraints=constraints, adaptation=adaptation)


ROW_AXIS = {"token": 0, "state": 2, "forced": 1, "steps": 0, "uniform": 1}
"""Which axis of each input counts the rows; of those in `sampling` it is the first, and `top` has none."""


def neutral(rows: int, vocabulary: int) -> dict[str, Any]:
    """`Inputs.sampling` at temperature 1 and with everything else off."""
    return {
        name: np.full(shape, entry.neutral, entry.dtype) if entry.neutral else np.zeros(shape, entry.dtype)
        for name, entry in INPUTS.items()
        for shape in [entry.shape(rows, vocabulary)]
    }


def has_constraints(inputs: Inputs) -> bool:
    """Whether any row may not choose freely."""
    return inputs.constraints is not None and bool((inputs.constraints.state != FREE).any())


def has_filters(inputs: Inputs) -> bool:
    """Whether any row leaves tokens out for being improbable."""
    return _asks(inputs, Effect.FILTERS)


def has_penalties(inputs: Inputs) -> bool:
    """Whether for any row it matters what has occurred."""
    return _asks(inputs, Effect.PENALISES)


def _asks(inputs: Inputs, effect: Effect) -> bool:
    return any(bool((inputs.sampling[control.name] != control.neutral).any()) for control in controls(effect))


class Outputs(NamedTuple):
    """What one decoder call gives back."""

    tokens: Ints
    """[K, B] the token after each step, forced or sampled; past the steps that a row took, its last one again"""
    logprob: Floats
    """[K, B] natural-log probability of that token, before penalties, bias, temperature and filters; arbitrary where
    the inputs say that nobody asks"""
    state: Floats
    """[A, L, B, H] after each row's last step"""
    top_tokens: Ints
    """[K, B, N] the most probable tokens of each step, the most probable first"""
    top_logprob: Floats
    """[K, B, N] their log-probabilities, like `logprob`"""
    taken: Ints
    """[B] the steps that each row took: `steps`, or fewer where its constraint ended the text"""
    automaton: Ints
    """[B] where each row is in `Constraints` after its last step"""
    allowed: Floats
    """[K, B] natural logarithm of the probability that the constraint left, the end of the text included: after
    penalties, bias and temperature; 0 for fed tokens and rows without a constraint"""
    adaptation: Floats
    """[B, S] what the rows that learn have learnt after their last steps; [B, 0] where none learns"""

    @property
    def states(self) -> States:
        """After the call."""
        return States(self.state, self.adaptation)

    def with_rows(self, of: Callable[[Any, int], Any]) -> Outputs:
        """These outputs with `of(array, axis)` in place of each array, `axis` being the one that counts rows."""
        return Outputs(**{name: of(getattr(self, name), axis) for name, axis in OUTPUT_ROW_AXIS.items()})


OUTPUT_ROW_AXIS = dict.fromkeys(Outputs._fields, 1) | {"state": 2, "taken": 0, "automaton": 0, "adaptation": 0}
"""Which axis of each output counts the rows."""


class StatePool(Protocol):
    """State by slot, on the decoder's device. `gather` may be called from any thread, the rest by one at a time.

    Axis letters: A arrays of the cell's state, L layers, S slots, B rows, H hidden.
    """

    def take(self, state: Floats) -> int:
        """Put a state [A, L, H] into a free slot and return the slot."""

    def release(self, slot: int) -> None:
        """Free a slot."""

    def gather(self, slots: Sequence[int]) -> Any:
        """A copy of the state of these slots, [A, L, B, H]."""

    def scatter(self, slots: Sequence[int], state: Any) -> None:
        """Put a state [A, L, B, H] back."""

    def to_host(self, part: Any) -> Floats:
        """A copy of a part of a gathered or computed state."""

    @property
    def used(self) -> int:
        """Slots that are taken."""


def lacking(names: Collection[str]) -> frozenset[str]:
    """The inputs that a decoder with inputs of these names was exported without: of controls, constraints, learning."""
    wanted = [*(control.name for control in controls()), *CONSTRAINT_INPUTS, *ADAPTATION_INPUTS]
    return frozenset(wanted).difference(names)


@functools.lru_cache
def nobody_learns(vocabulary: int) -> dict[str, Any]:
    """As `Adaptation.by_name` where no row learns; made once and not to be written to."""
    none = np.zeros(0, np.int64), np.zeros((0, state_size(vocabulary)), np.float32)
    return dict(zip(ADAPTATION_INPUTS, none, strict=True))


def completed(inputs: Inputs, found: Sequence[Any]) -> Outputs:
    """The outputs of a decoder's file, those that it was exported without made up for.

    Args:
        inputs: of the call
        found: 5 arrays of a file without constraints, 8 of one in which no row can learn, else 9, the last one [M, S]
    """
    steps, rows = inputs.forced.shape
    free = (inputs.steps, np.full(rows, FREE, np.int64), np.zeros((steps, rows), np.float32))
    tokens, logprob, state, top_tokens, top_logprob, *others = found
    taken, automaton, allowed, *learnt = others or free
    adaptation = np.zeros((rows, 0), np.float32)
    if inputs.adaptation is not None:
        adaptation = np.zeros_like(inputs.adaptation.state)
        (adaptation[inputs.adaptation.learns],) = learnt
    return Outputs(tokens, logprob, state, top_tokens, top_logprob, taken, automaton, allowed, adaptation)


class Steps(Protocol):
    """What takes steps."""

    shape: Shape
    lacks: frozenset[str]
    """See `lacking`; it serves the calls that leave these neutral."""

    def run(self, inputs: Inputs) -> Outputs:
        """Run one call. The state comes back where it came from: in main memory, or on the decoder's device."""


class Decoder(Steps, Protocol):
    """Something that fulfils the contract. Several threads may call it at once; the Python lock is free meanwhile."""

    kind: str
    """"onnx-int8", "onnx-fp32", "torchscript" or "naive"."""
    device: str
    """"cpu" or "cuda"."""
    weights_sha256: str
    """Of the weights that it was made from; empty where that is not known."""

    def state_pool(self) -> StatePool:
        """A new place for the state of live rows."""
