"""The metrics of a server of several processes: the sums over all processes.

Counters must not fall when a process ends, so its last values still count.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LARGEST = {
    "charloom_capacity_usage_ratio",
    "charloom_sessions",
    "process_max_fds",
    "process_start_time_seconds",
    "python_info",
}
"""Gauges that are not added up: the fullest process, what all of them see alike, the youngest one."""
RISING = {"counter", "histogram"}
"""Types of what only rises."""


class Told(NamedTuple):
    """The metrics that the processes reported."""

    texts: Mapping[int, str]
    """The metrics of those that answered, by process id."""
    alive: set[int]
    """Ids of processes that have not ended."""
    replaced: int
    """Number of processes that ended and were replaced."""
    hung: int
    """How many of these were killed because they did not answer."""


Series = tuple[str, tuple[tuple[str, str], ...]]
Values = defaultdict[Series, float]


def _nothing() -> Values:
    return defaultdict(float)


class SummedMetrics(Collector):
    """The sums; `collect` may run on any thread.

    Args:
        ask: the processes, and waits for what they say
    """

    def __init__(self, ask: Callable[[], Told]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._last: dict[int, list[Metric]] = {}
        """The last metrics of each process."""
        self._ended: defaultdict[str, Values] = defaultdict(_nothing)
        """By family, the counts of processes that have ended."""

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that no process is asked before there are any."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics, as they are now; of a process that does not answer, as they were."""
        with self._lock:  # one after the other, so that what a process told before its end is not counted after it
            told = self._ask()
            self._last |= {pid: list(text_string_to_metric_families(text)) for pid, text in told.texts.items()}
            for pid in self._last.keys() - told.alive:
                for family in self._last.pop(pid):
                    if family.type in RISING:
                        _add(self._ended[family.name], family)
            families = [*_summed(self._last.values(), self._ended)]
        running = GaugeMetricFamily("charloom_processes", "Processes that take calls.")
        running.add_metric([], len(told.texts))
        replaced = CounterMetricFamily("charloom_processes_replaced", "Processes that ended and were replaced.")
        replaced.add_metric([], told.replaced)
        hung = CounterMetricFamily("charloom_processes_hung", "Processes that did not answer, and were killed.")
        hung.add_metric([], told.hung)
        return [*families, running, replaced, hung]


def _summed(processes: Iterable[list[Metric]], ended: Mapping[str, Values]) -> Iterable[Metric]:
    found: dict[str, Metric] = {}
    values: defaultdict[str, Values] = defaultdict(_nothing)
    for family in (family for families in processes for family in families):
        found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        _add(values[family.name], family)
    for name, metric in found.items():
        for series, value in ended.get(name, {}).items():  # also what no process counts now
            values[name][series] += value
        for (of, labels), value in values[name].items():
            metric.add_sample(of, dict(labels), value)
    return found.values()


def _add(values: Values, family: Metric) -> None:
    """Add what a process tells of a family to what others do."""
    for sample in family.samples:
        series = sample.name, tuple(sorted(sample.labels.items()))
        if family.name in LARGEST:
            values[series] = max(values.get(series, sample.value), sample.value)
        else:
            values[series] += sample.value
