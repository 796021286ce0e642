"""What the engine tells of its work: a record of each call, and totals since it began, as plain numbers.

Knows neither who reads them nor how calls arrive; imports nothing of the engine. A transport says which call a task
runs for, as it says whose share it uses, and what computes for it adds to its record. Totals are read from any thread
without a lock: a reader may see a number that is a moment old.
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
"""The code of a call that nobody ended otherwise."""
REFUSING = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED")
"""Codes of calls that were not taken, or not to their end, for no fault of what they ask."""
MOST_TENANTS = 1000
"""How many tenants have totals of their own; those that come later share those of `OTHER_TENANTS`."""
OTHER_TENANTS = "(others)"
"""No tenant can have this name."""


MOST_STEPS = 500
"""How many steps of a call are noted."""
MOST_LOGGED = 10_000
"""Characters of a text that are kept for the log."""


class Histogram:
    """How often a value was in each range.

    Args:
        bounds: the highest value of each range, rising; above the last one there is one more
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
    """What the calls of a tenant were."""

    running: int = 0
    """At this moment."""
    requests: int = 0
    """That ended."""
    refused: int = 0
    """Of these, with an error."""
    prompt_tokens: int = 0
    generation_tokens: int = 0


class JobEnd(Protocol):
    """How a job of a call ended; times are seconds since it was submitted."""

    @property
    def fed(self) -> int:
        """Tokens of its prompt that were read."""

    @property
    def generated(self) -> int:
        """Tokens that were delivered."""

    @property
    def queued(self) -> float:
        """Until it had a row."""

    @property
    def first_token(self) -> float:
        """Until its first token; where there was none, until its end."""

    @property
    def total(self) -> float:
        """Until its end."""


@dataclass(frozen=True)
class Step:
    """Something that was done for a call, from when to when, by `time.monotonic`."""

    name: str
    begun: float
    ended: float
    tokens: int | None = None
    """That were read or generated."""


class Timeline:
    """When what was done for a call, for those who trace it.

    Args:
        carried: what its caller says of the trace that it belongs to, by the name of the header
    """

    def __init__(self, carried: Mapping[str, str]) -> None:
        self.carried = carried
        self.steps: list[Step] = []
        """Up to `MOST_STEPS`."""
        self.left_out = 0
        """How many more there were."""

    def add(self, *steps: Step) -> None:
        """Note steps that have ended."""
        room = MOST_STEPS - len(self.steps)
        self.steps += steps[:room]
        self.left_out += len(steps[room:])

    def job_ended(self, job: JobEnd) -> None:
        """Note the steps of a job that has ended now."""
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
        """Go on."""
        if text:
            if self._room:  # or else a call of weeks would keep a part for each of its lines
                self._parts.append(text[: self._room])
            self._cut |= len(text) > self._room
            self._room = max(0, self._room - len(text))

    def __str__(self) -> str:
        return "".join(self._parts) + ("…" if self._cut else "")


class Texts:
    """What a caller wrote and was told, for a log that is asked for it."""

    def __init__(self) -> None:
        self.read = Excerpt()
        """Its prompts and other texts, one after the other."""
        self.generated: list[Excerpt] = []
        """Of each generation."""

    def generation(self) -> Excerpt:
        """Of one that begins."""
        self.generated.append(Excerpt())
        return self.generated[-1]


@dataclass
class CallRecord:
    """A call, from the moment it arrives. Times are of `time.monotonic`."""

    method: str = ""
    """As "service/method"; empty where no transport has said so."""
    request_id: str = ""
    begun: float = field(default_factory=time.monotonic)
    tenant: str = ""
    model: str = ""
    """The last that computed for it."""
    resumed: bool = False
    """Whether it resumes a call that broke off."""
    replayed: int = 0
    """Tokens that were made again for it, because they were not in the store yet."""
    prompt_tokens: int = 0
    generation_tokens: int = 0
    queued: float | None = None
    """The longest that a job of it waited, in seconds; None: it had none that ended."""
    first_token: float | None = None
    """Seconds from its beginning to its first generated token; None: there was none."""
    finish: str = ""
    """Why its last generation ended: `length`, `stop`, `draining`, `cancelled` and so on."""
    store_seconds: float = 0.0
    """How long it waited for the session store."""
    code: str = CANCELLED
    """A gRPC status code, also where another transport answers."""
    reason: str = ""
    """Of the error that it ended with; empty where it ended with none."""
    ended: float = 0.0
    timeline: Timeline | None = None
    """None: nobody traces calls."""
    texts: Texts | None = None
    """None: nobody logs texts."""
    tenant_totals: TenantTotals = field(default_factory=TenantTotals)

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or time.monotonic()) - self.begun

    def generated(self, tokens: int) -> None:
        """So many tokens were generated, and are for its caller."""
        if not self.generation_tokens:
            self.first_token = time.monotonic() - self.begun
        self.generation_tokens += tokens
        self.tenant_totals.generation_tokens += tokens

    def job_ended(self, reason: str, job: JobEnd) -> None:
        """A job of it has left the loom."""
        self.prompt_tokens += job.fed
        self.tenant_totals.prompt_tokens += job.fed
        self.queued = max(self.queued or 0.0, job.queued)
        self.finish = reason
        if self.timeline is not None:
            self.timeline.job_ended(job)

    def stored(self, operation: str, begun: float, ended: float) -> None:
        """It has waited for the session store."""
        self.store_seconds += ended - begun
        if self.timeline is not None:
            self.timeline.add(Step(f"store {operation}", begun, ended))

    def failed(self, code: str, reason: str) -> None:
        """It ends with an error."""
        self.code, self.reason = code, reason


_call: ContextVar[CallRecord | None] = ContextVar("call", default=None)


def set_call(call: CallRecord) -> None:
    """Say which call runs in this task."""
    _call.set(call)


def running_call() -> CallRecord | None:
    """The call that runs in this task; None where no transport has said so."""
    return _call.get()


def current_call() -> CallRecord:
    """The call that runs in this task; a record that nobody reads where no transport has said so."""
    return _call.get() or CallRecord()


@dataclass
class MethodTotals:
    """What the calls of a method were."""

    running: int = 0
    """At this moment."""
    seconds: Histogram = field(default_factory=Histogram)
    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By code and reason."""


class Totals:
    """All calls of an engine, and what its session store did; all of it belongs to the event loop."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.methods: dict[str, MethodTotals] = {}
        self.tenants: dict[str, TenantTotals] = {}
        self.resumptions = 0
        """Calls that resumed one which broke off."""
        self.replayed = 0
        """Tokens that were made again for them."""
        self.labels: Counter[tuple[str, str]] = Counter()
        """Texts that classifiers gave a label, by model and label."""
        self.watched_lines = 0
        self.watch_alerts = 0
        """Of these lines, those that were alerts."""
        self.silent_sources = 0
        """How often a watched source was told to be silent."""
        self.store_seconds: dict[str, Histogram] = {}
        """By operation."""
        self.store_errors: Counter[tuple[str, str]] = Counter()
        """Of these, those that the store failed: by operation and reason."""

    @property
    def seconds(self) -> float:
        """How long it has been counted."""
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
        """A call has arrived; who makes it is not known yet."""
        self.methods.setdefault(call.method, MethodTotals()).running += 1

    def admitted(self, call: CallRecord, tenant: str) -> None:
        """It is known who makes a call."""
        if tenant not in self.tenants and len(self.tenants) >= MOST_TENANTS:
            call.tenant_totals = self.tenants.setdefault(OTHER_TENANTS, TenantTotals())
        else:
            call.tenant_totals = self.tenants.setdefault(tenant, TenantTotals())
        call.tenant = tenant
        call.tenant_totals.running += 1

    def ended(self, call: CallRecord) -> None:
        """A call has ended; its record does not change any more."""
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
        """Lines of watched sources were judged."""
        self.watched_lines += lines
        self.watch_alerts += alerts

    def fell_silent(self, sources: int) -> None:
        """Watched sources were told to say nothing any more."""
        self.silent_sources += sources

    def stored(self, operation: str, seconds: float, error: str) -> None:
        """The session store did something, or failed with an error of this reason."""
        histogram = self.store_seconds.get(operation)
        if histogram is None:
            histogram = self.store_seconds[operation] = Histogram()
        histogram.add(seconds)
        if error:
            self.store_errors[operation, error] += 1
