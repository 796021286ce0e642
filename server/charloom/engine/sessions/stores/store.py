"""The interface of a session store.

Between calls, a session is only in the store. It has one writer at a time: a call *acquires* it and gets a *lease* with
a *fence*, a number that grows with each lease of that session. A write whose fence is not the newest is refused,
whatever the clocks say: a server that was cut off cannot undo what another has done since. A lease that its holder does
not renew ends after some seconds, so that a dead server's sessions can be used again; the same call, resumed elsewhere,
takes it over at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from charloom.engine.errors import Overloaded
from charloom.engine.quotas import KEPT_RETRY_SECONDS, Kept
from charloom.engine.sessions.records import Unreadable
from charloom.engine.sessions.session import Key, Session
from charloom.engine.shares import Share

LEASE_SECONDS = 10.0
"""Seconds after which a lease in a shared store ends if it is not renewed."""
TOMBSTONE_SECONDS = 24 * 3600
"""Seconds for which a store remembers that a session expired or was deleted."""


@dataclass(frozen=True, eq=False)
class Lease:
    """The right to write one session. Compared by identity."""

    session: Session
    """The session as it was when it was acquired."""
    fence: int
    same_call: bool = False
    """Whether it was taken over from the same call, whose lease had not been given back."""


class Erased(NamedTuple):
    """A session that was erased."""

    id: str
    bytes: int
    """Bytes of memory, as `Kept` counts them."""


class Store(Protocol):
    """Keeps sessions by key. Every method may raise `StoreUnavailable`; those that write, `StoreFull`.

    Each method takes effect as a whole or not at all.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes may use the same sessions, so that leases must be renewed."""

    @property
    def waits(self) -> bool:
        """Whether its coroutines may suspend, for a disk or a network."""

    @property
    def memory(self) -> int:
        """Bytes of this process that its sessions and tombstones take."""

    async def add(self, sessions: Sequence[Session]) -> None:
        """Add new sessions, all or none.

        They count against the share of the call that runs in this task, until they are removed. A full store takes some
        more from callers that have less than their part of it; see `Parts`.

        Raises:
            SessionExists: an id is in use.
            QuotaExceeded: the caller may have no more.
            Overloaded: the store takes no more sessions.
        """

    async def get(self, key: Key) -> Session:
        """The session as last written.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
        """

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """Up to `count` of a tenant's sessions whose ids come after `after`, in the order of their ids."""

    async def acquire(self, key: Key, call_id: str = "") -> Lease:
        """Lease a session for one call; it does not expire until `release`, or until the lease ends.

        Args:
            key: of the session
            call_id: of the call; a lease of the same call is taken over. Empty: the call cannot be resumed.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
            SessionBusy: another call has it.
        """

    async def write(self, lease: Lease, session: Session) -> None:
        """Write a session and keep the lease.

        Raises:
            SessionTakenOver: the lease was lost: a later one was given, or the session was erased.
        """

    async def release(self, lease: Lease, session: Session) -> None:
        """Write a session and give the lease back; adds the session again if the store has lost it meanwhile.

        Raises:
            SessionTakenOver: as `write`.
        """

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Extend leases; returns those that were lost."""

    async def delete(self, key: Key) -> Session:
        """Delete a session and return it.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
            SessionBusy: a call is using it.
        """

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        """Erase up to `count` of a tenant's sessions in the order of their ids, without reading them.

        If it returns fewer than `count`, the tenant had none left at that moment. Sessions in use are erased too: what
        their calls still write is refused, as if another call had taken the session over.
        """

    async def kept(self, share: Share) -> Kept:
        """Number and bytes of a caller's sessions."""

    async def count(self) -> int:
        """Number of sessions of all callers, including expired ones that are not swept yet."""

    async def sweep(self) -> int:
        """Remove expired sessions; returns how many."""

    async def check(self) -> None:
        """Check that sessions can be read and written; raises if not. A full store passes."""

    async def close(self) -> None:
        """Close files and connections."""


def full(kept: int) -> Overloaded:
    """The error of a store that has `kept` sessions and takes no more."""
    return Overloaded(f"{kept} sessions are kept already, as many as this server has room for", KEPT_RETRY_SECONDS)
