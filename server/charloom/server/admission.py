"""The beginning of a call on any transport: its record, its caller, and whether the server has room for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from charloom.engine.call_end import AtEnd, set_end
from charloom.engine.engine import Engine
from charloom.engine.shares import Share, name_of_tenant
from charloom.engine.telemetry import CallRecord
from charloom.server.call_limit import CallLimit
from charloom.server.caller import Caller, set_caller
from charloom.server.identity.gate import Credentials, Identity
from charloom.server.identity.open_gate import gate_of
from charloom.server.identity.scopes import Scope
from charloom.server.identity.watched import LOOK_SECONDS
from charloom.server.settings import ServerSettings
from charloom.server.telemetry.call_log import log_call
from charloom.server.telemetry.calls import Calls
from charloom.server.telemetry.tracing import open_traces

FORWARDED_KEY = "x-forwarded-for"
"""Metadata, or the header, in which each proxy adds the address that it was called from."""


@dataclass(frozen=True)
class Arrival:
    """The credentials and headers of a call, and the address that it comes from."""

    host: str
    """The address of the other end of the connection; empty for a Unix socket."""
    port: int
    forwarded: Sequence[str] = ()
    """The values of `x-forwarded-for`."""
    tokens: Sequence[str] = ()
    """The values of `authorization`."""
    tenants: Sequence[str] = ()
    """The values of `charloom-tenant`."""
    certificate: Sequence[str] | None = None
    """The subject alternative names of the client's certificate, which TLS has checked; None without one."""
    request_ids: Sequence[str] = ()
    carried: Mapping[str, str] = field(default_factory=dict)
    """Those headers of the call that `Admission.carriers` names."""


class Admission:
    """Lets calls in. All listeners of a server share one, so that its limits hold for all transports together.

    Args:
        engine: counts the calls
        settings: who may call, and how many calls may run

    Raises:
        ValueError: a file of the gate cannot be used, or what makes traces is not installed.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self._origins = settings.origins()
        self._gate = gate_of(settings)
        self._limit = CallLimit(settings.max_calls, settings.processes)
        self.certificates = settings.tls_client_ca is not None
        """Whether clients may show certificates."""
        on_end = [log_call] if settings.log_calls else []
        self.carriers: Collection[str] = ()
        """Names of the headers, or metadata, that carry the trace of a call."""
        if settings.traces:
            traces = open_traces()
            on_end.append(traces.tell)
            self.carriers = traces.carriers
        self._observed = Calls(engine.totals, on_end, timelines=settings.traces, texts=settings.log_text)

    def begin(
        self, method: str, scope: Scope, arrival: Arrival, at_end: AtEnd, begun: Callable[[CallRecord], None]
    ) -> None:
        """Begin the call that runs in this task.

        Args:
            method: its name in records
            scope: the scope that it needs
            arrival: its credentials, headers and address
            at_end: registers what is to be done at the end of the call
            begun: called with its record, before the call can be refused or end

        Raises:
            CredentialsMissing, CredentialsInvalid, ScopeMissing, TenantNotAllowed, InvalidRequest: as `Gate.admit`.
            QuotaExceeded: too many calls of this caller are running.
            Overloaded: too many calls are running.
        """
        record = self._observed.begin(method, arrival.request_ids, arrival.carried)
        begun(record)
        at_end(lambda: self._observed.end(record))
        caller = self._caller(arrival, scope)
        set_caller(caller)
        self._observed.admitted(record, caller.tenant)
        self._limit.begin(at_end)
        set_end(at_end)

    def check(self, scope: Scope, arrival: Arrival) -> Callable[[], None]:
        """Return a check that the caller would still be let in: keys may be revoked or expire during a call.

        The check does its work at most about once a second, and raises CredentialsInvalid, ScopeMissing and others, as
        `Gate.admit`.
        """
        due = time.monotonic() + LOOK_SECONDS

        def check() -> None:
            nonlocal due
            if (now := time.monotonic()) >= due:
                due = now + LOOK_SECONDS
                self._identity(arrival, scope)

        return check

    def _identity(self, arrival: Arrival, scope: Scope) -> Identity:
        trusted = self._origins.trusts(arrival.host)
        return self._gate.admit(Credentials(arrival.tokens, arrival.tenants, arrival.certificate, trusted), scope)

    def _caller(self, arrival: Arrival, scope: Scope) -> Caller:
        identity = self._identity(arrival, scope)
        origin = self._origins.of(arrival.host, arrival.port, ",".join(arrival.forwarded))
        name = name_of_tenant(identity.tenant) if identity.authenticated else origin
        share = Share(name, quota=self._gate.quota_of(identity))
        return Caller(identity.tenant, share, identity.credential or origin or "unix", identity.scopes)
