"""sessions.proto: sessions, and pages of them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from charloom.engine.calls.requests import ReadingRequest
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import DEFAULT_PAGE, LARGEST_PAGE
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.server.grpc.translation.text import to_skip_unknown
from charloom.server.grpc.translation.times import from_seconds, from_time
from charloom.v1 import sessions_pb2


def to_feeding(request: sessions_pb2.FeedSessionRequest, tenant: str) -> ReadingRequest:
    """The engine's request to let a session read.

    Raises:
        InvalidRequest: an enum's value is unknown.
    """
    return ReadingRequest(
        key=Key(tenant, request.session_id),
        text=request.text,
        skip_unknown=to_skip_unknown(request.unknown_characters),
    )


def to_page_size(wanted: int) -> int:
    """How many sessions a page is to have.

    Raises:
        InvalidRequest: it is too many.
    """
    if wanted > LARGEST_PAGE:
        raise InvalidRequest("page_size", f"{wanted} is not allowed; up to {LARGEST_PAGE}")
    return wanted or DEFAULT_PAGE


def to_last_id(page_token: str) -> str:
    """The id of the last session of the page before; empty for the first page.

    Raises:
        InvalidRequest: `from_last_id` did not make it.
    """
    try:
        return base64.b64decode(page_token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as problem:
        raise InvalidRequest("page_token", "this server did not give it; leave it out for the first page") from problem


def from_last_id(session_id: str) -> str:
    """The token of the page that begins after a session."""
    return base64.urlsafe_b64encode(session_id.encode()).decode()


def from_page(found: Sequence[Session | Unreadable], *, more: bool) -> sessions_pb2.ListSessionsResponse:
    """The message for a page of sessions; `more`: whether there is another page."""
    unreadable = [one for one in found if isinstance(one, Unreadable)]
    return sessions_pb2.ListSessionsResponse(
        sessions=[from_session(one) for one in found if isinstance(one, Session)],
        unreadable=[sessions_pb2.UnreadableSession(session_id=one.id, problem=one.problem) for one in unreadable],
        next_page_token=from_last_id(found[-1].id) if more else "",
    )


def from_session(session: Session) -> sessions_pb2.Session:
    """The message for a session: no text, no state."""
    origin = session.origin
    return sessions_pb2.Session(
        id=session.id,
        model=session.model,
        model_digest=session.model_digest,
        position=session.snapshot.position,
        version=session.version,
        seed=session.snapshot.seed,
        create_time=from_time(session.created),
        update_time=from_time(session.updated),
        expire_time=from_time(session.expires),
        time_to_live=from_seconds(session.time_to_live.total_seconds()),
        earliest_position=session.history.earliest,
        origin=sessions_pb2.Origin(session_id=origin.session_id, position=origin.position) if origin else None,
        adaptive=session.adaptive,
    )
