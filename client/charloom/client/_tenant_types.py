"""What the SDK returns of a tenant's data: plain frozen values that know neither gRPC nor protobuf."""

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
    """Describes it; `None` where the server cannot read its record."""

    problem: str | None
    """Why its record cannot be read, or why an export has neither text nor state; `None` where nothing is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedSession(KeptSession):
    """A session with all that the server can give out of it."""

    text: str = field(repr=False)
    """The text from `earliest_position` to `position`, which is what the server still has."""

    sealed: SealedState | None
    """Its state, for clients of the same tenant; `None` where there is a problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErasureReceipt:
    """What was erased of a tenant, and when."""

    tenant: str
    """Whose data it was."""

    sessions: int
    """How many sessions; 0 where there was nothing."""

    bytes: int
    """What they took in memory, as the tenant's limit of `session_bytes` counts it."""

    ids_sha256: str
    """SHA-256, in hexadecimal, of their ids in the order of the ids, each followed by a newline."""

    erased: datetime
    """When it was done, in UTC."""

    request_id: str
    """The id of the call, which the server's audit log has too."""
