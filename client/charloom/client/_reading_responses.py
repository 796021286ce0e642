"""Results of reading a text (score, peek, observe, inspect), from protobuf to the SDK's own types."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import grpc

from charloom.client import _responses
from charloom.client._errors import InternalError
from charloom.client._inspection_types import Activations, InspectedToken, Inspection
from charloom.client._text_types import Observed, Peek, Score, TextScore
from charloom.v1 import reading_pb2


def score(message: reading_pb2.ScoreResponse) -> Score:
    """Read the score of a text."""
    return Score(
        logprobs=_responses.token_logprobs(message.logprobs),
        nats_per_token=message.nats_per_token,
        bits_per_character=message.bits_per_character,
        perplexity=message.perplexity,
    )


def text_score(text: str, message: reading_pb2.TextScore) -> TextScore:
    """Read the score of one of many texts."""
    return TextScore(
        text=text,
        tokens=message.tokens,
        logprob=message.logprob,
        nats_per_token=message.nats_per_token,
        bits_per_character=message.bits_per_character,
        perplexity=message.perplexity,
    )


def peek(message: reading_pb2.PeekResponse) -> Peek:
    """Read the answer of Peek."""
    return Peek(
        text=message.text,
        distributions=_responses.token_logprobs(message.distributions),
        position=message.position,
        allowed_logprob=message.allowed_logprob if message.HasField("allowed_logprob") else None,
    )


def observed(message: reading_pb2.ObserveResponse | None) -> Observed:
    """Read the log-probabilities of a part of an observed text.

    Raises:
        InternalError: the message is `None`, because the server closed the stream instead of answering.

    """
    if message is None:
        text = "the server closed the stream without an answer to this text"
        raise InternalError(text, code=grpc.StatusCode.INTERNAL)
    return Observed(logprobs=_responses.token_logprobs(message.logprobs), position=message.position)


def inspection(messages: Sequence[reading_pb2.InspectResponse]) -> Inspection:
    """Read the gates and states of an inspected text."""
    layers = {}
    for place, first in enumerate(messages[0].layers if messages else ()):
        told = [message.layers[place] for message in messages]
        layers[first.layer] = Activations(
            gates=_gates(told),
            input_gate=_matrix([one.input_gate for one in told]),
            forget_gate=_matrix([one.forget_gate for one in told]),
            candidate=_matrix([one.candidate for one in told]),
            output_gate=_matrix([one.output_gate for one in told]),
            cell=_matrix([one.cell for one in told]),
            hidden=_matrix([one.hidden for one in told]),
        )
    with_distributions = bool(messages and messages[0].distribution)
    return Inspection(
        tokens=tuple(
            InspectedToken(
                symbol=message.token.symbol,
                logprob=message.token.logprob,
                position=message.position,
                next=_responses.alternatives(message.next),
            )
            for message in messages
        ),
        layers=layers,
        distributions=_matrix([message.distribution for message in messages]) if with_distributions else None,
    )


def _gates(told: Sequence[reading_pb2.LayerActivations]) -> dict[str, memoryview[float]]:
    """The gates of one layer by name; a server that does not name them has those of an LSTM."""
    if not told[0].gates:
        fields = {"input": "input_gate", "forget": "forget_gate", "candidate": "candidate", "output": "output_gate"}
        return {name: _matrix([getattr(one, field) for one in told]) for name, field in fields.items()}
    return {gate.name: _matrix([one.gates[place].values for one in told]) for place, gate in enumerate(told[0].gates)}


def _matrix(rows: Sequence[Iterable[float]]) -> memoryview[float]:
    """Make a read-only matrix of one or more rows of equal length; empty rows give the shape (0,)."""
    values = array("f")
    for row in rows:
        values.extend(row)
    if not values:
        return memoryview(b"").cast("f")
    return memoryview(values.tobytes()).cast("f", (len(rows), len(values) // len(rows)))
