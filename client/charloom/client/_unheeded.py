"""Detects options that the server ignored.

Protobuf drops unknown fields, so a server that is older than this client silently ignores newer options. Fields that
are missing in its answers reveal it.
"""

from __future__ import annotations

import grpc

from charloom.client._errors import Unimplemented
from charloom.client._generation_types import Result
from charloom.client._session_types import SessionInfo
from charloom.client._transcript import OnResult
from charloom.v1 import generation_pb2

OLDER = "the server is older than this client"


def require_adaptive(session: SessionInfo, why: str = OLDER) -> None:
    """Check that a session is adaptive, as was asked for.

    Raises:
        Unimplemented: it is not.

    """
    if not session.adaptive:
        raise unheeded("adaptive", f"session {session.id!r} does not learn", why)


def require_constrained(options: generation_pb2.GenerationOptions, allowed_logprob: float | None) -> None:
    """Check that a text was generated under its constraint, if the options have one.

    Raises:
        Unimplemented: it was not.

    """
    if options.HasField("constraint") and allowed_logprob is None:
        raise unheeded(str(options.constraint.WhichOneof("kind")), "the text need not match")


def checked(options: generation_pb2.GenerationOptions, on_result: OnResult) -> OnResult:
    """Wrap `on_result` so that each result is also checked for options that the server ignored.

    The wrapper raises:
        Unimplemented: the server ignored an option.

    """

    def check(result: Result) -> None:
        on_result(result)
        require_constrained(options, result.allowed_logprob)
        if options.resample and result.resampled is None:
            raise unheeded("resample", "the texts were not resampled")
        if options.new_session.adaptive and result.session is not None:
            require_adaptive(result.session, f"it was there already, or {OLDER}")

    return check


def unheeded(option: str, what: str, why: str = OLDER) -> Unimplemented:
    """The error for an option that was ignored: its name, the consequence, and the probable cause."""
    message = f"{option}: {what}; {why}, so leave it out, or ask another server"
    return Unimplemented(message, code=grpc.StatusCode.UNIMPLEMENTED)
