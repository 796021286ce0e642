"""The decoder contract: K steps for B rows in one call.

Knows: the arrays that go in and come out. Does not know: who computes them.

A row is fed text where `forced` holds a token and samples where it holds -1, so that reading a prompt and generating
are the same path. All decoders give the same tokens for the same inputs, and each row's outputs are independent of
the other rows.

Axis letters: K steps, B rows, L layers, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

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
    """[B, V] added to the logits; minus infinity forbids a token"""


ROW_AXIS = dict.fromkeys(Inputs._fields, 0) | {"h": 1, "c": 1, "forced": 1, "uniform": 1}
"""Which axis of each input counts the rows."""


class Outputs(NamedTuple):
    """What one decoder call gives back."""

    tokens: Ints
    """[K, B] the token after each step, forced or sampled; past a row's steps, its last one again"""
    logprob: Floats
    """[K, B] natural-log probability of that token, before bias, temperature and filters"""
    h: Floats
    """[L, B, H] after each row's last step"""
    c: Floats
    """[L, B, H]"""


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
        """Take the steps."""
