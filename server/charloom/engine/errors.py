"""What can go wrong in the engine, in terms of models, sessions and requests.

    EngineError
    +-- InvalidRequest          a field of the request is wrong
    +-- ModelNotFound
    +-- SessionNotFound         it never existed here
    |   +-- SessionExpired
    |   +-- SessionDeleted
    +-- SessionExists
    +-- SessionOfAnotherModel
    +-- SessionBusy             another call is using it
    +-- StalePosition           it is not where the caller expected
    +-- Overloaded              try again later
    +-- Draining                the engine is stopping
    +-- ReaderStalled           nobody reads the text
    +-- DecoderFailure          the decoder broke off

Each has a `reason`, one UPPER_SNAKE word that programs can rely on, and a message for people.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


def shown(value: str) -> str:
    """A name from a request as a message shows it: never so long that the message would not arrive."""
    return repr(value) if len(value) <= 80 else f"{value[:80]!r}... ({len(value)} characters)"


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    reason: ClassVar[str]


class InvalidRequest(EngineError):
    """A field of a request cannot be accepted."""

    reason = "INVALID_REQUEST"

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class ModelNotFound(EngineError):
    """No model of this name is loaded."""

    reason = "MODEL_NOT_FOUND"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no model {shown(name)} here; this server has: {', '.join(known)}")


class SessionNotFound(EngineError):
    """No session of this id was ever made here."""

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


class SessionDeleted(SessionNotFound):
    """The session was deleted."""

    reason = "SESSION_DELETED"

    def __init__(self, session_id: str, at: datetime) -> None:
        self.at = at
        super().__init__(session_id, f"session {{id}} was deleted at {at.isoformat(timespec='seconds')}")


class SessionExists(EngineError):
    """The wanted id is in use."""

    reason = "SESSION_EXISTS"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id!r} exists already; use it, delete it, or choose another id")


class SessionOfAnotherModel(EngineError):
    """The session's state belongs to another model than the request names."""

    reason = "SESSION_OF_ANOTHER_MODEL"

    def __init__(self, session_id: str, its_model: str, wanted: str) -> None:
        super().__init__(
            f"session {session_id!r} belongs to model {its_model!r}, the request names {shown(wanted)}; "
            "leave the model out, or create a session of the other model"
        )


class SessionBusy(EngineError):
    """A session has one writer at a time."""

    reason = "SESSION_BUSY"

    def __init__(self, session_id: str, position: int) -> None:
        self.position = position
        super().__init__(
            f"another call is using session {session_id!r} (it started at position {position}); "
            "wait for it to end, or use a session of your own"
        )


class StalePosition(EngineError):
    """The session moved on since the caller looked."""

    reason = "STALE_POSITION"

    def __init__(self, session_id: str, expected: int, position: int) -> None:
        self.position = position
        super().__init__(f"session {session_id!r} is at position {position}, the request expected {expected}")


class Overloaded(EngineError):
    """There is more work, or there are more sessions, than the engine takes."""

    reason = "OVERLOADED"

    def __init__(self, problem: str, retry_after: float) -> None:
        self.retry_after = retry_after
        """Seconds after which another try makes sense."""
        super().__init__(f"{problem}; try again in {retry_after:g} s")


class ReaderStalled(EngineError):
    """The call's reader did not read, and too many others did not either."""

    reason = "READER_STALLED"

    def __init__(self) -> None:
        super().__init__(
            "the text was not read for so long that the call was ended to make room for others; "
            "read faster, or ask for less at a time; a session holds the state after the text that was sent"
        )


class Draining(EngineError):
    """The engine is stopping and takes no more work."""

    reason = "DRAINING"

    def __init__(self) -> None:
        super().__init__("the server is stopping; send the request to another one, or again when it is back")


class DecoderFailure(EngineError):
    """The decoder raised; the call is lost, its session keeps the state before the failed tick."""

    reason = "DECODER_FAILURE"
