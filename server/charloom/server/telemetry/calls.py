"""The beginning and the end of a call's record, the same for every transport, and the id that names the call."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence

from charloom.engine.errors import ErrorKind
from charloom.engine.telemetry import CANCELLED, CallRecord, Texts, Timeline, Totals, set_call
from charloom.server.codes import CODES

REQUEST_ID_KEY = "charloom-request-id"
"""Metadata in which a client may name its call, and in which the answer names it."""
PROXY_REQUEST_ID_KEY = "x-request-id"
"""Metadata in which proxies name a call; it is taken where the client names none."""
EARLY, EARLY_PART = 0.02, 0.01
"""A call that is cancelled this shortly before its deadline counts as one whose deadline passed: seconds, plus this
share of the call's duration."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class Calls:
    """Begins and ends the records of calls.

    Args:
        totals: where they are counted
        on_end: called with each record once its call has ended
        timelines: whether they are to have timelines
        texts: whether they are to have texts
    """

    def __init__(
        self,
        totals: Totals,
        on_end: Sequence[Callable[[CallRecord], None]] = (),
        *,
        timelines: bool = False,
        texts: bool = False,
    ) -> None:
        self._totals = totals
        self._on_end = on_end
        self._timelines = timelines
        self._texts = texts

    def begin(self, method: str, request_ids: Sequence[str], carried: Mapping[str, str]) -> CallRecord:
        """Begin the record of the call that runs in this task.

        Args:
            method: as "service/method"
            request_ids: ids that the call's metadata gives; a well-formed one is kept, otherwise a new one is made
            carried: trace headers of the call
        """
        call = CallRecord(method, request_id_of(request_ids))
        if self._timelines:
            call.timeline = Timeline(carried)
        if self._texts:
            call.texts = Texts()
        set_call(call)
        self._totals.began(call)
        return call

    def admitted(self, call: CallRecord, tenant: str) -> None:
        """Say who makes the call."""
        self._totals.admitted(call, tenant)

    def end(self, call: CallRecord) -> None:
        """The call has ended, however."""
        self._totals.ended(call)
        for tell in self._on_end:
            tell(call)


def tell_deadline(call: CallRecord, remaining: float | None) -> None:
    """Mark a cancelled call as one whose deadline passed, if it was cancelled at about its deadline.

    The client's clock ends the call, and may be ahead of ours by that much: gRPC sends deadlines with two to three
    digits, and a cancellation arrives within moments.

    Args:
        call: that is about to end
        remaining: seconds until its deadline; None: it has none
    """
    if call.code == CANCELLED and remaining is not None and remaining <= EARLY + EARLY_PART * call.seconds:
        call.code = CODES[ErrorKind.TIMEOUT].name


def request_id_of(given: Sequence[str]) -> str:
    """The id of a call that gives these: its own, if it is one of up to 128 characters that a log can hold."""
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return secrets.token_hex(16)
