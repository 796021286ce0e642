"""Counters of what the looms of one model name have done, as plain numbers that any thread may read."""

from __future__ import annotations

import threading
from collections import Counter

from charloom.engine.loom.jobs import Chunk, Finish
from charloom.engine.telemetry import Histogram

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Bounds of the histogram of rows in a tick."""
TICK_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5.0)
TOKEN_SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class LoomTotals:
    """Counts ticks and ended jobs. Two looms may count at a time: a draining one, and that of the next version."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.tick_seconds = Histogram(TICK_SECONDS)
        """Duration of a tick, from picking its rows to taking their results."""
        self.tick_rows = Histogram(ROWS)
        self.steps = 0
        """Steps of all rows: tokens read or generated."""
        self.prompt_tokens = 0
        """Prompt tokens that were read, of ended jobs."""
        self.generation_tokens = 0
        """Generated tokens that were delivered."""
        self.queue_seconds = Histogram()
        self.first_token_seconds = Histogram()
        """Time from `submit` to the first token."""
        self.inter_token_seconds = Histogram(TOKEN_SECONDS)
        """Time per token after the first: each job's mean, once per token, because a tick makes many tokens at once."""
        self.finished: Counter[str] = Counter()
        """Ended jobs that were to generate, by finish reason."""

    def ticked(self, rows: int, steps: int, seconds: float) -> None:
        """Count a tick."""
        with self._lock:
            self.tick_rows.add(rows)
            self.tick_seconds.add(seconds)
            self.steps += steps

    def told(self, chunk: Chunk, *, generates: bool) -> None:
        """Count a delivered chunk; `generates`: whether its job was to generate anything."""
        with self._lock:
            self.generation_tokens += len(chunk.tokens)
            if chunk.finish is not None:
                self._ended(chunk.finish, generates)

    def _ended(self, finish: Finish, generates: bool) -> None:
        self.prompt_tokens += finish.fed
        self.queue_seconds.add(finish.queued)
        if not generates:
            return
        self.finished[finish.reason.value] += 1
        if finish.generated:
            self.first_token_seconds.add(finish.first_token)
        if finish.generated > 1:
            each = (finish.total - finish.first_token) / (finish.generated - 1)
            self.inter_token_seconds.add(each, finish.generated - 1)
