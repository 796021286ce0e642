"""The engine's errors, in terms of models, sessions and requests.

    EngineError
    +-- InvalidRequest          a field of the request is wrong
    +-- ModelNotFound
    +-- ModelNotInspectable     its bundle lacks what this needs
    +-- ModelRetired and the others of `model_errors`
    +-- SessionNotFound         it never existed here
    |   +-- SessionExpired
    |   +-- SessionDeleted
    +-- SessionExists
    +-- SessionOfAnotherModel
    +-- SessionBusy             another call is using it
    +-- SessionTakenOver        another call has it now
    +-- StalePosition           it is not where the caller expected
    +-- PositionNotKept         it cannot go back so far
    +-- StoreUnavailable        the session store does not answer
    +-- StoreFull               the session store takes no more
    +-- SealedStateCorrupt      a token that was changed, cut off, or sealed with another key
    +-- SealedStateVersion
    +-- SealedStateExpired
    +-- SealedStateOfAnotherTenant
    +-- SealedStateOfAnotherModel
    +-- Overloaded              try again later
    +-- TooMuchMemory           no call may need so much; it is in `memory_budget`
    +-- QuotaExceeded           more than this caller may have; it is in `quotas`
    +-- Draining                the engine is stopping
    +-- ReaderStalled           the text was not read
    +-- ClientIdle              the client has sent nothing for too long
    +-- DecoderFailure          the decoder broke off

Each has a `reason`, one UPPER_SNAKE word that programs can rely on, a message for people, and a `kind`, from which each
transport finds its own code in a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import Enum, auto
from typing import ClassVar

import numpy as np


class ErrorKind(Enum):
    """What an error means for the caller, independent of the transport."""

    INVALID = auto()
    """The request can never be accepted as it is."""
    NOT_FOUND = auto()
    """What it names does not exist here."""
    EXISTS = auto()
    """What it would make exists already."""
    PRECONDITION = auto()
    """What it names exists, but not in a state that allows this operation."""
    CONFLICT = auto()
    """Another request came in between; look again, then repeat."""
    OUT_OF_RANGE = auto()
    """It asks for a position that is not kept."""
    UNAUTHENTICATED = auto()
    """The caller has not proved who it is."""
    FORBIDDEN = auto()
    """What it names belongs to another caller, or the caller is not allowed to do this."""
    CORRUPT = auto()
    """Data that it carries or names is damaged."""
    EXHAUSTED = auto()
    """There is no room for it now."""
    UNAVAILABLE = auto()
    """The request cannot be served here now; it may succeed elsewhere, or later."""
    TIMEOUT = auto()
    """Something that it waits for has not come in time."""
    FAULT = auto()
    """The server failed, and the request was not the reason."""


def shown(value: str) -> str:
    """A name from a request as messages show it: quoted, and cut so that the message is not too long to be sent."""
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}... ({len(value)} characters)"


def shown_number(value: float) -> str:
    """A number from a request as messages show it: with the fewest digits that identify it.

    If it is exactly a float32, as numbers in protobuf messages are, the digits of a float32 are enough.
    """
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return str(narrow if float(narrow) == value else value).removesuffix(".0")


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    kind: ClassVar[ErrorKind]
    reason: ClassVar[str]
    retry_after: float | None = None
    """Seconds after which to try again; None: a retry is useless, or the time is not known."""

    @property
    def facts(self) -> dict[str, str]:
        """Values of the situation that programs can use, by name."""
        return {}


class InvalidRequest(EngineError):
    """A field of a request cannot be accepted."""

    kind = ErrorKind.INVALID
    reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class ModelNotFound(EngineError):
    """No model of this name is loaded."""

    kind = ErrorKind.NOT_FOUND
    reason = "MODEL_NOT_FOUND"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no model {shown(name)} here; this server has: {', '.join(known)}")


class ModelNotInspectable(EngineError):
    """The model's bundle has no inspector that can be used."""

    kind = ErrorKind.PRECONDITION
    reason = "MODEL_NOT_INSPECTABLE"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"model {name!r} cannot be inspected, because {why}")


class SessionNotFound(EngineError):
    """No session of this id is known here."""

    kind = ErrorKind.NOT_FOUND
    reason = "SESSION_NOT_FOUND"

    def __init__(self, session_id: str, what: str = "there is no session {id} here; create it first") -> None:
        self.session_id = session_id
        super().__init__(what.format(id=shown(session_id)))


class SessionExpired(SessionNotFound):
    """The session was not used for longer than its time to live."""

    reason = "SESSION_EXPIRED"

    def __init__(self, session_id: str, at: datetime) -> None:
        self.at = at
        super().__init__(
            session_id,
            f"session {{id}} expired at {at.isoformat(timespec='seconds')}; create a new one, "
            "with a longer time_to_live if it should wait longer",
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"time": self.at.isoformat()}


class SessionDeleted(SessionNotFound):
    """The session was deleted."""

    reason = "SESSION_DELETED"

    def __init__(self, session_id: str, at: datetime) -> None:
        self.at = at
        super().__init__(session_id, f"session {{id}} was deleted at {at.isoformat(timespec='seconds')}")

    @property
    def facts(self) -> dict[str, str]:
        return {"time": self.at.isoformat()}


class SessionExists(EngineError):
    """The wanted id is in use."""

    kind = ErrorKind.EXISTS
    reason = "SESSION_EXISTS"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} exists already; use it, delete it, or choose another id")


class SessionOfAnotherModel(EngineError):
    """The session belongs to another model than the request names, or to one that is not loaded here."""

    kind = ErrorKind.PRECONDITION
    reason = "SESSION_OF_ANOTHER_MODEL"

    def __init__(self, session_id: str, its_model: str, other: str, *, absent: bool = False) -> None:
        named = f"the request names {shown(other)}; leave the model out, or create a session of the other model"
        here = f"this server has {shown(other)}; serve the session's again, or one exported with --follows, and move it"
        super().__init__(f"session {session_id!r} belongs to model {its_model!r}, {here if absent else named}")


class SessionBusy(EngineError):
    """Another call is using the session, which has one writer at a time."""

    kind = ErrorKind.CONFLICT
    reason = "SESSION_BUSY"

    def __init__(self, session_id: str, position: int) -> None:
        self.position = position
        super().__init__(
            f"another call is using session {session_id!r} (it started at position {position}); "
            "wait for it to end, or use a session of your own"
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"position": str(self.position)}


class StalePosition(EngineError):
    """The session is not at the position that the caller expected."""

    kind = ErrorKind.CONFLICT
    reason = "STALE_POSITION"

    def __init__(self, session_id: str, expected: int, position: int) -> None:
        self.position = position
        super().__init__(f"session {session_id!r} is at position {position}, the request expected {expected}")

    @property
    def facts(self) -> dict[str, str]:
        return {"position": str(self.position)}


class SessionTakenOver(EngineError):
    """The call has lost its session: it was resumed elsewhere, or its lease ended and another call has the session."""

    kind = ErrorKind.CONFLICT
    reason = "SESSION_TAKEN_OVER"

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"another call took session {session_id!r} over; what this one generated since is not in it; resume it"
        )


class PositionNotKept(EngineError):
    """The session cannot be put back to this position."""

    kind = ErrorKind.OUT_OF_RANGE
    reason = "POSITION_NOT_KEPT"

    def __init__(self, position: int, earliest: int, present: int) -> None:
        self.position = position
        self.earliest = earliest
        what = "is in the future" if position > present else "is no longer kept"
        super().__init__(
            f"position {position} {what}; this session can be put back to any from {earliest} to {present}"
            + ("" if position > present else " (the server's --rewind-tokens says how many are kept)")
        )

    @property
    def facts(self) -> dict[str, str]:
        return {"position": str(self.position), "earliest": str(self.earliest)}


class StoreUnavailable(EngineError):
    """The session store does not answer, or not in time. Nothing is lost: the call can be made or resumed again."""

    kind = ErrorKind.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"

    def __init__(self, problem: object) -> None:
        super().__init__(f"the session store does not answer ({problem}); try again, or resume the call")


class StoreFull(EngineError):
    """The session store has no room. The session has not changed."""

    kind = ErrorKind.EXHAUSTED
    reason = "STORE_FULL"
    retry_after = 10.0

    def __init__(self, problem: object) -> None:
        super().__init__(f"the session store has no room ({problem}); delete sessions, or give it more")


class SealedStateCorrupt(EngineError):
    """The token cannot be opened."""

    kind = ErrorKind.CORRUPT
    reason = "SEALED_STATE_CORRUPT"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"the state cannot be opened: {problem}; it was changed, cut off, or sealed with other keys, or by another "
            "version of the server"
        )


class SealedStateVersion(EngineError):
    """The token has a version that this server does not know."""

    kind = ErrorKind.INVALID
    reason = "SEALED_STATE_VERSION"

    def __init__(self, version: int, known: Sequence[int]) -> None:
        super().__init__(f"the state has version {version}, this server opens versions {' and '.join(map(str, known))}")


class SealedStateExpired(EngineError):
    """The token has expired."""

    kind = ErrorKind.PRECONDITION
    reason = "SEALED_STATE_EXPIRED"

    def __init__(self, at: datetime) -> None:
        self.at = at
        super().__init__(f"the state expired at {at.isoformat(timespec='seconds')}; export it for longer")

    @property
    def facts(self) -> dict[str, str]:
        return {"time": self.at.isoformat()}


class SealedStateOfAnotherTenant(EngineError):
    """The token was made for another tenant."""

    kind = ErrorKind.FORBIDDEN
    reason = "SEALED_STATE_OF_ANOTHER_TENANT"

    def __init__(self) -> None:
        super().__init__("the state was exported by another tenant")


class SealedStateOfAnotherModel(EngineError):
    """The token belongs to a model that is not loaded here."""

    kind = ErrorKind.PRECONDITION
    reason = "SEALED_STATE_OF_ANOTHER_MODEL"

    def __init__(self, model: str, digest: str) -> None:
        super().__init__(
            f"the state belongs to model {shown(model)} with digest {digest[:12]}, which is not loaded here"
        )


class Overloaded(EngineError):
    """There is more work, or there are more sessions, than the engine takes."""

    kind = ErrorKind.EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, problem: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"{problem}; try again in {retry_after:g} s")


class ReaderStalled(EngineError):
    """The text of the call was not read for too long, and its place was needed for other calls."""

    kind = ErrorKind.EXHAUSTED
    reason = "READER_STALLED"

    def __init__(self) -> None:
        super().__init__(
            "the text was not read for so long that the call was ended to make room for others; "
            "read faster, or ask for less at a time; a session holds the state after the text that was sent"
        )


class ClientIdle(EngineError):
    """The client has sent nothing for too long in a call that waits for it."""

    kind = ErrorKind.TIMEOUT
    reason = "CLIENT_IDLE"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"the call was ended because it had waited {seconds:g} s for the next message (the server's "
            "--idle-seconds); a session holds the state after what was answered, and a new call goes on from there"
        )


class Draining(EngineError):
    """The engine is stopping and takes no more work."""

    kind = ErrorKind.UNAVAILABLE
    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("the server is stopping; send the request to another one, or again when it is back")


class DecoderFailure(EngineError):
    """The decoder raised; the call is lost, its session keeps the state before the failed tick."""

    kind = ErrorKind.FAULT
    reason = "DECODER_FAILURE"
