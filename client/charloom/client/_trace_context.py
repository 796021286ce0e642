"""The trace that a call belongs to, for servers and proxies that trace calls: that of the application, if it has one.

Knows OpenTelemetry where the application has imported it. Nothing else can have begun a trace, so it is not imported
for this.
"""

from __future__ import annotations

import sys


def carried() -> tuple[tuple[str, str], ...]:
    """Metadata of a call that begins now, by the propagators of the process (W3C: `traceparent`, `tracestate`)."""
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple((name.lower(), value) for name, value in carrier.items())
