"""The id of a call, by which it is found in the logs of servers: made by the client, or given by its user."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from charloom.client._errors import InvalidValue

KEY = "charloom-request-id"
"""Metadata of a call."""
_FORM = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_given: ContextVar[str | None] = ContextVar("request_id", default=None)


@contextmanager
def request_id(id: str) -> Iterator[None]:
    """Name the calls that begin in this block, in the logs and traces of servers and in errors.

        with request_id(web_request.id):
            client.complete("ROMEO:")

    Without it, each call is given an id. It holds for the thread, or the task, that enters the block.

    Args:
        id: up to 128 letters, digits and `._:/+=-`.

    Raises:
        InvalidValue: it is something else.

    """
    if not isinstance(id, str) or not _FORM.fullmatch(id):
        raise InvalidValue("request_id", f"{id!r} is not one; give up to 128 letters, digits and ._:/+=-")
    token = _given.set(id)
    try:
        yield
    finally:
        _given.reset(token)


def next_id() -> str:
    """Of a call that begins now."""
    return _given.get() or secrets.token_hex(16)
