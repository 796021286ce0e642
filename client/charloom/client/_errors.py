"""The SDK's exceptions. `_statuses.py` maps gRPC's statuses to them.

    CharloomError
    ├── InvalidValue (also a ValueError)   the call was not sent: no message can carry the value
    ├── ConnectionFailed                   no server answered, or the connection, or a proxy on it, broke the call off
    └── RequestError                       the server answered with an error
        ├── InvalidArgument                a field is out of range, or the model cannot read the text
        ├── NotFound                       no such model or session
        │   └── SessionExpired             the session existed and has been forgotten
        ├── AlreadyExists                  the session id is in use
        ├── FailedPrecondition             a state of another model, or one that expired
        ├── PositionNotKept                the session cannot go back so far
        ├── Conflict                       the session is in use, or is not at the expected position
        ├── MessageTooLarge                a request or an answer is larger than the client or the server takes
        ├── Overloaded                     the server has as much work, or as many sessions, as it takes
        │   └── QuotaExceeded              the caller has as much as it may have
        ├── Unavailable                    the server is loading or stopping, or cannot reach its sessions
        ├── DeadlineExceeded               the call did not finish in time
        ├── Cancelled                      the call was cancelled
        ├── PermissionDenied               the state belongs to somebody else
        ├── Unauthenticated                the server wants credentials
        ├── Unimplemented                  the server does not offer this call, or an option of it
        ├── DataLoss                       stored state is damaged
        └── InternalError                  a fault of the server

An option that does not exist raises TypeError, and a call through a closed client RuntimeError, as in plain Python.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc


class CharloomError(Exception):
    """Any failure that the SDK reports.

    Attributes:
        request_id: id of the call that failed, which is also in the server's log; empty if no call was made.

    """

    request_id: str = ""

    def __repr__(self) -> str:
        plain = super().__repr__()
        return f"{plain[:-1]}, request_id={self.request_id!r})" if self.request_id else plain


class InvalidValue(CharloomError, ValueError):
    """A value that no message can carry, such as a negative seed. The call was not sent.

    Attributes:
        field: name of the parameter.

    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self._problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self._problem}"


class ConnectionFailed(CharloomError):
    """No server answered, or the connection broke. A session keeps the state after the last text that was sent.

    Covers every call that neither its caller nor the server ended: a proxy without a server, a reset, a stream that
    something between the two closed.
    """


class RequestError(CharloomError):
    """The server answered with an error.

    Attributes:
        message: the server's words.
        code: the gRPC status code.
        reason: a fixed word for the situation, such as "SESSION_BUSY"; empty if the server gave none.
        metadata: further values of the situation, by name.
        violations: pairs of a field and what is wrong with it.
        retry_after: seconds after which the server suggests to try again; `None` if it does not.

    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after

    def __str__(self) -> str:
        more = [f"{field}: {fault}" for field, fault in self.violations if fault not in self.message]
        return "; ".join([self.message or self.code.name, *more])

    def _number(self, name: str) -> int | None:
        value = self.metadata.get(name, "")
        return int(value) if value.isdecimal() else None


class InvalidArgument(RequestError):
    """A field is out of range, or the model cannot read the text; `violations` names each field.

    The reason SEALED_STATE_VERSION means a state of a version that the server does not know.
    """


class NotFound(RequestError):
    """No such model or session."""


class SessionExpired(NotFound):
    """The session existed and has been forgotten."""


class AlreadyExists(RequestError):
    """The session id is in use."""


class FailedPrecondition(RequestError):
    """The session or state belongs to another model, the state has expired, or the model cannot be inspected.

    The reasons are SESSION_OF_ANOTHER_MODEL, SEALED_STATE_OF_ANOTHER_MODEL, SEALED_STATE_EXPIRED and
    MODEL_NOT_INSPECTABLE, and where models change while the server runs, MODEL_RETIRED, CALL_OF_ANOTHER_MODEL,
    MODEL_UNUSABLE and LAST_MODEL.
    """


class PositionNotKept(RequestError):
    """The session cannot be taken to this position: it is after the session's own, or too far back."""

    @property
    def position(self) -> int | None:
        """The position that was asked for; `None` if the server did not say."""
        return self._number("position")

    @property
    def earliest(self) -> int | None:
        """The earliest position that the session can be taken back to; `None` if the server did not say."""
        return self._number("earliest")


class Conflict(RequestError):
    """The session is in use by another call (SESSION_BUSY) or not where it was expected (STALE_POSITION).

    SESSION_TAKEN_OVER means that another call took the session over: text that this call generated since then is not in
    the session.
    """


class MessageTooLarge(RequestError):
    """A request or an answer is larger than one of the two sides, or a proxy, accepts; the message says which.

    Trying again does not help. Send or ask for less, or raise the limit: of the client with `channel_options`
    (`grpc.max_receive_message_length`, 64 MiB by default), of the server with its settings.
    """

    @property
    def size(self) -> int | None:
        """How large it is, in bytes; `None` if nobody said."""
        return self._number("size")

    @property
    def limit(self) -> int | None:
        """How large it may be, in bytes; `None` if nobody said."""
        return self._number("limit")


class Overloaded(RequestError):
    """The server takes no more work or sessions, or its store is full (STORE_FULL); see `retry_after`."""


class QuotaExceeded(Overloaded):
    """The caller exceeds a limit of its own, whatever others do; `metadata` has the limit's name and the numbers.

    `retry_after` is None where waiting does not help, as for a text that is too long.
    """


class Unavailable(RequestError):
    """The server is loading or stopping (DRAINING), or cannot reach its sessions (STORE_UNAVAILABLE)."""


class DeadlineExceeded(RequestError):
    """The call did not finish in time. A session holds the state after the last character that arrived.

    The reason CLIENT_IDLE means that the client sent nothing for longer than the server allows, in a call to which it
    sends messages, such as a conversation, a watch or `score_many`.
    """


class Cancelled(RequestError):
    """The call was cancelled, or its client closed. A session holds the state after the last character that arrived.

    A task that is itself cancelled gets asyncio's `CancelledError` instead, also while its client is being closed. A
    task that catches `CancelledError` and continues must call `asyncio.Task.uncancel` (Python 3.11 or later), or it
    gets that error again when it later cancels a stream of its own.
    """


class PermissionDenied(RequestError):
    """The state belongs to somebody else (SEALED_STATE_OF_ANOTHER_TENANT)."""


class Unauthenticated(RequestError):
    """The server wants credentials."""


class Unimplemented(RequestError):
    """The server does not offer this call, or an option of it; it may be older, or no Charloom server.

    An older server ignores options that it does not know. The SDK detects this from the answer; for options of a
    generation (`regex`, `choices`, `json_schema`, `resample`), that is at the end of the text.
    """


class DataLoss(RequestError):
    """Stored state is damaged, or an exported state cannot be opened (SEALED_STATE_CORRUPT)."""


class InternalError(RequestError):
    """A fault of the server; the incident number in the message is also in the server's log."""
