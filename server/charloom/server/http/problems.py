"""From errors to HTTP answers: status, headers, and the error in the form of the path's protocol."""

from __future__ import annotations

import json
import logging
import math
import secrets
from enum import Enum
from typing import Any, NamedTuple

from charloom.engine.errors import EngineError, ErrorKind, InvalidRequest, SessionDeleted, SessionExpired
from charloom.engine.memory_budget import TooMuchMemory
from charloom.server.codes import CODES, UNEXPECTED

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]

GONE, TOO_LARGE = 410, 413
EXCEPTIONS: dict[type[EngineError], int] = {
    SessionExpired: GONE,
    SessionDeleted: GONE,
    TooMuchMemory: TOO_LARGE,  # 429 would have clients try again, in vain
}
"""Errors that HTTP tells apart from others of their kind."""
RETRY_SECONDS = 5.0
"""Seconds to wait after an answer 503 whose error has no better value."""

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""OpenAI's types of errors by status. Other statuses from 500 on are `server_error`, below `invalid_request_error`."""


class ErrorForm(str, Enum):
    """The form of `error` in an answer; the values are names of schemas in the OpenAPI document."""

    OPENAI = "Error"
    """An object."""
    OPEN_INFERENCE = "InferenceError"
    """A text."""


def error_form(path: str) -> ErrorForm:
    """The form of all errors under a path, whether or not there is a route."""
    return ErrorForm.OPEN_INFERENCE if f"{path}/".startswith("/v2/") else ErrorForm.OPENAI


class Refused(Exception):
    """A request that HTTP itself refuses: the engine never sees it.

    Args:
        status: of HTTP
        reason: one UPPER_SNAKE word, as errors of the engine have
        problem: for people
        param: the field that is wrong
        close: whether the connection cannot be used any more, because a part of the request was not read
    """

    def __init__(
        self, status: int, reason: str, problem: str, *, param: str | None = None, close: bool = False
    ) -> None:
        self.status, self.reason, self.param, self.close = status, reason, param, close
        super().__init__(problem)

    @property
    def code(self) -> str:
        """The code of gRPC that records of calls have."""
        by_status = {code.status: code.name for code in reversed(CODES.values())}
        return by_status.get(self.status, CODES[ErrorKind.INVALID].name)


class Failure(NamedTuple):
    """An error as it is answered."""

    status: int
    code: str
    """Of gRPC, for the record of the call."""
    reason: str
    content: dict[str, Any]
    """The object under `error` in OpenAI's form."""
    headers: Headers

    def body(self, form: ErrorForm) -> bytes:
        """The answer, or the data of an event."""
        told = self.content if form is ErrorForm.OPENAI else self.content["message"]
        return json.dumps({"error": told}, separators=(",", ":")).encode()


def failure_of(problem: Exception) -> Failure:
    """Make the answer for an exception. An unexpected one is logged, with an incident number."""
    if isinstance(problem, Refused):
        headers: Headers = [(b"connection", b"close")] if problem.close else []
        return _failure(problem.status, problem.code, problem.reason, str(problem), problem.param, {}, headers)
    if not isinstance(problem, EngineError):
        incident = secrets.token_hex(8)
        log.error("unexpected error %s", incident, exc_info=problem)
        text = f"unexpected error; the server's log has it as {incident}"
        return _failure(500, CODES[ErrorKind.FAULT].name, UNEXPECTED, text, None, {"incident": incident}, [])
    code = CODES[problem.kind]
    status = EXCEPTIONS.get(type(problem), code.status)
    param = problem.field.removeprefix("sampling.") if isinstance(problem, InvalidRequest) else None
    text = str(problem).removeprefix("sampling.")
    headers = _retry_headers(problem.retry_after if status != 503 else problem.retry_after or RETRY_SECONDS)
    if status == 429 and problem.retry_after is None:
        headers.append((b"x-should-retry", b"false"))  # else OpenAI's clients try again, in vain
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return _failure(status, code.name, problem.reason, text, param, problem.facts, headers)


def _failure(
    status: int, code: str, reason: str, text: str, param: str | None, facts: dict[str, str], headers: Headers
) -> Failure:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    content: dict[str, Any] = {"message": text, "type": kind, "param": param, "code": reason.lower()}
    if facts:
        content["facts"] = facts
    return Failure(status, code, reason, content, headers)


def _retry_headers(seconds: float | None) -> Headers:
    return [] if seconds is None else [(b"retry-after", str(math.ceil(seconds)).encode())]
