"""What a server did between two of its statuses, as numbers and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from charloom.cli.output import columns
from charloom.client import Histogram, MethodStatus, ModelStatus, ServerStatus, TenantStatus

MOST_TENANTS = 20
"""That are shown, those that are given most text first."""


@dataclass(frozen=True)
class Latency:
    """Seconds; None where nothing was measured."""

    p50: float | None
    p99: float | None


@dataclass(frozen=True)
class ModelActivity:
    """Of a model."""

    name: str
    decoder: str
    running: int
    waiting: int
    places: int
    tokens_per_second: float
    prompt_tokens_per_second: float
    rows_per_tick: float | None
    tick: Latency
    queue: Latency
    first_token: Latency
    each_token: Latency


@dataclass(frozen=True)
class MethodActivity:
    """Of a method."""

    name: str
    running: int
    calls_per_second: float
    errors_per_second: float
    latency: Latency


@dataclass(frozen=True)
class TenantActivity:
    """Of a tenant."""

    name: str
    running: int
    calls_per_second: float
    errors_per_second: float
    tokens_per_second: float


@dataclass(frozen=True)
class Activity:
    """Of a server; sizes in bytes."""

    up_seconds: float
    over_seconds: float
    """What the rates and latencies are of."""
    usage: float
    sessions: int | None
    """That the store keeps; None where it does not answer."""
    sessions_in_use: int
    session_bytes: int
    call_bytes: int
    most_bytes: int | None
    refusals_per_second: dict[str, float]
    models: list[ModelActivity]
    methods: list[MethodActivity]
    tenants: list[TenantActivity]
    """Those that are given most text first."""


_NO_MODEL = ModelStatus(
    name="",
    decoder="",
    device="",
    running=0,
    waiting=0,
    places=0,
    generation_tokens=0,
    prompt_tokens=0,
    tick_rows=Histogram(),
    tick_seconds=Histogram(),
    queue_seconds=Histogram(),
    first_token_seconds=Histogram(),
    inter_token_seconds=Histogram(),
)
_NO_METHOD = MethodStatus(name="", running=0, ended=0, failed=0, seconds=Histogram())
_NO_TENANT = TenantStatus(name="", running=0, ended=0, failed=0, prompt_tokens=0, generation_tokens=0)
_NOTHING = ServerStatus(
    seconds=0.0,
    usage=0.0,
    models=(),
    methods=(),
    tenants=(),
    refusals={},
    sessions=None,
    sessions_in_use=0,
    session_bytes=0,
    call_bytes=0,
    most_bytes=None,
)
"""Of a server that has just begun."""


def activity(before: ServerStatus, now: ServerStatus) -> Activity:
    """What a server did from one status to another; since its start, where it has started again in between."""
    if before.seconds >= now.seconds:
        before = _NOTHING
    over = now.seconds - before.seconds
    models = {one.name: one for one in before.models}
    methods = {one.name: one for one in before.methods}
    tenants = {one.name: one for one in before.tenants}
    return Activity(
        now.seconds,
        over,
        now.usage,
        now.sessions,
        now.sessions_in_use,
        now.session_bytes,
        now.call_bytes,
        now.most_bytes,
        {reason: (count - before.refusals.get(reason, 0)) / over for reason, count in now.refusals.items()},
        [_of_model(models.get(one.name, _NO_MODEL), one, over) for one in now.models],
        [_of_method(methods.get(one.name, _NO_METHOD), one, over) for one in now.methods],
        sorted(
            (_of_tenant(tenants.get(one.name, _NO_TENANT), one, over) for one in now.tenants),
            key=lambda one: (-one.tokens_per_second, -one.running, one.name),
        ),
    )


def _of_model(before: ModelStatus, now: ModelStatus, over: float) -> ModelActivity:
    return ModelActivity(
        now.name,
        now.decoder,
        now.running,
        now.waiting,
        now.places,
        (now.generation_tokens - before.generation_tokens) / over,
        (now.prompt_tokens - before.prompt_tokens) / over,
        now.tick_rows.since(before.tick_rows).mean,
        _latency(before.tick_seconds, now.tick_seconds),
        _latency(before.queue_seconds, now.queue_seconds),
        _latency(before.first_token_seconds, now.first_token_seconds),
        _latency(before.inter_token_seconds, now.inter_token_seconds),
    )


def _of_method(before: MethodStatus, now: MethodStatus, over: float) -> MethodActivity:
    return MethodActivity(
        now.name,
        now.running,
        (now.ended - before.ended) / over,
        (now.failed - before.failed) / over,
        _latency(before.seconds, now.seconds),
    )


def _of_tenant(before: TenantStatus, now: TenantStatus, over: float) -> TenantActivity:
    return TenantActivity(
        now.name,
        now.running,
        (now.ended - before.ended) / over,
        (now.failed - before.failed) / over,
        (now.generation_tokens - before.generation_tokens) / over,
    )


def as_json(found: Activity) -> dict[str, Any]:
    """The activity as one JSON object."""
    return asdict(found)


def lines(found: Activity, target: str) -> list[str]:
    """The activity for a terminal of 80 columns, what matters most first; methods that did nothing are left out."""
    refused = sum(found.refusals_per_second.values())
    kept = "unknown" if found.sessions is None else f"{found.sessions:,}"
    reasons = ", ".join(f"{reason} {rate:.1f}" for reason, rate in found.refusals_per_second.items() if rate)
    most = "" if found.most_bytes is None else f" of {_size(found.most_bytes)}"
    told = [
        f"{target}, up {_clock(found.up_seconds)}; over the last {found.over_seconds:.1f} s:",
        f"capacity {found.usage:.0%}   refused {refused:.1f}/s{f' ({reasons})' if reasons else ''}",
        f"sessions {kept}, {found.sessions_in_use} in use, {_size(found.session_bytes)}   "
        f"memory of calls {_size(found.call_bytes)}{most}",
        "",
        *_table(
            ("MODEL", "RUNNING", "WAITING", "ROWS", "CHARS/S", "READ/S", "ROWS/TICK"),
            [
                (
                    *(one.name, str(one.running), str(one.waiting), str(one.places)),
                    *(f"{one.tokens_per_second:,.0f}", f"{one.prompt_tokens_per_second:,.0f}"),
                    "-" if one.rows_per_tick is None else f"{one.rows_per_tick:.1f}",
                )
                for one in found.models
            ],
        ),
        "",
        *_table(
            ("P50, P99", "TICK", "QUEUE", "FIRST", "EACH"),
            [(one.name, *map(_pair, (one.tick, one.queue, one.first_token, one.each_token))) for one in found.models],
        ),
        "",
        *_table(
            ("METHOD", "RUNNING", "CALLS/S", "ERRORS/S", "P50, P99"),
            [
                (
                    *(one.name.removeprefix("charloom.v1."), str(one.running)),
                    *(f"{one.calls_per_second:.1f}", f"{one.errors_per_second:.1f}", _pair(one.latency)),
                )
                for one in found.methods
                if one.running or one.calls_per_second
            ],
        ),
    ]
    if any(one.name for one in found.tenants):
        rows = [
            (
                *(one.name or "(none)", str(one.running), f"{one.calls_per_second:.1f}"),
                *(f"{one.errors_per_second:.1f}", f"{one.tokens_per_second:,.0f}"),
            )
            for one in found.tenants[:MOST_TENANTS]
        ]
        told += ["", *_table(("TENANT", "RUNNING", "CALLS/S", "ERRORS/S", "CHARS/S"), rows)]
    if len(found.tenants) > MOST_TENANTS:
        told.append(f"and {len(found.tenants) - MOST_TENANTS} more")
    return ["".join(char if char.isprintable() else "?" for char in line) for line in told]


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return columns([headings, *rows], numbers=True).split("\n")


def _latency(before: Histogram, now: Histogram) -> Latency:
    found = now.since(before)
    return Latency(found.quantile(0.5), found.quantile(0.99))


def _pair(latency: Latency) -> str:
    return f"{_duration(latency.p50):>6}  {_duration(latency.p99):>6}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.{0 if seconds >= 0.01 else 1}f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
