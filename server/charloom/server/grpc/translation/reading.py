"""reading.proto: what a model makes of a text."""

from __future__ import annotations

from collections.abc import Sequence

from charloom.bundle import Vocabulary
from charloom.engine.calls.inspection import InspectedToken, InspectionRequest
from charloom.engine.calls.reading import ScoredText
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.sessions.session import Key
from charloom.server.grpc.translation.text import from_alternative, from_logprobs, to_skip_unknown
from charloom.v1 import reading_pb2


def to_reading(request: reading_pb2.ScoreRequest | reading_pb2.ObserveStart, tenant: str) -> ReadingRequest:
    """The engine's request to read, without the text.

    Raises:
        InvalidRequest: an enum's value is unknown.
    """
    return ReadingRequest(
        key=Key(tenant, request.session_id),
        model=request.model,
        skip_unknown=to_skip_unknown(request.unknown_characters),
        top_logprobs=request.top_logprobs,
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
    )


def from_score(scored: ScoredText, vocabulary: Vocabulary) -> reading_pb2.ScoreResponse:
    """The message for how probable a text is."""
    return reading_pb2.ScoreResponse(
        logprobs=from_logprobs(scored.logprobs, vocabulary),
        nats_per_token=scored.nats_per_token,
        bits_per_character=scored.bits_per_character(vocabulary),
        perplexity=scored.perplexity,
    )


def from_inspected(
    found: InspectedToken, layers: Sequence[int], vocabulary: Vocabulary, *, distribution: bool
) -> reading_pb2.InspectResponse:
    """The message for what a token did in these layers."""
    return reading_pb2.InspectResponse(
        token=from_alternative(vocabulary, found.token, found.logprob),
        position=found.position,
        layers=[
            reading_pb2.LayerActivations(
                layer=layer,
                input_gate=i,
                forget_gate=f,
                candidate=g,
                output_gate=o,
                cell=c,
                hidden=h,
            )
            for layer, (i, f, g, o), h, c in zip(layers, found.gates.tolist(), *found.state.tolist(), strict=True)
        ],
        next=[from_alternative(vocabulary, *other) for other in found.next],
        distribution=found.distribution.tolist() if distribution else (),
    )
