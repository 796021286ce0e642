"""Questions about which texts are probable to protobuf, for both clients.

Every function raises `InvalidValue` for a value that a message cannot carry.
"""

from __future__ import annotations

from collections.abc import Sequence

from charloom.client import _requests, _values
from charloom.v1 import suggesting_pb2


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
