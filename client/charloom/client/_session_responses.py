"""Sessions, also those that a tenant keeps, from protobuf to the SDK's own types."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from datetime import timezone
from typing import TypeAlias

import grpc

from charloom.client._errors import InternalError
from charloom.client._session_types import DeletionReceipt, Origin, SealedState, SessionInfo
from charloom.client._tenant_types import ErasureReceipt, ExportedSession, KeptSession
from charloom.v1 import sessions_pb2, tenants_pb2


def session_info(message: sessions_pb2.Session) -> SessionInfo:
    """Read the description of a session."""
    return SessionInfo(
        id=message.id,
        model=message.model,
        model_digest=message.model_digest,
        position=message.position,
        version=message.version,
        seed=message.seed,
        create_time=message.create_time.ToDatetime(timezone.utc),
        update_time=message.update_time.ToDatetime(timezone.utc),
        expire_time=message.expire_time.ToDatetime(timezone.utc),
        time_to_live=message.time_to_live.ToNanoseconds() / 1e9,
        earliest_position=message.earliest_position,
        origin=Origin(session_id=message.origin.session_id or None, position=message.origin.position)
        if message.HasField("origin")
        else None,
        adaptive=message.adaptive,
    )


def forks(message: sessions_pb2.ForkSessionResponse, count: int) -> Sequence[SessionInfo]:
    """Read the answer of ForkSession to a request for `count` copies.

    Raises:
        InternalError: the answer has more or fewer.

    """
    if len(message.sessions) != count:
        raise InternalError(
            f"the server answered with {len(message.sessions)} sessions where {count} were asked for",
            code=grpc.StatusCode.INTERNAL,
        )
    return [session_info(session) for session in message.sessions]


def deletion_receipt(message: sessions_pb2.DeleteSessionResponse) -> DeletionReceipt:
    """Read the receipt of DeleteSession."""
    return DeletionReceipt(session=session_info(message.session), deleted=message.delete_time.ToDatetime(timezone.utc))


def sealed_state(message: sessions_pb2.ExportSessionResponse) -> SealedState:
    """Read a session's state."""
    return SealedState(state=message.state, expires=message.expire_time.ToDatetime(timezone.utc))


def kept_session(message: tenants_pb2.TenantSession) -> KeptSession:
    """Read a session that a tenant keeps."""
    return KeptSession(id=message.session_id, info=_info(message), problem=message.problem or None)


Listed: TypeAlias = "sessions_pb2.Session | sessions_pb2.UnreadableSession"


def in_order(page: sessions_pb2.ListSessionsResponse) -> list[Listed]:
    """The sessions of a page, in the order of their ids."""
    readable: Iterable[Listed] = page.sessions
    return list(heapq.merge(readable, page.unreadable, key=_id_of))


def listed_session(message: Listed) -> KeptSession:
    """Read a session of a page."""
    if isinstance(message, sessions_pb2.Session):
        return KeptSession(id=message.id, info=session_info(message), problem=None)
    return KeptSession(id=message.session_id, info=None, problem=message.problem)


def _id_of(message: Listed) -> str:
    return message.id if isinstance(message, sessions_pb2.Session) else message.session_id


def exported_session(message: tenants_pb2.TenantSession) -> ExportedSession:
    """Read a session that a tenant keeps, with text and state."""
    expires = message.state_expire_time.ToDatetime(timezone.utc)
    return ExportedSession(
        id=message.session_id,
        info=_info(message),
        problem=message.problem or None,
        text=message.text,
        sealed=SealedState(state=message.state, expires=expires) if message.state else None,
    )


def _info(message: tenants_pb2.TenantSession) -> SessionInfo | None:
    return session_info(message.session) if message.HasField("session") else None


def erasure_receipt(message: tenants_pb2.EraseTenantResponse) -> ErasureReceipt:
    """Read the receipt of EraseTenant."""
    return ErasureReceipt(
        tenant=message.tenant,
        sessions=message.sessions,
        bytes=message.bytes,
        ids_sha256=message.ids_sha256,
        erased=message.erase_time.ToDatetime(timezone.utc),
        request_id=message.request_id,
    )
