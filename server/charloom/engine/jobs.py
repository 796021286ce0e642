"""What goes on a loom and what comes off it.

Knows: jobs, the chunks of tokens they turn into, how they end. Does not know: ticks, threads, text.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from charloom.engine.decoder import Ints
from charloom.engine.sampling import Sampling
from charloom.engine.schedule import Work
from charloom.engine.session import Snapshot


class FinishReason(enum.Enum):
    """Why a job left the loom."""

    LENGTH = "length"
    DRAINING = "draining"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """What to feed and to generate, and from where."""

    start: Snapshot
    prompt: Ints
    """[T], may be empty"""
    max_tokens: int
    sampling: Sampling
    snapshots: bool = False
    """Whether each chunk is to carry the state after it."""


@dataclass(frozen=True)
class Finish:
    """How a job ended; times are seconds since it was submitted."""

    reason: FinishReason
    snapshot: Snapshot
    """After the last delivered token; its `tail` is that of the start."""
    generated: int
    fed: int
    queued: float
    first_token: float
    total: float


@dataclass(frozen=True)
class Chunk:
    """What one tick did for one job."""

    tokens: Sequence[int]
    """Generated tokens; empty while a prompt is read, and it may be empty in the last chunk."""
    position: int
    """Absolute position after these tokens."""
    finish: Finish | None = None
    snapshot: Snapshot | None = None
    """After these tokens; None where the job does not ask for it. Its `tail` is that of the start."""


@dataclass(eq=False)
class Strand:
    """A job on the loom. `cancel` and `took` may be called from any thread."""

    job: Job
    receiver: Callable[[Chunk], None]
    """Who wants the chunks; the loom only carries it to `deliver`."""
    wake: Callable[[], None]
    """Lets the loom look at its rows again."""
    unread_limit: int
    """Generated tokens that the reader may leave unread before the job is paused."""
    submitted: float
    cancelled: bool = False
    taken: int = 0
    """Generated tokens that the reader took; only the reader writes it."""
    # From here on, only the loom's workers read or write, one at a time.
    ticking: bool = False
    """Whether a worker has it in a tick."""
    slot: int = -1
    token: int = 0
    fed: int = 0
    generated: int = 0
    begun: float = 0.0
    first: float = 0.0

    @property
    def position(self) -> int:
        return self.job.start.position + self.fed + self.generated

    @property
    def work(self) -> Work:
        return Work(len(self.job.prompt) - self.fed, self.job.max_tokens - self.generated, self.generated > 0)

    @property
    def runnable(self) -> bool:
        return self.generated - self.taken < self.unread_limit

    def cancel(self) -> None:
        """Take the job out of the loom before the next tick; tokens of the present tick are not delivered."""
        self.cancelled = True
        self.wake()

    def took(self, tokens: int) -> None:
        """Say that the reader took this many more tokens: a job whose reader stops is paused."""
        self.taken += tokens
        self.wake()


Delivery = tuple[Strand, Chunk]
