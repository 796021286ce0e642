"""When a tick ends and when a message leaves: pure functions of what the rows still have to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_STEPS = 256
"""Steps of the longest tick, whatever they cost."""
ROW_SECONDS = 0.0008
"""How much longer a tick may take for each row that has started: every tick costs some time for each of its rows."""
MESSAGE_SECONDS, LONGEST_PAUSE = 0.001, 0.1
"""Time between any two messages where there are many streams, and between two of one stream: messages cost time too."""


class Work(NamedTuple):
    """What one row still has to do."""

    to_feed: int
    """Tokens not fed yet."""
    to_generate: int
    """Tokens not generated yet."""
    started: bool
    """Whether its first token is out."""


def tick_steps(works: Sequence[Work], step_seconds: float, target_seconds: float) -> int:
    """Number of steps K of the next tick, at least 1.

    As many as fit into `target_seconds`, and some more for each row; but where no row has started yet, not past the
    step that brings the last of them its first token, so that first tokens leave at once.

    Args:
        works: one per row of the tick, not empty
        step_seconds: measured cost of one step with this many rows
        target_seconds: how long a tick of one row should take
    """
    longest = max(work.to_feed + work.to_generate for work in works)
    started = any(work.started for work in works)
    target = target_seconds + (len(works) - 1) * ROW_SECONDS if started else target_seconds
    fitting = int(min(MOST_STEPS, target / step_seconds)) if step_seconds > 0 else MOST_STEPS
    if not started:
        longest = min(longest, max(work.to_feed + 1 for work in works))
    return max(1, min(longest, fitting))


def message_pause(streams: int, tick_seconds: float) -> float:
    """Seconds between two messages of one stream: one per tick where there are few streams, fewer where there are many.

    Args:
        streams: how many streams there are
        tick_seconds: how long a tick should take
    """
    return max(tick_seconds, min(LONGEST_PAUSE, streams * MESSAGE_SECONDS))
