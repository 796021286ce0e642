"""suggesting.proto: which texts are probable."""

from __future__ import annotations

from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.calls.suggesting import Ranking
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
