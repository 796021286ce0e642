"""The one table from kinds of errors to the codes of transports: the name of a gRPC code, and an HTTP status."""

from __future__ import annotations

from typing import NamedTuple

from charloom.engine.errors import ErrorKind


class Code(NamedTuple):
    """The codes of one kind of error."""

    name: str
    """Name of the gRPC code; records of calls have it on every transport."""
    status: int
    """HTTP status."""


OK = "OK"
"""The code of a call that did not fail."""
UNEXPECTED = "UNEXPECTED"
"""The reason of an error that the engine did not raise on purpose."""

CODES = {
    ErrorKind.INVALID: Code("INVALID_ARGUMENT", 400),
    ErrorKind.NOT_FOUND: Code("NOT_FOUND", 404),
    ErrorKind.EXISTS: Code("ALREADY_EXISTS", 409),
    ErrorKind.PRECONDITION: Code("FAILED_PRECONDITION", 400),
    ErrorKind.CONFLICT: Code("ABORTED", 409),
    ErrorKind.OUT_OF_RANGE: Code("OUT_OF_RANGE", 400),
    ErrorKind.UNAUTHENTICATED: Code("UNAUTHENTICATED", 401),
    ErrorKind.FORBIDDEN: Code("PERMISSION_DENIED", 403),
    ErrorKind.CORRUPT: Code("DATA_LOSS", 400),
    ErrorKind.EXHAUSTED: Code("RESOURCE_EXHAUSTED", 429),
    ErrorKind.UNAVAILABLE: Code("UNAVAILABLE", 503),
    ErrorKind.TIMEOUT: Code("DEADLINE_EXCEEDED", 408),
    ErrorKind.FAULT: Code("INTERNAL", 500),
}
