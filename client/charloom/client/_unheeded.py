"""Whether a server has heeded what was asked.

Protobuf drops the fields that a message does not know, so a server that is older than this client passes over newer
options without a word. What its answers lack gives it away.
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
    """See that a session learns which was to.

    Raises:
        Unimplemented: it does not.

    """
    if not session.adaptive:
        raise unheeded("adaptive", f"session {session.id!r} does not learn", why)


def require_constrained(options: generation_pb2.GenerationOptions, allowed_logprob: float | None) -> None:
    """See that a text was generated under the constraint that was asked for, if one was.

    Raises:
        Unimplemented: it was not.

    """
    if options.HasField("constraint") and allowed_logprob is None:
        raise unheeded(str(options.constraint.WhichOneof("kind")), "the text need not match")


def checked(options: generation_pb2.GenerationOptions, on_result: OnResult) -> OnResult:
    """Take in each result of a generation as before, and then see that it tells of all that was asked for.

    What is returned raises:
        Unimplemented: it does not.

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
    """What to raise where an option was passed over: its name, what is so for that, and what may be why."""
    message = f"{option}: {what}; {why}, so leave it out, or ask another server"
    return Unimplemented(message, code=grpc.StatusCode.UNIMPLEMENTED)
