"""What happens inside a network while it reads a text: plain values that know neither gRPC nor protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from charloom.client._text_types import Alternative


@dataclass(frozen=True, kw_only=True, slots=True)
class InspectedToken(Alternative):
    """A token of the text, and how probable it was after the text before it."""

    position: int
    """Tokens fed and generated since the state was zero, up to this one."""

    next: tuple[Alternative, ...]
    """The `top_next` most probable tokens after it, the most probable first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """Gates and states of one layer, for each token of the text (T) and each unit (H).

    Each field is a read-only `memoryview` of 32-bit floats with the shape (T, H): `cell[3, 7]` is a number,
    `cell.tolist()` a list of lists, and `numpy.asarray(cell)` an array of that shape, without copying. A field that the
    model's cell does not have is empty, with the shape (0,): a GRU has `hidden`, and the `gates` reset, update and
    candidate.
    """

    gates: Mapping[str, memoryview[float]]
    """Every gate of the model's cell, by name: from 0 to 1, the candidate from -1 to 1."""

    input_gate: memoryview[float]
    """How much of the candidate is taken in, from 0 to 1."""

    forget_gate: memoryview[float]
    """How much of the old cell state is kept, from 0 to 1."""

    candidate: memoryview[float]
    """What is offered to the cell state, from -1 to 1."""

    output_gate: memoryview[float]
    """How much of the cell state is let out, from 0 to 1."""

    cell: memoryview[float]
    """The cell state c after the token."""

    hidden: memoryview[float]
    """The hidden state h after the token, from -1 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What happens inside a network while it reads a text."""

    tokens: tuple[InspectedToken, ...]
    """The text, token by token."""

    layers: Mapping[int, Activations]
    """Each layer that was asked for, 0 for the first one; empty if there was nothing to read."""

    distributions: memoryview[float] | None
    """Log-probabilities of the next token after each token: a `memoryview` like those of `Activations`, with the shape
    (T, V). V runs over the model's `symbols`, or the 256 bytes; a word model does not list its symbols, but `top_next`
    names the most probable. `None` without `distributions=True`, or if there was nothing to read."""
