"""The beginning and the end of a call's record, the same for every transport, and the id that names the call."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence

from charloom.engine.telemetry import CallRecord, Totals, set_call

REQUEST_ID_KEY = "charloom-request-id"
"""Metadata in which a client may name its call, and in which the answer names it."""
PROXY_REQUEST_ID_KEY = "x-request-id"
"""Metadata in which proxies name a call; it is taken where the client names none."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Calls:
    """Begins and ends the records of calls.

    Args:
        totals: where they are counted
        told: called with each record once its call has ended
    """

    def __init__(self, totals: Totals, told: Sequence[Callable[[CallRecord], None]] = ()) -> None:
        self._totals = totals
        self._told = told

    def begin(self, method: str, request_ids: Sequence[str]) -> CallRecord:
        """Begin the record of the call that runs in this task.

        Args:
            method: as "service/method"
            request_ids: what the call says of its id; one that is well-formed is kept, else it gets one
        """
        call = CallRecord(method, request_id_of(request_ids))
        set_call(call)
        self._totals.began(call)
        return call

    def admitted(self, call: CallRecord, tenant: str) -> None:
        """Say who makes the call."""
        self._totals.admitted(call, tenant)

    def end(self, call: CallRecord) -> None:
        """The call has ended, however."""
        self._totals.ended(call)
        for tell in self._told:
            tell(call)


def request_id_of(given: Sequence[str]) -> str:
    """The id of a call that gives these: its own, if it is one of up to 128 characters that a log can hold."""
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(16)
