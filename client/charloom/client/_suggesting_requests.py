"""Requests of Rank and Suggest to protobuf, for both clients.

Every function raises `InvalidValue` for a value that a message cannot carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from charloom.client import _requests, _values
from charloom.client._errors import InvalidValue
from charloom.v1 import generation_pb2, suggesting_pb2


def rank_request(
    candidates: Sequence[str],
    prompt: str,
    model: str | None,
    state: bytes | None,
    unknown_characters: str | None,
    session_id: str = "",
) -> suggesting_pb2.RankRequest:
    """Build the request of Rank."""
    start = _start(prompt, model, state, unknown_characters, session_id)
    return suggesting_pb2.RankRequest(start=start, candidates=_values.texts("candidates", candidates))


_BOUNDARIES = {
    "word": suggesting_pb2.SUGGESTION_BOUNDARY_WORD,
    "line": suggesting_pb2.SUGGESTION_BOUNDARY_LINE,
    "length": suggesting_pb2.SUGGESTION_BOUNDARY_LENGTH,
}


def suggest_request(
    prompt: str,
    model: str | None,
    state: bytes | None,
    unknown_characters: str | None,
    session_id: str,
    *,
    count: int | None,
    boundary: str | None,
    regex: str | None,
    choices: Sequence[str] | None,
    json_schema: Mapping[str, Any] | str | None,
    max_tokens: int | None,
    beam: int | None,
) -> suggesting_pb2.SuggestRequest:
    """Build the request of Suggest."""
    ends = {"boundary": boundary, "regex": regex, "choices": choices, "json_schema": json_schema}
    first, *more = [name for name, value in ends.items() if value is not None] or [""]
    if more:
        raise InvalidValue(more[0], f"{first} says already where a text ends; give one of the two")
    request = suggesting_pb2.SuggestRequest(start=_start(prompt, model, state, unknown_characters, session_id))
    for name, value in (("count", count), ("max_tokens", max_tokens), ("beam", beam)):
        if value is not None:
            setattr(request, name, _values.uint32(name, value))
    if boundary is not None:
        request.boundary = _values.one_of("boundary", boundary, _BOUNDARIES)
    if regex is not None:
        request.regex = _values.text("regex", regex)
    if choices is not None:
        request.choices.CopyFrom(generation_pb2.Choices(texts=_values.texts("choices", choices)))
    if json_schema is not None:
        request.json_schema = _values.json_text("json_schema", json_schema)
    return request


def _start(
    prompt: str, model: str | None, state: bytes | None, unknown_characters: str | None, session_id: str
) -> suggesting_pb2.SuggestingStart:
    return suggesting_pb2.SuggestingStart(
        model="" if model is None else _values.text("model", model),
        session_id=session_id,
        state=b"" if state is None else _values.token("state", state),
        prompt=_values.text("prompt", prompt),
        unknown_characters=_requests.unknown_characters(unknown_characters),
    )
