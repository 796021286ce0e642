"""Measurements of the engine: a record of each call, and totals since the start, as plain numbers.

Knows neither who reads them nor how calls arrive; imports nothing of the engine. A transport sets the record of the
call that runs in a task, as it sets its share, and the code that works for the call adds to the record. Totals are read
from any thread without a lock: a reader may see a number that is a moment old.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of histograms of durations."""
CANCELLED = "CANCELLED"
"""The code of a call that ended without setting another."""
REFUSING = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED")
"""Codes of calls that were refused, or ended early, although the request itself was valid."""
MOST_TENANTS = 1000
"""How many tenants have totals of their own; those that come later share those of `OTHER_TENANTS`."""
OTHER_TENANTS = "(others)"
"""No tenant can have this name."""


MOST_STEPS = 500
"""Most steps in the timeline of a call."""
MOST_LOGGED = 10_000
"""Characters of a text that are kept for the log."""


class Histogram:
    """Counts values by range.

    Args:
        bounds: the highest value of each range, ascending; above the last one there is one more range
    """

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float, count: int = 1) -> None:
        """Count a value, `count` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.sum += value * count


@dataclass
class TenantTotals:
    """Counts the calls of a tenant."""

    running: int = 0
    """Calls running now."""
    requests: int = 0
    """Calls that ended."""
    refused: int = 0
    """Calls that ended with an error."""
    prompt_tokens: int = 0
    generation_tokens: int = 0


class JobEnd(Protocol):
    """How a job of a call ended; times are seconds since it was submitted."""

    @property
    def fed(self) -> int:
        """Number of prompt tokens that were read."""

    @property
    def generated(self) -> int:
        """Number of tokens that were delivered."""

    @property
    def queued(self) -> float:
        """Time until it had a row."""

    @property
    def first_token(self) -> float:
        """Time until its first token, or until its end if there was none."""

    @property
    def total(self) -> float:
        """Time until its end."""


@dataclass(frozen=True)
class Step:
    """A part of the work for a call, with its times by `time.monotonic`."""

    name: str
    begun: float
    ended: float
    tokens: int | None = None
    """Number of tokens read or generated; None: not applicable."""


class Timeline:
    """The steps of a call with their times, for tracing.

    Args:
        carried: the caller's tracing headers, by name
    """

    def __init__(self, carried: Mapping[str, str]) -> None:
        self.carried = carried
        self.steps: list[Step] = []
        """The first `MOST_STEPS` steps."""
        self.left_out = 0
        """Number of further steps."""

    def add(self, *steps: Step) -> None:
        """Add steps that have ended."""
        room = MOST_STEPS - len(self.steps)
        self.steps += steps[:room]
        self.left_out += len(steps[room:])

    def job_ended(self, job: JobEnd) -> None:
        """Add the steps of a job that has just ended."""
        ended = time.monotonic()
        begun = ended - job.total
        has_row, first = begun + job.queued, begun + job.first_token
        self.add(Step("queue", begun, has_row))
        if job.fed:
            self.add(Step("prompt", has_row, first, job.fed))
        if job.generated:
            self.add(Step("generation", first if job.fed else has_row, ended, job.generated))


class Excerpt:
    """The beginning of a text that comes in parts."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._room = MOST_LOGGED
        self._cut = False

    def add(self, text: str) -> None:
        """Add the next part."""
        if text:
            if self._room:  # else a call that runs for weeks would keep an empty string for each of its lines
                self._parts.append(text[: self._room])
            self._cut |= len(text) > self._room
            self._room = max(0, self._room - len(text))

    def __str__(self) -> str:
        return "".join(self._parts) + ("…" if self._cut else "")


class Texts:
    """The texts of a call, for a log with texts."""

    def __init__(self) -> None:
        self.read = Excerpt()
        """The caller's prompts and other texts, one after the other."""
        self.generated: list[Excerpt] = []
        """The generated text, by generation."""

    def generation(self) -> Excerpt:
        """Add a generation; returns the excerpt for its text."""
        self.generated.append(Excerpt())
        return self.generated[-1]


@dataclass
class CallRecord:
    """The record of a call, from the moment it arrives. Times are by `time.monotonic`."""

    method: str = ""
    """As "service/method"; empty if no transport has set it."""
    request_id: str = ""
    begun: float = field(default_factory=time.monotonic)
    tenant: str = ""
    model: str = ""
    """The last model that computed for it."""
    resumed: bool = False
    """Whether it resumes a call that broke off."""
    replayed: int = 0
    """Tokens that were generated again because they were not in the store yet."""
    prompt_tokens: int = 0
    generation_tokens: int = 0
    queued: float | None = None
    """The longest wait of one of its jobs, in seconds; None: no job has ended."""
    first_token: float | None = None
    """Seconds from its beginning to its first generated token; None: there was none."""
    finish: str = ""
    """Why its last generation ended: `length`, `stop`, `draining`, `cancelled` and so on."""
    store_seconds: float = 0.0
    """Seconds that it waited for the session store."""
    code: str = CANCELLED
    """A gRPC status code, whatever the transport."""
    reason: str = ""
    """The `reason` of the error that it ended with; empty if it ended without one."""
    ended: float = 0.0
    timeline: Timeline | None = None
    """None: calls are not traced."""
    texts: Texts | None = None
    """None: texts are not logged."""
    tenant_totals: TenantTotals = field(default_factory=TenantTotals)

    @property
    def seconds(self) -> float:
        """Its duration, so far if it has not ended."""
        return (self.ended or time.monotonic()) - self.begun

    def generated(self, tokens: int) -> None:
        """Count tokens that were generated for its caller."""
        if not self.generation_tokens:
            self.first_token = time.monotonic() - self.begun
        self.generation_tokens += tokens
        self.tenant_totals.generation_tokens += tokens

    def job_ended(self, reason: str, job: JobEnd) -> None:
        """Count a job of it that has left the loom."""
        self.prompt_tokens += job.fed
        self.tenant_totals.prompt_tokens += job.fed
        self.queued = max(self.queued or 0.0, job.queued)
        self.finish = reason
        if self.timeline is not None:
            self.timeline.job_ended(job)

    def stored(self, operation: str, begun: float, ended: float) -> None:
        """Count a wait for the session store."""
        self.store_seconds += ended - begun
        if self.timeline is not None:
            self.timeline.add(Step(f"store {operation}", begun, ended))

    def failed(self, code: str, reason: str) -> None:
        """Set the error that it ends with."""
        self.code, self.reason = code, reason


_call: ContextVar[CallRecord | None] = ContextVar("call", default=None)


def set_call(call: CallRecord) -> None:
    """Set the record of the call that runs in this task."""
    _call.set(call)


def running_call() -> CallRecord | None:
    """The record of the call that runs in this task; None if no transport has set it."""
    return _call.get()


def current_call() -> CallRecord:
    """The record of the call that runs in this task; if no transport has set it, a new one that is not kept."""
    return _call.get() or CallRecord()


@dataclass
class MethodTotals:
    """Counts the calls of a method."""

    running: int = 0
    """Calls running now."""
    seconds: Histogram = field(default_factory=Histogram)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Calls that ended, by code and reason."""


class Totals:
    """Counts all calls of an engine, and the operations of its session store. Only the event loop writes it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.methods: dict[str, MethodTotals] = {}
        self.tenants: dict[str, TenantTotals] = {}
        self.resumptions = 0
        """Calls that resumed a call that broke off."""
        self.replayed = 0
        """Tokens that were generated again for them."""
        self.labels: Counter[tuple[str, str]] = Counter()
        """Texts that classifiers gave a label, by model and label."""
        self.watched_lines = 0
        self.watch_alerts = 0
        """Watched lines that were alerts."""
        self.silent_sources = 0
        """How often a watched source was reported as silent."""
        self.store_seconds: dict[str, Histogram] = {}
        """Durations of the store's operations, by operation."""
        self.store_errors: Counter[tuple[str, str]] = Counter()
        """Operations that failed because of the store, by operation and reason."""

    @property
    def seconds(self) -> float:
        """Seconds since counting began."""
        return time.monotonic() - self._began

    @property
    def refusals(self) -> Counter[str]:
        """Calls that were refused, by the reason of the error."""
        refused: Counter[str] = Counter()
        for method in self.methods.copy().values():
            for (code, reason), count in list(method.ended.items()):
                if code in REFUSING and reason:
                    refused[reason] += count
        return refused

    def began(self, call: CallRecord) -> None:
        """Count a call that has arrived; its tenant is not known yet."""
        self.methods.setdefault(call.method, MethodTotals()).running += 1

    def admitted(self, call: CallRecord, tenant: str) -> None:
        """Set the tenant of a call, once it is known."""
        if tenant not in self.tenants and len(self.tenants) >= MOST_TENANTS:
            call.tenant_totals = self.tenants.setdefault(OTHER_TENANTS, TenantTotals())
        else:
            call.tenant_totals = self.tenants.setdefault(tenant, TenantTotals())
        call.tenant = tenant
        call.tenant_totals.running += 1

    def ended(self, call: CallRecord) -> None:
        """Count a call that has ended; its record must not change any more."""
        call.ended = time.monotonic()
        method = self.methods[call.method]
        method.running -= 1
        method.seconds.add(call.seconds)
        method.ended[call.code, call.reason] += 1
        self.resumptions += call.resumed
        self.replayed += call.replayed
        tenant = call.tenant_totals
        tenant.running -= 1
        tenant.requests += 1
        tenant.refused += bool(call.reason)

    def watched(self, lines: int, alerts: int) -> None:
        """Count judged lines of watched sources, and the alerts among them."""
        self.watched_lines += lines
        self.watch_alerts += alerts

    def fell_silent(self, sources: int) -> None:
        """Count watched sources that were reported as silent."""
        self.silent_sources += sources

    def stored(self, operation: str, seconds: float, error: str) -> None:
        """Count an operation of the session store, and its error's reason if it is not empty."""
        histogram = self.store_seconds.get(operation)
        if histogram is None:
            histogram = self.store_seconds[operation] = Histogram()
        histogram.add(seconds)
        if error:
            self.store_errors[operation, error] += 1
