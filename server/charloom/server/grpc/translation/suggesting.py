"""suggesting.proto: which texts are probable."""

from __future__ import annotations

from charloom.engine.calls.beam_search import Boundary
from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.calls.suggesting import Ranking, SuggestionRequest, Suggestions
from charloom.engine.constraints.constraint import Constraint, Kind
from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.session import Key
from charloom.server.grpc.translation.text import to_skip_unknown
from charloom.v1 import suggesting_pb2


def to_start(start: suggesting_pb2.SuggestingStart, tenant: str) -> ReadingRequest:
    """What to read first, and from where.

    Raises:
        InvalidRequest: an enum's value is unknown.
    """
    return ReadingRequest(
        key=Key(tenant, start.session_id),
        model=start.model,
        state=start.state,
        text=start.prompt,
        skip_unknown=to_skip_unknown(start.unknown_characters),
    )


def from_ranking(ranking: Ranking) -> suggesting_pb2.RankResponse:
    """The message for how probable some texts are."""
    return suggesting_pb2.RankResponse(
        candidates=[
            suggesting_pb2.RankedCandidate(logprob=one.logprob, tokens=one.tokens, probability=one.probability)
            for one in ranking.candidates
        ],
        position=ranking.position,
    )


_BOUNDARIES = {
    suggesting_pb2.SUGGESTION_BOUNDARY_UNSPECIFIED: Boundary.WORD,
    suggesting_pb2.SUGGESTION_BOUNDARY_WORD: Boundary.WORD,
    suggesting_pb2.SUGGESTION_BOUNDARY_LINE: Boundary.LINE,
    suggesting_pb2.SUGGESTION_BOUNDARY_LENGTH: Boundary.LENGTH,
}


def to_suggestion(request: suggesting_pb2.SuggestRequest, tenant: str) -> SuggestionRequest:
    """The engine's request for suggestions.

    Raises:
        InvalidRequest: an enum's value is unknown.
    """
    if request.boundary not in _BOUNDARIES:
        raise InvalidRequest("boundary", f"there is no value {request.boundary}")
    given = {name: getattr(request, name) for name in ("count", "max_tokens", "beam") if request.HasField(name)}
    return SuggestionRequest(
        start=to_start(request.start, tenant),
        boundary=_BOUNDARIES[request.boundary],
        constraint=_to_constraint(request),
        **given,
    )


def _to_constraint(request: suggesting_pb2.SuggestRequest) -> Constraint | None:
    end = request.WhichOneof("end")
    if end is None or end == "boundary":
        return None
    content = request.choices.texts if end == "choices" else [getattr(request, end)]
    return Constraint(Kind(end), tuple(content), end)


def from_suggestions(found: Suggestions, beam: int) -> suggesting_pb2.SuggestResponse:
    """The message for the most probable texts."""
    return suggesting_pb2.SuggestResponse(
        suggestions=[
            suggesting_pb2.Suggestion(text=one.text, tokens=one.tokens, logprob=one.logprob, ended=one.ended)
            for one in found.texts
        ],
        beam=beam,
        exact=found.exact,
        position=found.position,
    )
