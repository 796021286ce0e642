"""What is asked of a model's opinion of texts to protobuf, for both clients.

Every function raises `InvalidValue` for a value that a message cannot carry.
"""

from __future__ import annotations

from charloom.client import _requests, _values
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
