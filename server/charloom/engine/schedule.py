"""How many steps the next tick takes: a pure decision.

Knows: what each live row still has to do, and what a step costs. Does not know: state, threads, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_STEPS = 256
"""Steps of the longest tick, whatever they cost."""
ROW_SECONDS = 0.0004
"""How much longer a tick may take for each row: every row of a tick costs a message, and messages cost time too."""


class Work(NamedTuple):
    """What one row still has to do."""

    to_feed: int
    """Prompt tokens not fed yet."""
    to_generate: int
    """Tokens not generated yet."""
    started: bool
    """Whether its first token is out."""


def tick_steps(works: Sequence[Work], step_seconds: float, target_seconds: float) -> int:
    """Number of steps K of the next tick, at least 1.

    As many as fit into `target_seconds` and some more for each row, so that messages carry several tokens; but not past
    the step that brings a waiting row its first token, so that this token leaves at once.

    Args:
        works: one per row of the tick, not empty
        step_seconds: measured cost of one step with this many rows
        target_seconds: how long a tick of one row should take
    """
    longest = max(work.to_feed + work.to_generate for work in works)
    target = target_seconds + (len(works) - 1) * ROW_SECONDS
    fitting = int(min(MOST_STEPS, target / step_seconds)) if step_seconds > 0 else MOST_STEPS
    first_tokens = [work.to_feed + 1 for work in works if not work.started]
    return max(1, min(longest, fitting, *first_tokens))
