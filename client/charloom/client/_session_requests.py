"""Requests about sessions to protobuf, for both clients. `None` leaves a field unset.

Every function raises `InvalidValue` for a value that a message cannot carry. Times to live are in seconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from google.protobuf import duration_pb2

from charloom.client import _requests, _values
from charloom.client._errors import InvalidValue
from charloom.client._session_types import NewSession
from charloom.v1 import generation_pb2, sessions_pb2, tenants_pb2


class Identified(Protocol):
    """Something with an id: a session of either client."""

    @property
    def id(self) -> str:
        """Identifies it on its server."""


SessionOrId = TypeVar("SessionOrId", bound=Identified | str)
"""A session, or the id of one."""


def create_session_request(
    model: str | None, id: str | None, seed: int | None, time_to_live: float | None, adaptive: bool = False
) -> sessions_pb2.CreateSessionRequest:
    """Build the request of CreateSession."""
    return sessions_pb2.CreateSessionRequest(
        model=_name("model", model),
        session_id=_name("id", id),
        seed=_number("seed", seed),
        time_to_live=_lifetime(time_to_live),
        adaptive=_values.flag("adaptive", adaptive),
    )


def new_session(
    model: str | None, id: str | None, seed: int | None, time_to_live: float | None, adaptive: bool
) -> NewSession:
    """Describe a session that its first generation makes; an id that is not given is drawn here."""
    request = create_session_request(model, id, seed, time_to_live, adaptive)  # raises for what no message can carry
    return NewSession(request.session_id or secrets.token_urlsafe(16), model, seed, time_to_live, adaptive)


def make_first(options: generation_pb2.GenerationOptions, session: NewSession) -> None:
    """Let a generation make its session."""
    time_to_live = _lifetime(session.time_to_live)
    options.new_session.CopyFrom(generation_pb2.NewSession(time_to_live=time_to_live, adaptive=session.adaptive))
    if session.model is not None and not options.model:
        options.model = session.model
    if session.seed is not None and not options.HasField("seed"):
        options.seed = session.seed


def start_request(
    start: str, model: str | None, id: str | None, seed: int | None, time_to_live: float | None, adaptive: bool
) -> sessions_pb2.ForkSessionRequest:
    """Build the request for a session that starts from the state of another one."""
    if adaptive:
        raise InvalidValue(
            "adaptive", f"a session that starts from session {start!r} learns if that does; leave it out"
        )
    if model is not None:
        raise InvalidValue("model", f"a session that starts from session {start!r} has its model; leave it out")
    return fork_session_request(_values.text("start", start), seed=seed, id=id, time_to_live=time_to_live)


def get_session_request(id: str) -> sessions_pb2.GetSessionRequest:
    """Build the request of GetSession."""
    return sessions_pb2.GetSessionRequest(session_id=_values.text("id", id))


def delete_session_request(id: str) -> sessions_pb2.DeleteSessionRequest:
    """Build the request of DeleteSession."""
    return sessions_pb2.DeleteSessionRequest(session_id=_values.text("id", id))


def export_tenant_request(tenant: str, time_to_live: float | None) -> tenants_pb2.ExportTenantRequest:
    """Build the request of ExportTenant."""
    return tenants_pb2.ExportTenantRequest(tenant=tenant, time_to_live=_lifetime(time_to_live))


def update_session_request(id: str, time_to_live: float | None) -> sessions_pb2.UpdateSessionRequest:
    """Build the request of UpdateSession."""
    return sessions_pb2.UpdateSessionRequest(session_id=id, time_to_live=_lifetime(time_to_live))


def feed_session_request(
    id: str, text: str, *, unknown_characters: str | None, expected_position: int | None
) -> sessions_pb2.FeedSessionRequest:
    """Build the request of FeedSession."""
    return sessions_pb2.FeedSessionRequest(
        session_id=id,
        text=_values.text("text", text),
        unknown_characters=_requests.unknown_characters(unknown_characters),
        expected_position=_number("expected_position", expected_position),
    )


def rewind_session_request(
    id: str, position: int, *, seed: int | None, expected_position: int | None
) -> sessions_pb2.RewindSessionRequest:
    """Build the request of RewindSession."""
    return sessions_pb2.RewindSessionRequest(
        session_id=id,
        position=_values.uint64("position", position),
        seed=_number("seed", seed),
        expected_position=_number("expected_position", expected_position),
    )


def move_session_request(
    id: str, model: str | None, *, unknown_characters: str | None, expected_position: int | None
) -> sessions_pb2.MoveSessionRequest:
    """Build the request of MoveSession."""
    return sessions_pb2.MoveSessionRequest(
        session_id=id,
        model=_name("model", model),
        unknown_characters=_requests.unknown_characters(unknown_characters),
        expected_position=_number("expected_position", expected_position),
    )


def fork_session_request(
    source: str,
    *,
    position: int | None = None,
    seed: int | None,
    id: str | None,
    time_to_live: float | None,
) -> sessions_pb2.ForkSessionRequest:
    """Build the request of ForkSession for one copy."""
    return sessions_pb2.ForkSessionRequest(
        session_id=source,
        position=_number("position", position),
        seed=_number("seed", seed),
        new_session_ids=[] if id is None else [_values.text("id", id)],
        time_to_live=_lifetime(time_to_live),
    )


def fork_sessions_request(
    source: str,
    count: int,
    *,
    position: int | None,
    seed: int | None,
    ids: Sequence[str] | None,
    time_to_live: float | None,
) -> sessions_pb2.ForkSessionRequest:
    """Build the request of ForkSession for `count` copies."""
    request = fork_session_request(source, position=position, seed=seed, id=None, time_to_live=time_to_live)
    request.count = _values.uint32("count", count)
    request.new_session_ids.extend([] if ids is None else _values.texts("ids", ids))
    return request


def blend_sessions_request(
    sources: Mapping[SessionOrId, float], *, id: str | None, seed: int | None, time_to_live: float | None
) -> sessions_pb2.BlendSessionsRequest:
    """Build the request of BlendSessions, the sources in the order of the mapping."""
    if not isinstance(sources, Mapping):
        raise InvalidValue("sources", "it does not map sessions, or their ids, to weights")
    blended = []
    for source, weight in sources.items():
        session_id = _values.text("sources", getattr(source, "id", source))
        blended.append(
            sessions_pb2.BlendSource(session_id=session_id, weight=_values.number(f"sources[{session_id!r}]", weight))
        )
    return sessions_pb2.BlendSessionsRequest(
        sources=blended,
        session_id=_name("id", id),
        seed=_number("seed", seed),
        time_to_live=_lifetime(time_to_live),
    )


def export_session_request(id: str, time_to_live: float | None) -> sessions_pb2.ExportSessionRequest:
    """Build the request of ExportSession."""
    return sessions_pb2.ExportSessionRequest(session_id=id, time_to_live=_lifetime(time_to_live))


def import_session_request(
    state: bytes, *, id: str | None, time_to_live: float | None
) -> sessions_pb2.ImportSessionRequest:
    """Build the request of ImportSession."""
    return sessions_pb2.ImportSessionRequest(
        state=_values.token("state", state), session_id=_name("id", id), time_to_live=_lifetime(time_to_live)
    )


def _name(field: str, value: str | None) -> str:
    return "" if value is None else _values.text(field, value)


def _number(field: str, value: int | None) -> int | None:
    return None if value is None else _values.uint64(field, value)


def _lifetime(seconds: float | None) -> duration_pb2.Duration | None:
    return None if seconds is None else _values.duration("time_to_live", seconds)
