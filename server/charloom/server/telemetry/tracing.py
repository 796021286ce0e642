"""Opens tracing and its export. OpenTelemetry is imported only here, and only if the settings ask for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from charloom.server.telemetry.trace_export import TraceExport
    from charloom.server.telemetry.traces import Traces


def open_traces() -> Traces:
    """What makes the spans of calls.

    Raises:
        ValueError: it is not installed.
    """
    with _installed():
        from charloom.server.telemetry.traces import Traces
    return Traces()


def open_export() -> TraceExport:
    """What exports the spans of a process, as the environment wants it.

    Raises:
        ValueError: it is not installed, or the environment asks for what it cannot do.
    """
    with _installed():
        from charloom.server.telemetry.trace_export import TraceExport, open_exporter
    return TraceExport(open_exporter())


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        if not (missing.name or "").startswith("opentelemetry"):
            raise
        raise ValueError(
            f"--traces needs {missing.name}, which is not installed; run: pip install 'charloom[traces]'"
        ) from None
