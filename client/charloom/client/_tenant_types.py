"""A tenant's data: plain frozen values that know neither gRPC nor protobuf."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from charloom.client._session_types import SealedState, SessionInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptSession:
    """A session that the server keeps for a tenant."""

    id: str
    """Identifies the session among those of its tenant."""

    info: SessionInfo | None
    """Description of the session; `None` if the server cannot read its record."""

    problem: str | None
    """Why its record cannot be read, or why an export has neither text nor state; `None` if nothing is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedSession(KeptSession):
    """A session with its text and its state."""

    text: str = field(repr=False)
    """The text from `earliest_position` to `position`; the server no longer has earlier text."""

    sealed: SealedState | None
    """Its state, for clients of the same tenant; `None` if there is a problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasureReceipt:
    """What was erased for a tenant, and when."""

    tenant: str
    """Name of the tenant."""

    sessions: int
    """Number of sessions that were erased; 0 if there were none."""

    bytes: int
    """Their bytes in memory, counted as for the tenant's limit `session_bytes`."""

    ids_sha256: str
    """SHA-256, in hexadecimal, of their sorted ids, each followed by a newline."""

    erased: datetime
    """When it was done, in UTC."""

    request_id: str
    """The id of the call, which is also in the server's audit log."""
