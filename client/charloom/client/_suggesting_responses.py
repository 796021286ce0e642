"""Answers of Rank and Suggest, from protobuf to the SDK's own types."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from charloom.client._errors import InternalError
from charloom.client._suggesting_types import RankedText, Suggestion, Suggestions
from charloom.v1 import suggesting_pb2


def ranking(texts: Sequence[str], message: suggesting_pb2.RankResponse) -> tuple[RankedText, ...]:
    """Read the ranking of the candidates.

    Raises:
        InternalError: the server ranked more or fewer texts.

    """
    if len(message.candidates) != len(texts):
        raise InternalError(
            f"the server answered about {len(message.candidates)} candidates where {len(texts)} were asked for",
            code=grpc.StatusCode.INTERNAL,
        )
    return tuple(
        RankedText(text=text, logprob=one.logprob, tokens=one.tokens, probability=one.probability)
        for text, one in zip(texts, message.candidates, strict=True)
    )


def suggestions(message: suggesting_pb2.SuggestResponse) -> Suggestions:
    """Read the most probable texts."""
    return Suggestions(
        texts=tuple(
            Suggestion(text=one.text, tokens=one.tokens, logprob=one.logprob, ended=one.ended)
            for one in message.suggestions
        ),
        beam=message.beam,
        exact=message.exact,
        position=message.position,
    )
