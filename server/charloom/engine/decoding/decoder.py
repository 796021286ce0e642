"""The decoder contract: K steps for B rows in one call.

Knows: the arrays that go in and come out. Does not know: who computes them.

A row is fed text where `forced` holds a token and samples where it holds -1, so that reading a prompt and generating
are the same path. All decoders give the same tokens for the same inputs, and each row's outputs are independent of
the other rows.

Axis letters: K steps, B rows, L layers, H hidden, V vocabulary, N alternatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Shape(NamedTuple):
    """The sizes of a decoder."""

    layers: int
    hidden: int
    vocabulary: int


class Inputs(NamedTuple):
    """What one decoder call takes."""

    token: Ints
    """[B] the next input token of each row"""
    h: Floats
    """[L, B, H]"""
    c: Floats
    """[L, B, H]"""
    forced: Ints
    """[K, B] a token where the row is being fed text, -1 where the step samples"""
    steps: Ints
    """[B] how many of the K steps the row takes; past that its state and token are frozen"""
    uniform: Floats
    """[K, B] one number in [0, 1) per step"""
    temperature: Floats
    """[B] 0 = greedy"""
    top_k: Ints
    """[B] 0 = off"""
    top_p: Floats
    """[B] 1 = off"""
    min_p: Floats
    """[B] 0 = off"""
    bias: Floats
    """[B, V] added to the logits, after the penalties; minus infinity forbids a token"""
    repetition: Floats
    """[B] divides positive and multiplies negative logits of tokens that have occurred; 1 = off"""
    presence: Floats
    """[B] subtracted from the logits of tokens that have occurred; 0 = off"""
    frequency: Floats
    """[B] subtracted from the logits of tokens, times how often they have occurred; 0 = off"""
    counts: Floats
    """[B, V] how often each token has occurred, for the penalties; the call itself counts on from there"""
    top: Ints
    """[1] = N: how many of the most probable tokens to tell at each step, up to V"""


ROW_AXIS = {name: 1 if name in ("h", "c", "forced", "uniform") else 0 for name in Inputs._fields if name != "top"}
"""Which axis of each input counts the rows; `top` has none."""


def neutral(rows: int, vocabulary: int) -> dict[str, Any]:
    """The sampling fields of inputs at temperature 1 and with everything else off."""
    return {
        "temperature": np.ones(rows, np.float32),
        "top_k": np.zeros(rows, np.int64),
        "top_p": np.ones(rows, np.float32),
        "min_p": np.zeros(rows, np.float32),
        "bias": np.zeros((rows, vocabulary), np.float32),
        "repetition": np.ones(rows, np.float32),
        "presence": np.zeros(rows, np.float32),
        "frequency": np.zeros(rows, np.float32),
        "counts": np.zeros((rows, vocabulary), np.float32),
        "top": np.zeros(1, np.int64),
    }


def has_filters(inputs: Inputs) -> bool:
    """Whether any row leaves tokens out for being improbable."""
    return bool((inputs.top_k > 0).any() or (inputs.top_p < 1).any() or (inputs.min_p > 0).any())


def has_penalties(inputs: Inputs) -> bool:
    """Whether for any row it matters what has occurred."""
    return bool((inputs.repetition != 1).any() or inputs.presence.any() or inputs.frequency.any())


class Outputs(NamedTuple):
    """What one decoder call gives back."""

    tokens: Ints
    """[K, B] the token after each step, forced or sampled; past a row's steps, its last one again"""
    logprob: Floats
    """[K, B] natural-log probability of that token, before penalties, bias, temperature and filters"""
    h: Floats
    """[L, B, H] after each row's last step"""
    c: Floats
    """[L, B, H]"""
    top_tokens: Ints
    """[K, B, N] the most probable tokens of each step, the most probable first"""
    top_logprob: Floats
    """[K, B, N] their log-probabilities, like `logprob`"""


class StatePool(Protocol):
    """State by slot, on the decoder's device. `gather` may be called from any thread, the rest by one at a time.

    Axis letters: L layers, S slots, B rows, H hidden.
    """

    def take(self, h: Floats, c: Floats) -> int:
        """Put a state [L, H] into a free slot and return the slot."""

    def release(self, slot: int) -> None:
        """Free a slot."""

    def gather(self, slots: Sequence[int]) -> tuple[Any, Any]:
        """Copies of h and c [L, B, H] of these slots."""

    def scatter(self, slots: Sequence[int], h: Any, c: Any) -> None:
        """Put h and c [L, B, H] back."""

    def to_host(self, part: Any) -> Floats:
        """A copy of a part of a gathered or computed state."""

    @property
    def used(self) -> int:
        """Slots that are taken."""


class Decoder(Protocol):
    """Something that fulfils the contract. Several threads may call it at once; the Python lock is free meanwhile."""

    shape: Shape
    kind: str
    """"onnx-int8", "onnx-fp32", "torchscript" or "naive"."""
    device: str
    """"cpu" or "cuda"."""
    weights_sha256: str
    """Of the weights that it was made from; empty where that is not known."""

    def run(self, inputs: Inputs) -> Outputs:
        """Take the steps. The state comes back where it came from: in main memory, or on the decoder's device."""

    def state_pool(self) -> StatePool:
        """A new place for the state of live rows."""
