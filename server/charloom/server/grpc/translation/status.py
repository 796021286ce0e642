"""status.proto: the work of one engine, and the sum over the engines of several processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from charloom.engine.engine import Engine
from charloom.engine.loom.model import Model
from charloom.engine.telemetry import Histogram, MethodTotals, TenantTotals
from charloom.v1 import status_pb2

OfSome = TypeVar("OfSome", status_pb2.ModelStatus, status_pb2.MethodStatus, status_pb2.TenantStatus)


def from_engine(engine: Engine, sessions: int | None) -> status_pb2.GetStatusResponse:
    """The message for an engine as it is now; `sessions` is the number in its store, None if unknown."""
    totals, serving = engine.totals, engine.models
    versions: dict[str, list[Model]] = {}
    for model in (*serving, *engine.draining_models):
        versions.setdefault(model.name, []).append(model)
    return status_pb2.GetStatusResponse(
        seconds=totals.seconds,
        usage=engine.usage,
        models=[_from_versions(of_name, serving) for of_name in versions.values()],
        methods=[_from_method(name, of) for name, of in totals.methods.items()],
        tenants=[_from_tenant(name, of) for name, of in totals.tenants.items()],
        refusals=totals.refusals,
        sessions_in_use=engine.sessions.writing,
        session_bytes=engine.sessions.memory,
        call_bytes=engine.budget.held,
        most_bytes=engine.budget.most or 0,
        sessions=sessions,
    )


def together(processes: Sequence[status_pb2.GetStatusResponse]) -> status_pb2.GetStatusResponse:
    """The message for a server of several processes: sums, except of values that describe something they share."""
    all_of = status_pb2.GetStatusResponse(
        seconds=max(one.seconds for one in processes),
        usage=max(one.usage for one in processes),
        models=_by_name(model for one in processes for model in one.models),
        methods=_by_name(method for one in processes for method in one.methods),
        tenants=_by_name(tenant for one in processes for tenant in one.tenants),
        sessions_in_use=sum(one.sessions_in_use for one in processes),
        session_bytes=sum(one.session_bytes for one in processes),
        call_bytes=sum(one.call_bytes for one in processes),
        most_bytes=sum(one.most_bytes for one in processes),
        sessions=max((one.sessions for one in processes if one.HasField("sessions")), default=None),
    )
    for one in processes:
        for reason, count in one.refusals.items():
            all_of.refusals[reason] += count
    return all_of


def _by_name(statuses: Iterable[OfSome]) -> list[OfSome]:
    """Merge statuses of the same name by adding their numbers."""
    found: dict[str, OfSome] = {}
    for status in statuses:
        if status.name in found:
            _add(found[status.name], status)
        else:
            found[status.name] = status
    return list(found.values())


def _add(to: Message, more: Message) -> None:
    """Add the numbers and histograms of `more` to `to`; of texts, the first that is not empty stays."""
    for field, value in more.ListFields():
        if isinstance(value, status_pb2.Histogram):
            _add_histogram(getattr(to, field.name), value)
        elif isinstance(value, str):
            setattr(to, field.name, getattr(to, field.name) or value)
        else:
            setattr(to, field.name, getattr(to, field.name) + value)


def _add_histogram(to: status_pb2.Histogram, more: status_pb2.Histogram) -> None:
    to.sum += more.sum
    to.counts[:] = [a + b for a, b in zip(to.counts, more.counts, strict=True)]


def _from_versions(models: Sequence[Model], all_serving: Sequence[Model]) -> status_pb2.ModelStatus:
    """The message for all versions of one model name, which share their totals."""
    totals = models[0].totals
    serving = next((model for model in models if model in all_serving), None)
    return status_pb2.ModelStatus(
        name=models[0].name,
        decoder=serving.decoder.kind if serving is not None else "",
        device=models[0].decoder.device,
        running=sum(model.loom.live for model in models),
        waiting=sum(model.loom.waiting for model in models),
        places=serving.loom.places if serving is not None else 0,
        generation_tokens=totals.generation_tokens,
        prompt_tokens=totals.prompt_tokens,
        tick_rows=_from_histogram(totals.tick_rows),
        tick_seconds=_from_histogram(totals.tick_seconds),
        queue_seconds=_from_histogram(totals.queue_seconds),
        first_token_seconds=_from_histogram(totals.first_token_seconds),
        inter_token_seconds=_from_histogram(totals.inter_token_seconds),
    )


def _from_method(name: str, totals: MethodTotals) -> status_pb2.MethodStatus:
    ended = totals.ended.items()
    return status_pb2.MethodStatus(
        name=name,
        running=totals.running,
        ended=sum(count for _, count in ended),
        failed=sum(count for (_, reason), count in ended if reason),
        seconds=_from_histogram(totals.seconds),
    )


def _from_tenant(name: str, totals: TenantTotals) -> status_pb2.TenantStatus:
    return status_pb2.TenantStatus(
        name=name,
        running=totals.running,
        ended=totals.requests,
        failed=totals.refused,
        prompt_tokens=totals.prompt_tokens,
        generation_tokens=totals.generation_tokens,
    )


def _from_histogram(histogram: Histogram) -> status_pb2.Histogram:
    return status_pb2.Histogram(bounds=histogram.bounds, counts=list(histogram.counts), sum=histogram.sum)
