"""Requests that read texts (score, peek, observe, inspect) to protobuf, for both clients.

Every function raises `InvalidValue` for a value that a message cannot carry.
"""

from __future__ import annotations

from collections.abc import Sequence

from charloom.client import _requests, _values
from charloom.client._errors import InvalidValue
from charloom.client._options import GenerateOptions
from charloom.v1 import reading_pb2


def score_request(
    text: str, model: str | None, unknown_characters: str | None, top_logprobs: int, session_id: str = ""
) -> reading_pb2.ScoreRequest:
    """Build the request of Score."""
    return reading_pb2.ScoreRequest(
        model="" if model is None else _values.text("model", model),
        session_id=session_id,
        text=_values.text("text", text),
        unknown_characters=_requests.unknown_characters(unknown_characters),
        top_logprobs=_values.uint32("top_logprobs", top_logprobs),
    )


def score_many_start(
    model: str | None, unknown_characters: str | None, session_id: str = ""
) -> reading_pb2.ScoreManyRequest:
    """Build the first message of ScoreMany."""
    return reading_pb2.ScoreManyRequest(
        start=reading_pb2.ScoreManyStart(
            model="" if model is None else _values.text("model", model),
            session_id=session_id,
            unknown_characters=_requests.unknown_characters(unknown_characters),
        )
    )


def score_many_texts(texts: Sequence[str]) -> reading_pb2.ScoreManyRequest:
    """Build a further message of ScoreMany."""
    return reading_pb2.ScoreManyRequest(texts=reading_pb2.ScoreManyTexts(texts=texts))


def peek_request(prompt: str, top: int, options: GenerateOptions, session_id: str = "") -> reading_pb2.PeekRequest:
    """Build the request of Peek; raises `TypeError`, too, for options that do not exist."""
    return reading_pb2.PeekRequest(
        options=_requests.generation_options(prompt, options, session_id), top=_values.uint32("top", top)
    )


def observe_start(
    model: str | None, unknown_characters: str | None, top_logprobs: int, session_id: str = ""
) -> reading_pb2.ObserveRequest:
    """Build the first message of Observe."""
    return reading_pb2.ObserveRequest(
        start=reading_pb2.ObserveStart(
            model="" if model is None else _values.text("model", model),
            session_id=session_id,
            unknown_characters=_requests.unknown_characters(unknown_characters),
            top_logprobs=_values.uint32("top_logprobs", top_logprobs),
        )
    )


def observe_text(text: str) -> reading_pb2.ObserveRequest:
    """Build a further message of Observe."""
    return reading_pb2.ObserveRequest(text=_values.text("text", text))


def inspect_request(
    text: str,
    model: str | None,
    unknown_characters: str | None,
    layers: Sequence[int] | None,
    top_next: int,
    distributions: bool,
    session_id: str = "",
) -> reading_pb2.InspectRequest:
    """Build the request of Inspect."""
    wanted = () if layers is None else _values.uint32s("layers", layers)
    if layers is not None and not wanted:
        raise InvalidValue("layers", "it names none; leave it out for all of them")
    return reading_pb2.InspectRequest(
        model="" if model is None else _values.text("model", model),
        session_id=session_id,
        text=_values.text("text", text),
        unknown_characters=_requests.unknown_characters(unknown_characters),
        layers=wanted,
        top_next=_values.uint32("top_next", top_next),
        distribution=_values.flag("distributions", distributions),
    )
