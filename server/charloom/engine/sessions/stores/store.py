"""What a session store does.

Between calls, the store is the one home of a session. One writer at a time: a call *acquires* a session and gets a
*lease* with a *fence*, a number that grows with each lease of that session. What is written with a fence that is not
the newest is refused, whatever the clocks say: a replica that was cut off cannot undo what another did since. A lease
that its holder does not renew ends after some seconds, so that a dead replica's sessions can be used again; the same
call, resumed elsewhere, takes it over at once.
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
"""How long a shared store waits for a holder to renew."""
TOMBSTONE_SECONDS = 24 * 3600
"""How long it is remembered that a session expired or was deleted."""


@dataclass(frozen=True, eq=False)
class Lease:
    """The right to write one session. Each is equal to itself alone."""

    session: Session
    """As it was when it was acquired."""
    fence: int
    same_call: bool = False
    """Whether it was taken over from the same call, which had not ended, or whose lease had and nobody took since."""


class Erased(NamedTuple):
    """A session that was erased."""

    id: str
    bytes: int
    """Of memory, as `Kept` counts them."""


class Store(Protocol):
    """Sessions by key. Every method may raise `StoreUnavailable`; those that write, `StoreFull`. None is half done."""

    @property
    def shared(self) -> bool:
        """Whether other processes may use the same sessions: leases then have to be renewed."""

    @property
    def waits(self) -> bool:
        """Whether its methods may have to wait."""

    @property
    def memory(self) -> int:
        """Bytes of this process that its sessions take, and what it knows of those that are gone."""

    async def add(self, sessions: Sequence[Session]) -> None:
        """Keep new sessions, all or none.

        They count against the share of the call that runs in this task, until they are forgotten. A store that is full
        takes some more from callers that have less than their part of it; see `Parts`.

        Raises:
            SessionExists: an id is in use.
            QuotaExceeded: the caller may have no more.
            Overloaded: no more sessions are kept.
        """

    async def get(self, key: Key) -> Session:
        """The session as it was written last.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
        """

    async def page(self, tenant: str, after: str, count: int) -> list[Session | Unreadable]:
        """Up to `count` of a tenant's sessions whose ids come after `after`, in the order of their ids."""

    async def acquire(self, key: Key, call_id: str = "") -> Lease:
        """Take a session for one call; it does not expire until `release`, or until the lease ends.

        Args:
            key: of the session
            call_id: of the call; a lease of the same call is taken over. Empty: of no call that could be resumed.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
            SessionBusy: another call has it.
        """

    async def write(self, lease: Lease, session: Session) -> None:
        """Write a session and keep the lease.

        Raises:
            SessionTakenOver: a later lease was given.
        """

    async def release(self, lease: Lease, session: Session) -> None:
        """Write a session and give the lease back; a session that the store lost meanwhile is there again.

        Raises:
            SessionTakenOver: a later lease was given.
        """

    async def renew(self, leases: Sequence[Lease]) -> list[Lease]:
        """Go on holding leases; returns those that were lost."""

    async def delete(self, key: Key) -> Session:
        """Forget a session and return what it was.

        Raises:
            SessionNotFound: or SessionExpired, SessionDeleted: there is none.
            SessionBusy: a call is using it.
        """

    async def erase(self, tenant: str, count: int) -> list[Erased]:
        """Forget up to `count` of a tenant's sessions in the order of their ids, without reading them.

        Where there were fewer, the tenant had none left at that moment. Those that calls are using are forgotten too:
        what these calls still write is refused, as if another call had taken the session over.
        """

    async def kept(self, share: Share) -> Kept:
        """What is kept for a caller."""

    async def count(self) -> int:
        """How many sessions are kept for all callers, with those whose time is up until they are forgotten."""

    async def sweep(self) -> int:
        """Forget sessions whose time is up; returns how many."""

    async def check(self) -> None:
        """Find out whether sessions can be read and written; that no more fit is no hindrance."""

    async def close(self) -> None:
        """Let go of files and connections."""


def full(kept: int) -> Overloaded:
    """What to say where no more sessions are kept than these."""
    return Overloaded(f"{kept} sessions are kept already, as many as this server has room for", KEPT_RETRY_SECONDS)
