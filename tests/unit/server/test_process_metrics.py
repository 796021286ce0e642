"""The metrics of several processes, added up."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from charloom.server.processes.metrics import SummedMetrics, Told


class Process:
    """Metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tokens = Counter("charloom_tokens", "Tokens.", ["model"], registry=self.registry)
        self.ticks = Histogram("charloom_tick_seconds", "Ticks.", buckets=[1, 2], registry=self.registry)
        self.running = Gauge("charloom_running", "Running.", registry=self.registry)
        self.usage = Gauge("charloom_capacity_usage_ratio", "Use.", registry=self.registry)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def summed(metrics: SummedMetrics) -> Mapping[str, float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_what_is_counted_is_added_up_and_what_is_full_is_not() -> None:
    one, other = Process(), Process()
    one.tokens.labels("a").inc(3)
    other.tokens.labels("a").inc(4)
    other.tokens.labels("b").inc(5)
    for process, seconds, running, usage in ((one, 0.5, 2, 0.25), (other, 1.5, 3, 0.75)):
        process.ticks.observe(seconds)
        process.running.set(running)
        process.usage.set(usage)
    found = summed(SummedMetrics(lambda: Told({1: one.text(), 2: other.text()}, {1, 2}, 0, 0)))
    assert found["charloom_tokens_totala"] == 7
    assert found["charloom_tokens_totalb"] == 5
    assert (found["charloom_tick_seconds_bucket1.0"], found["charloom_tick_seconds_bucket+Inf"]) == (1, 2)
    assert (found["charloom_tick_seconds_count"], found["charloom_tick_seconds_sum"]) == (2, 2)
    assert found["charloom_running"] == 5
    assert found["charloom_capacity_usage_ratio"] == 0.75
    assert (found["charloom_processes"], found["charloom_processes_replaced_total"]) == (2, 0)


def test_what_only_rises_does_not_fall_when_a_process_ends_or_does_not_answer() -> None:
    one, other = Process(), Process()
    one.tokens.labels("a").inc(3)
    one.running.set(1)
    other.tokens.labels("a").inc(4)
    other.tokens.labels("its own").inc(5)
    other.running.set(1)
    told = [
        Told({1: one.text(), 2: other.text()}, {1, 2}, 0, 0),
        Told({1: one.text()}, {1, 2}, 0, 0),
        Told({1: one.text()}, {1}, 1, 0),
        Told({1: one.text(), 3: Process().text()}, {1, 3}, 1, 0),
    ]
    metrics = SummedMetrics(lambda: told.pop(0))
    for running, processes in ((2, 2), (2, 1), (1, 1), (1, 2)):
        found = summed(metrics)
        assert found["charloom_tokens_totala"] == 7
        assert found["charloom_tokens_totalits own"] == 5
        assert (found["charloom_running"], found["charloom_processes"]) == (running, processes)


def test_what_was_asked_before_a_process_ended_is_not_counted_after_its_end() -> None:
    one, other = Process(), Process()
    one.tokens.labels("a").inc(3)
    other.tokens.labels("a").inc(4)
    both = Told({1: one.text(), 2: other.text()}, {1, 2}, 0, 0)
    later = threading.Thread(target=lambda: summed(metrics))
    asked: list[Told] = []

    def ask() -> Told:
        asked.append(both)
        if len(asked) == 2:  # its answers are on their way while the next one asks
            later.start()
            later.join(0.5)
            return both
        return both if len(asked) == 1 else Told({2: other.text()}, {2}, 1, 0)

    metrics = SummedMetrics(ask)
    for _ in range(2):
        assert summed(metrics)["charloom_tokens_totala"] == 7
    later.join()
    assert summed(metrics)["charloom_tokens_totala"] == 7
