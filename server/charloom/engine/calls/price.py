"""How much memory a call may need: upper bounds of its parts, as they were measured (decision 0022)."""

from __future__ import annotations

from typing import NamedTuple

from charloom.engine.decoding.decoder import Shape

CALL = 32 * 1024
"""Bytes of a call whatever it asks for: its connection's stream, its tasks, its messages."""
ROW = 24 * 1024
"""Of a row on the loom, besides its states."""
STATES = 4
"""States of a row: its slot in the pool, where it starts, where it may have to go back to, and the latest one told."""
LEARNT = STATES + 7
"""Copies of what a row has learnt: with each of these, and in a tick, whose inputs, graph and outputs have it apart."""
READ, FED = 32, 8
"""Of a token that is read: its characters, as message and as text, and its number; and in each row that reads it."""
GENERATED = 32
"""Of a generated token that nobody has read: its number, its text, the message with it."""
SUMMED = 250
"""Of a token with its log-probability in the engine, where an answer tells nothing but sums of them."""
SOURCE, LINE, CHARACTER = 8 * 1024, 1024, 64
"""Of a message of a watch, besides its rows: of a source that is open, of a line with its verdict, of a character."""
OPEN = 1000
"""Of a text that is open while others are looked for, besides its row."""
NEXT = 64
"""Of a token that may come next, in all arrays of its probability."""
AUTOMATON = 3
"""Copies of an automaton: the compiler's, the loom's, and the loom's old table while it grows."""
STOP = 64
"""Of a token of a stop string: its number, and in the automaton that all rows share."""
FLIGHT = 2048
"""Tokens of a stream that are in messages on their way, besides those that wait for its reader."""


class Told(NamedTuple):
    """Bytes of a log-probability that an answer tells, in the engine's arrays and in all copies of the answer."""

    token: int
    """Besides its alternatives."""
    alternative: int
    """Each."""


BINARY, JSON = Told(160, 30), Told(400, 60)
"""In protobuf's encoding, and as JSON, of which the forms of chats are the longest."""


def of_generation(
    shape: Shape,
    prompt: int,
    tokens: int,
    top_logprobs: int | None,
    count: int = 1,
    *,
    unread: int | None = None,
    told: Told = BINARY,
    learnt: int = 0,
    behind: int = 0,
) -> int:
    """Bytes that a call may need which generates.

    Args:
        shape: of the decoder
        prompt: tokens to read
        tokens: most tokens to generate
        top_logprobs: alternatives to tell of each token; None: no log-probabilities at all
        count: how many continuations
        unread: tokens that a stream may leave unread; None: all are kept until the last is there
        told: how log-probabilities are told
        learnt: bytes of what each has learnt
        behind: as of `Snapshot.behind`; they are read once
    """
    kept = tokens if unread is None else min(tokens, unread + FLIGHT)
    each = _row(shape, learnt) + FED * prompt + kept * _token(top_logprobs, told)
    return CALL + READ * prompt + (READ + FED) * behind + count * each


def of_reading(
    shape: Shape,
    tokens: int,
    top_logprobs: int | None,
    texts: int = 1,
    *,
    told: Told = BINARY,
    times: int = 1,
    learnt: int = 0,
    behind: int = 0,
) -> int:
    """Bytes that a call may need which reads so many tokens in so many texts at a time, besides those that are `behind`
    (`Snapshot.behind`), and tells their log-probabilities if `top_logprobs` is not None; `told` says how, and `times`
    how often an answer has them.
    """
    answer = 0 if top_logprobs is None else times * tokens * _token(top_logprobs, told)
    return CALL + texts * _row(shape, learnt) + (READ + FED) * (tokens + behind) + answer


def of_summing(shape: Shape, tokens: int, texts: int, *, learnt: int = 0) -> int:
    """Bytes that a call may need which reads so many tokens in so many texts at a time, and tells the sums of their
    log-probabilities.
    """
    return CALL + texts * _row(shape, learnt) + (READ + FED + SUMMED) * tokens


def of_watching(sources: int, lines: int, characters: int) -> int:
    """Bytes that a message of a watch may need while it is judged, besides what `of_summing` says of the sources that
    are read at a time.
    """
    return SOURCE * sources + LINE * lines + CHARACTER * characters


def of_suggesting(shape: Shape, prompt: int, beam: int, *, learnt: int = 0) -> int:
    """Bytes that a call may need which keeps so many texts open, with all that may come next after each."""
    return CALL + (READ + FED) * prompt + beam * (_row(shape, learnt) + OPEN + NEXT * shape.vocabulary)


def of_inspecting(shape: Shape, gates: int, text: int, chunk: int) -> int:
    """Bytes that a call may need which shows what each token of a text does, computed so many tokens at a time, in a
    network with so many gates.
    """
    # Logits, what is computed from them, and log-probabilities; gates and states, and those of the layers asked for.
    numbers = 3 * shape.vocabulary + 2 * (gates + shape.arrays) * shape.layers * shape.hidden
    return CALL + (READ + FED) * text + 4 * chunk * numbers


def _row(shape: Shape, learnt: int) -> int:
    return ROW + STATES * 4 * shape.arrays * shape.layers * shape.hidden + LEARNT * learnt + 8 * shape.vocabulary


def _token(top_logprobs: int | None, told: Told) -> int:
    return GENERATED + (0 if top_logprobs is None else told.token + top_logprobs * told.alternative)
