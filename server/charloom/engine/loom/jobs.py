"""The loom's input and output: jobs, the chunks of tokens that they produce, and how they end."""

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
from charloom.engine.loom.stops import StopAutomaton


class FinishReason(enum.Enum):
    """Why a job left the loom."""

    LENGTH = "length"
    STOP = "stop"
    """A stop string was found, or the constraint's text has ended."""
    DRAINING = "draining"
    CANCELLED = "cancelled"
    STALLED = "stalled"
    """It was paused because its reader did not read, and too many jobs were paused."""
    DISPLACED = "displaced"
    """It was removed from the full queue, to make room for a job of a caller with fewer waiting jobs."""
    FAILED = "failed"


@dataclass(frozen=True)
class Stops:
    """Stop strings, which end a generation before `max_tokens`."""

    patterns: Sequence[Sequence[int]]
    """The stop strings as tokens."""
    include: bool = False
    """Whether the text includes the stop string."""
    min_tokens: int = 0
    """A stop string that would make the text shorter than this is ignored."""

    @functools.cached_property
    def automaton(self) -> StopAutomaton:
        """The automaton of the patterns, shared by all jobs that have these `Stops`."""
        return StopAutomaton(self.patterns)


@dataclass(frozen=True)
class Job:
    """What to feed and to generate, and the state to start from."""

    start: Snapshot
    prompt: Ints
    """[T], may be empty"""
    max_tokens: int
    """0 feeds the prompt and nothing else."""
    sampling: Sampling
    bias: Floats | None = None
    """[V], added to the logits."""
    stops: Stops | None = None
    automaton: Automaton | None = None
    """The constraint: the whole generated text has to match it."""
    top_logprobs: int | None = None
    """Number of alternatives to return for each token; None: no log-probabilities at all."""
    snapshots: bool = False
    """Whether each chunk carries the state after it."""
    scored: bool = False
    """Whether to return the log-probabilities of the prompt (in the last chunk) instead of the generated tokens'."""
    earlier: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """[T], tokens that earlier jobs of the same call have read and generated before `start`."""
    earlier_generated: int = 0
    """How many of `earlier` were generated; they are its last ones."""
    automaton_state: int = 0
    """The state of `automaton` after `earlier`."""
    later: int = 0
    """Tokens that further jobs may add to the text after these `max_tokens`. The constraint reckons with them. Last
    tokens that may still become a stop string are not delivered; the next job generates them again."""
    occurred: Floats | None = None
    """[V], how often each token has occurred in this call before `earlier`; None: never, or there are no penalties."""

    @functools.cached_property
    def plain(self) -> bool:
        """Whether it uses no sampling option but the temperature, the cheapest case for the decoder."""
        sampling = self.sampling
        return not (sampling.filters or sampling.penalises or self.bias is not None or self.top_logprobs)

    @property
    def generated_earlier(self) -> Ints:
        """The tokens that the same call has generated before `start`."""
        return self.earlier[len(self.earlier) - self.earlier_generated :]

    def forced(self) -> Ints:
        """All tokens to feed: the `start.behind` pending ones past the first, then the prompt."""
        return np.concatenate([np.array(self.start.pending[1:], np.int64), self.prompt])


@dataclass(frozen=True)
class Finish:
    """How a job ended; times are seconds since it was submitted."""

    reason: FinishReason
    snapshot: Snapshot
    """The state after the last delivered token, with the `tail` of the start. Meaningless if the job was cancelled."""
    generated: int
    """Tokens delivered."""
    fed: int
    """Tokens of the prompt that were fed."""
    queued: float
    first_token: float
    total: float
    stop: int | None = None
    """Index of the stop string that was found."""
    allowed: float | None = None
    """Natural logarithm of the probability that the constraint left, summed over the tokens that this job generated;
    None without a constraint."""


@dataclass(frozen=True)
class Chunk:
    """The output of one or more ticks for one job."""

    tokens: Sequence[int]
    """Generated tokens; it may be empty in the last chunk."""
    position: int
    """Absolute position after these tokens."""
    finish: Finish | None = None
    snapshot: Snapshot | None = None
    """The state after these tokens, with the `tail` of the start; None where the job does not ask for it."""
    logprobs: Logprobs = NONE_TOLD
    """The log-probabilities of the tokens, where the job asks for them."""
