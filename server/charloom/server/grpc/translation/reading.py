"""reading.proto: what a model makes of a text."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.bundle import Bundle, Vocabulary
from charloom.engine.calls.inspection import InspectedToken, InspectionRequest
from charloom.engine.calls.reading import ScoredText
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.sessions.session import Key
from charloom.server.grpc.translation.text import from_alternative, to_skip_unknown
from charloom.v1 import reading_pb2

Reads = reading_pb2.ScoreRequest | reading_pb2.ObserveStart | reading_pb2.ScoreManyStart
"""What says from where to read, and how."""


def to_reading(request: Reads, tenant: str) -> ReadingRequest:
    """The engine's request to read, without the text.

    Raises:
        InvalidRequest: an enum's value is unknown.
    """
    return ReadingRequest(
        key=Key(tenant, request.session_id),
        model=request.model,
        skip_unknown=to_skip_unknown(request.unknown_characters),
        top_logprobs=0 if isinstance(request, reading_pb2.ScoreManyStart) else request.top_logprobs,
    )


def to_inspection(request: reading_pb2.InspectRequest, tenant: str) -> InspectionRequest:
    """The engine's request to inspect.

    Raises:
        InvalidRequest: an enum's value is unknown.
    """
    return InspectionRequest(
        key=Key(tenant, request.session_id),
        model=request.model,
        text=request.text,
        skip_unknown=to_skip_unknown(request.unknown_characters),
        layers=request.layers,
        top_next=request.top_next,
        distribution=request.distribution,
    )


def from_score(scored: ScoredText, vocabulary: Vocabulary) -> reading_pb2.ScoreResponse:
    """The message for how probable a text is, without the log-probabilities of its tokens: see `encoded`."""
    return reading_pb2.ScoreResponse(
        nats_per_token=scored.nats_per_token,
        bits_per_character=scored.bits_per_character(vocabulary),
        perplexity=scored.perplexity,
    )


def from_scores(scores: Sequence[ScoredText], vocabulary: Vocabulary) -> reading_pb2.ScoreManyResponse:
    """The message for how probable some texts are."""
    return reading_pb2.ScoreManyResponse(
        scores=[
            reading_pb2.TextScore(
                tokens=len(scored.logprobs),
                logprob=-scored.nats,
                nats_per_token=scored.nats_per_token,
                bits_per_character=scored.bits_per_character(vocabulary),
                perplexity=scored.perplexity,
            )
            for scored in scores
        ]
    )


_GATE_FIELDS = {"input": "input_gate", "forget": "forget_gate", "candidate": "candidate", "output": "output_gate"}
"""Gates that have a field of their own."""
_STATE_FIELDS = {"h": "hidden", "c": "cell"}
"""State arrays that have a field."""


def from_inspected(found: InspectedToken, layers: Sequence[int], bundle: Bundle) -> reading_pb2.InspectResponse:
    """The message for what a token did in these layers."""
    vocabulary, cell = bundle.vocabulary, bundle.manifest.cell
    return reading_pb2.InspectResponse(
        token=from_alternative(vocabulary, found.token, found.logprob),
        position=found.position,
        layers=[
            _layer(layer, dict(zip(cell.gates, gates, strict=True)), dict(zip(cell.arrays, state, strict=True)))
            for layer, gates, *state in zip(layers, found.gates.tolist(), *found.state.tolist(), strict=True)
        ],
        next=[from_alternative(vocabulary, *other) for other in found.next],
        distribution=() if found.distribution is None else found.distribution.tolist(),
    )


def _layer(layer: int, gates: dict[str, list[float]], state: dict[str, list[float]]) -> reading_pb2.LayerActivations:
    """What a layer's gates and state arrays are for one token, by name."""
    message = reading_pb2.LayerActivations(layer=layer)
    for names, parts in ((_GATE_FIELDS, gates), (_STATE_FIELDS, state)):
        for name in names.keys() & parts.keys():
            getattr(message, names[name]).extend(parts[name])
    message.gates.extend(reading_pb2.Gate(name=name, values=values) for name, values in gates.items())
    return message
