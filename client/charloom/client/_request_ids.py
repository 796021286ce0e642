"""The id of a call, which also appears in servers' logs: made by the client, or given by its user."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from charloom.client._errors import InvalidValue

KEY = "charloom-request-id"
"""Name of the metadata entry."""
_FORM = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

_given: ContextVar[str | None] = ContextVar("request_id", default=None)


@contextmanager
def request_id(id: str) -> Iterator[None]:
    """Give this id to calls that begin in the block; it appears in servers' logs and traces, and in errors.

        with request_id(web_request.id):
            client.complete("ROMEO:")

    It applies to the thread or task that enters the block. Without it, each call gets an id of its own.

    Args:
        id: up to 128 letters, digits and `._:/+=-`.

    Raises:
        InvalidValue: the id is anything else.

    """
    if not isinstance(id, str) or not _FORM.fullmatch(id):
        raise InvalidValue("request_id", f"{id!r} is not one; give up to 128 letters, digits and ._:/+=-")
    token = _given.set(id)
    try:
        yield
    finally:
        _given.reset(token)


def next_id() -> str:
    """The id of a call that begins now."""
    return _given.get() or secrets.token_hex(16)
