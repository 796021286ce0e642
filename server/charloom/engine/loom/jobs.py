"""What goes on a loom and what comes off it: jobs, the chunks of tokens that they turn into, how they end."""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from charloom.engine.decoding.automaton import Automaton
from charloom.engine.decoding.decoder import Floats, Ints
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.loom.logprobs import NONE_TOLD, Logprobs


class FinishReason(enum.Enum):
    """Why a job left the loom."""

    LENGTH = "length"
    STOP = "stop"
    """A stop string was found, or the constraint's text has ended."""
    DRAINING = "draining"
    CANCELLED = "cancelled"
    STALLED = "stalled"
    """Its reader did not read, and others that do not either were too many."""
    DISPLACED = "displaced"
    """It waited, and had to make room for a job of a caller that had fewer of them waiting."""
    FAILED = "failed"


@dataclass(frozen=True)
class Stops:
    """What ends a generation before its length."""

    patterns: Sequence[Sequence[int]]
    """The stop strings as tokens."""
    include: bool = False
    """Whether the text is to end with the stop string, or before it."""
    min_tokens: int = 0
    """A stop string that would leave a shorter text does not count."""


@dataclass(frozen=True)
class Job:
    """What to feed and to generate, and from where."""

    start: Snapshot
    prompt: Ints
    """[T], may be empty"""
    max_tokens: int
    """0 feeds the prompt and nothing else."""
    sampling: Sampling
    bias: Floats | None = None
    """[V], what is added to the logits."""
    stops: Stops | None = None
    automaton: Automaton | None = None
    """What the whole generated text is to match."""
    top_logprobs: int | None = None
    """How many alternatives to tell of each token; None: no log-probabilities at all."""
    snapshots: bool = False
    """Whether each chunk is to carry the state after it."""
    scored: bool = False
    """Whether to tell the log-probabilities of the prompt instead; its last chunk has them."""
    earlier: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """[T], what the same call has read and generated before `start`: a call that goes on after a break."""
    earlier_generated: int = 0
    """How many of these were generated."""
    automaton_state: int = 0
    """Where these leave its automaton."""
    later: int = 0
    """Tokens that the text may have after these `max_tokens`, by jobs that go on with it: its constraint counts on
    them."""

    @functools.cached_property
    def plain(self) -> bool:
        """Whether it asks for nothing but a temperature, which the decoder does with the least work."""
        sampling = self.sampling
        return not (sampling.filters or sampling.penalises or self.bias is not None or self.top_logprobs)

    @property
    def generated_earlier(self) -> Ints:
        """What the same call has generated before `start`."""
        return self.earlier[len(self.earlier) - self.earlier_generated :]

    def forced(self) -> Ints:
        """All tokens to feed: those that the state has not read yet, past the first, then the prompt."""
        return np.concatenate([np.array(self.start.pending[1:], np.int64), self.prompt])


@dataclass(frozen=True)
class Finish:
    """How a job ended; times are seconds since it was submitted."""

    reason: FinishReason
    snapshot: Snapshot
    """After the last delivered token; its `tail` is that of the start. Without meaning for a job that was cancelled."""
    generated: int
    """Tokens delivered."""
    fed: int
    """Tokens of the prompt that were fed."""
    queued: float
    first_token: float
    total: float
    stop: int | None = None
    """Which stop string was found."""
    allowed: float | None = None
    """Natural logarithm of the probability that the constraint left, of all tokens together that this job generated;
    None without a constraint."""


@dataclass(frozen=True)
class Chunk:
    """What some ticks did for one job."""

    tokens: Sequence[int]
    """Generated tokens; it may be empty in the last chunk."""
    position: int
    """Absolute position after these tokens."""
    finish: Finish | None = None
    snapshot: Snapshot | None = None
    """After these tokens; None where the job does not ask for it. Its `tail` is that of the start."""
    logprobs: Logprobs = NONE_TOLD
    """Of each token, where the job asks for them."""
