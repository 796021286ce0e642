"""Passes the application's trace on to servers and proxies that trace calls.

Uses OpenTelemetry only if the application has imported it: without that, no trace can have begun.
"""

from __future__ import annotations

import sys


def carried() -> tuple[tuple[str, str], ...]:
    """Trace metadata of a call that begins now, from the process's propagators (W3C: `traceparent`, `tracestate`)."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((name.lower(), value) for name, value in carrier.items())
