"""The totals of an engine as metrics of Prometheus, made when they are asked for.

Nothing is counted here: events are counted as plain numbers where they happen, which is cheap.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from charloom.engine.engine import Engine
from charloom.engine.loom.loom import Loom
from charloom.engine.loom.model import Model
from charloom.engine.loom.totals import LoomTotals
from charloom.engine.telemetry import Histogram

PREFIX = "charloom_"


class EngineCollector(Collector):
    """Tells the totals of an engine; `collect` may run on any thread.

    Args:
        engine: whose
        per_tenant: whether to tell them of each tenant too
    """

    def __init__(self, engine: Engine, *, per_tenant: bool = False) -> None:
        self._engine = engine
        self._per_tenant = per_tenant
        self.sessions: int | None = None
        """That the store keeps, as far as is known."""

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they are now."""
        yield from self._looms()
        yield from self._requests()
        yield from self._store()
        if self._per_tenant:
            yield from self._tenants()

    def _looms(self) -> Iterator[Metric]:
        serving = self._engine.models
        models = [*serving, *self._engine.draining_models]
        running = _sums(models, lambda loom: loom.live)
        yield _gauge("num_requests_running", "Generations and readings that have a row.", running)
        waiting = _sums(models, lambda loom: loom.waiting)
        yield _gauge("num_requests_waiting", "Generations and readings that wait for a row.", waiting)
        yield _gauge("rows_capacity", "Rows that can be in ticks at a time.", _sums(serving, lambda loom: loom.places))
        usage = GaugeMetricFamily(
            PREFIX + "capacity_usage_ratio", "Part of the rows, or of the memory for calls, in use: what is more."
        )
        usage.add_metric([], self._engine.usage)
        yield usage
        totals = {model.name: model.totals for model in models}
        counts: list[tuple[str, str, Callable[[LoomTotals], float]]] = [
            ("prompt_tokens", "Tokens of prompts and texts that were read.", lambda of: of.prompt_tokens),
            ("generation_tokens", "Tokens that were delivered.", lambda of: of.generation_tokens),
            ("row_steps", "Tokens that the decoder read or made.", lambda of: of.steps),
        ]
        for name, text, of in counts:
            family = CounterMetricFamily(PREFIX + name, text, labels=["model"])
            for model, its in totals.items():
                family.add_metric([model], of(its))
            yield family
        success = CounterMetricFamily(
            PREFIX + "request_success", "Generations that ended, by reason.", labels=["model", "finished_reason"]
        )
        for model, its in totals.items():
            for reason, count in list(its.finished.items()):
                success.add_metric([model, reason], count)
        yield success
        histograms: list[tuple[str, str, Callable[[LoomTotals], Histogram]]] = [
            ("tick_rows", "Rows of a decoder call.", lambda of: of.tick_rows),
            (
                "tick_seconds",
                "Duration of a decoder call, with its results taken.",
                lambda of: of.tick_seconds,
            ),
            ("request_queue_time_seconds", "How long a row was waited for.", lambda of: of.queue_seconds),
            (
                "time_to_first_token_seconds",
                "From the submission of a generation to its first token.",
                lambda of: of.first_token_seconds,
            ),
            (
                "inter_token_latency_seconds",
                "Of each token after the first, the mean of its generation.",
                lambda of: of.inter_token_seconds,
            ),
        ]
        for name, text, histogram in histograms:
            yield _histogram(name, text, ["model"], {(model,): histogram(its) for model, its in totals.items()})

    def _requests(self) -> Iterator[Metric]:
        methods = self._engine.totals.methods.copy()
        yield _gauge(
            "calls_running", "Calls that have not ended.", {n: m.running for n, m in methods.items()}, "method"
        )
        ended = CounterMetricFamily(
            PREFIX + "requests", "Calls that ended; reason: of the error.", labels=["method", "code", "reason"]
        )
        for name, method in methods.items():
            for (code, reason), count in list(method.ended.items()):
                ended.add_metric([name, code, reason], count)
        yield ended
        refusals = CounterMetricFamily(PREFIX + "refusals", "Calls that were refused, by reason.", labels=["reason"])
        for reason, count in self._engine.totals.refusals.items():
            refusals.add_metric([reason], count)
        yield refusals
        labelled = CounterMetricFamily(
            PREFIX + "labelled_texts", "Texts that a classifier gave a label, by label.", labels=["model", "label"]
        )
        for (model, label), count in list(self._engine.totals.labels.items()):
            labelled.add_metric([model, label], count)
        yield labelled
        yield _histogram(
            "e2e_request_latency_seconds",
            "From the arrival of a call to its end.",
            ["method"],
            {(name,): method.seconds for name, method in methods.items()},
        )

    def _store(self) -> Iterator[Metric]:
        totals, sessions = self._engine.totals, self._engine.sessions
        for name, text, value in (
            ("sessions_writing", "Sessions that calls of this server are using.", sessions.writing),
            ("session_memory_bytes", "Memory that sessions take in this process.", sessions.memory),
            ("calls_memory_bytes", "Memory that running calls may use.", self._engine.budget.held),
        ):
            gauge = GaugeMetricFamily(PREFIX + name, text)
            gauge.add_metric([], value)
            yield gauge
        if self.sessions is not None:
            kept = GaugeMetricFamily(
                PREFIX + "sessions", "Sessions that the store keeps, for all servers that share it."
            )
            kept.add_metric([], self.sessions)
            yield kept
        for name, text, value in (
            ("resumptions", "Calls that resumed one which broke off.", totals.resumptions),
            ("replayed_tokens", "Tokens that were made again for them.", totals.replayed),
            ("watched_lines", "Lines of watched sources that were judged.", totals.watched_lines),
            ("watch_alerts", "Of these, those that were alerts.", totals.watch_alerts),
            ("watch_silent_sources", "Times that a watched source was told to be silent.", totals.silent_sources),
        ):
            counter = CounterMetricFamily(PREFIX + name, text)
            counter.add_metric([], value)
            yield counter
        yield _histogram(
            "store_seconds",
            "Duration of operations of the session store.",
            ["operation"],
            {(operation,): seconds for operation, seconds in totals.store_seconds.copy().items()},
        )
        errors = CounterMetricFamily(
            PREFIX + "store_errors", "Operations that the session store failed.", labels=["operation", "reason"]
        )
        for (operation, reason), count in list(totals.store_errors.items()):
            errors.add_metric([operation, reason], count)
        yield errors

    def _tenants(self) -> Iterator[Metric]:
        tenants = self._engine.totals.tenants.copy()
        running = {name: tenant.running for name, tenant in tenants.items()}
        yield _gauge("tenant_calls_running", "Calls of a tenant that have not ended.", running, "tenant")
        for name, text in (
            ("requests", "Calls of a tenant that ended."),
            ("refused", "Calls of a tenant that ended with an error."),
            ("prompt_tokens", "Tokens of a tenant that were read."),
            ("generation_tokens", "Tokens that a tenant was delivered."),
        ):
            family = CounterMetricFamily(f"{PREFIX}tenant_{name}", text, labels=["tenant"])
            for tenant, totals in tenants.items():
                family.add_metric([tenant], getattr(totals, name))
            yield family


def _sums(models: Iterable[Model], of: Callable[[Loom], float]) -> dict[str, float]:
    """By model name, the sum over its versions."""
    sums: dict[str, float] = {}
    for model in models:
        sums[model.name] = sums.get(model.name, 0.0) + of(model.loom)
    return sums


def _gauge(name: str, text: str, values: Mapping[str, float], label: str = "model") -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for of, value in values.items():
        family.add_metric([of], value)
    return family


def _histogram(name: str, text: str, labels: list[str], of: dict[tuple[str, ...], Histogram]) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text, labels=labels)
    for values, histogram in of.items():
        total = histogram.sum
        counted = list(itertools.accumulate(histogram.counts))
        bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
        family.add_metric(values, list(zip(bounds, counted, strict=True)), total)
    return family
