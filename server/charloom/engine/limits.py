"""What the engine accepts, in one place: each default is here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Limits:
    """What the engine accepts."""

    max_tokens: int = 65_536
    """Most tokens that one call may generate."""
    default_max_tokens: int = 256
    """What a call generates that does not say."""
    max_prompt_characters: int = 65_536
    """Longest prompt."""
    default_time_to_live: timedelta = timedelta(minutes=30)
    """How long a session is kept without use."""
    max_time_to_live: timedelta = timedelta(days=7)
    """The longest that a session may ask for."""
    max_sessions: int = 100_000
    """Most sessions that are kept."""
    workers: int = 1
    """Decoder calls at a time, per model: one per core on a CPU."""
    max_rows: int = 256
    """Most rows in one decoder call."""
    max_waiting: int = 1024
    """Most calls that wait for a row, per model; and most that are paused because nobody reads them."""
    tick_seconds: float = 0.01
    """How long a decoder call should take when there is work for longer."""
    rewind_tokens: int = 1024
    """How many positions a session can at least be put back by."""
