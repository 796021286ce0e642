"""What time it is.

Knows: the system's clocks. Does not know: who asks.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

_WALL, _STEADY = datetime.now(timezone.utc), time.monotonic()


def utc_now() -> datetime:
    """The time, aware of its zone. Set once, at the start: a clock that jumps later lets no session expire."""
    return _WALL + timedelta(seconds=time.monotonic() - _STEADY)
