"""tenants.proto: what is kept of a tenant."""

from __future__ import annotations

from typing import Any, Protocol

from charloom.engine.errors import InvalidRequest
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Session
from charloom.engine.sessions.tenants import ExportedSession, require_tenant
from charloom.server.grpc.translation.sessions import from_session
from charloom.server.grpc.translation.times import from_time
from charloom.v1 import tenants_pb2


class OfTenant(Protocol):
    """A request about a tenant."""

    @property
    def tenant(self) -> str:
        """Its name."""

    def HasField(self, name: Any, /) -> bool:
        """Whether it was set."""


def to_tenant(request: OfTenant) -> str:
    """The tenant that a request is about.

    Raises:
        InvalidRequest: it names none, or the name is malformed.
    """
    if not request.HasField("tenant"):
        raise InvalidRequest("tenant", "say whose data is meant; an empty name is that of callers who have no tenant")
    require_tenant(request.tenant)
    return request.tenant


def from_kept(kept: Session | Unreadable) -> tenants_pb2.TenantSession:
    """The message for a session, without its text and state."""
    if isinstance(kept, Unreadable):
        return tenants_pb2.TenantSession(session_id=kept.id, problem=kept.problem)
    return tenants_pb2.TenantSession(session_id=kept.id, session=from_session(kept))


def from_exported(exported: ExportedSession | Unreadable) -> tenants_pb2.TenantSession:
    """The message for a session with its text and state."""
    if isinstance(exported, Unreadable):
        return from_kept(exported)
    expires = exported.state_expires
    return tenants_pb2.TenantSession(
        session_id=exported.session.id,
        session=from_session(exported.session),
        problem=exported.problem,
        text=exported.text,
        state=exported.state,
        state_expire_time=None if expires is None else from_time(expires),
    )
