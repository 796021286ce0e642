"""What a caller may ask of the engine, checked and brought into terms of tokens before any work is done.

Knows: limits, the vocabulary. Does not know: sessions, the loom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from charloom.bundle import UnknownSymbolsError, Vocabulary
from charloom.engine.decoder import MOST_ALTERNATIVES, Floats, Ints
from charloom.engine.errors import InvalidRequest, shown
from charloom.engine.jobs import Job, Stops
from charloom.engine.sampling import Sampling, bias_of
from charloom.engine.session import Snapshot

MOST_STOPS, LONGEST_STOP = 16, 256
MOST_CONTINUATIONS = 64


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


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate, and from where."""

    model: str = ""
    """Empty: the session's model, or the first one."""
    session_id: str = ""
    """Empty: from the zero state, and keep nothing."""
    prompt: str = ""
    skip_unknown: bool = False
    """Leave out characters that the model lacks, instead of refusing the request."""
    max_tokens: int | None = None
    min_tokens: int = 0
    """A stop string that would leave a shorter text does not count."""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    """None: the session's own, or a new one."""
    expected_position: int | None = None
    """Refuse unless the session is there."""
    stop: Sequence[str] = ()
    """Strings that end the text."""
    include_stop: bool = False
    """Whether the text is to end with the stop string, or before it."""
    logprobs: bool = False
    """Whether to tell the log-probability of each token."""
    top_logprobs: int = 0
    """With `logprobs`: how many of the most probable tokens to tell as well."""
    n: int = 1
    """How many continuations; more than one leave the session as it was."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request in terms of tokens."""

    prompt: Ints
    max_tokens: int
    sampling: Sampling
    bias: Floats | None
    stop: Sequence[str]
    stops: Stops | None
    top_logprobs: int | None

    def job(self, start: Snapshot, *, snapshots: bool) -> Job:
        """The job that does it, from some state."""
        return Job(
            start,
            self.prompt,
            self.max_tokens,
            self.sampling,
            bias=self.bias,
            stops=self.stops,
            top_logprobs=self.top_logprobs,
            snapshots=snapshots,
        )


def check(request: GenerationRequest, limits: Limits, vocabulary: Vocabulary) -> CheckedRequest:
    """Check everything about a request that needs no session.

    Raises:
        InvalidRequest: a field cannot be accepted.
    """
    max_tokens = request.max_tokens
    if max_tokens is None:
        max_tokens = min(limits.default_max_tokens, limits.max_tokens)
    _within("max_tokens", max_tokens, 1, limits.max_tokens)
    _within("n", request.n, 1, MOST_CONTINUATIONS)
    if request.min_tokens > max_tokens:
        raise InvalidRequest(
            "min_tokens", f"{request.min_tokens} is more than the {max_tokens} of max_tokens; lower it, or raise that"
        )
    _within("top_logprobs", request.top_logprobs, 0, MOST_ALTERNATIVES)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs", "it needs logprobs; set that too, or leave both out")
    if len(request.prompt) > limits.max_prompt_characters:
        raise InvalidRequest(
            "prompt",
            f"it has {len(request.prompt)} characters, more than {limits.max_prompt_characters}; "
            "shorten it, or start the server with a higher --max-prompt-characters",
        )
    try:
        prompt = vocabulary.encode(request.prompt, skip_unknown=request.skip_unknown)
    except UnknownSymbolsError as problem:
        raise InvalidRequest("prompt", f"{problem}; change them, or ask to skip them") from problem
    stop = _possible_stops(request, vocabulary)
    patterns = [vocabulary.encode(text).tolist() for text in stop]
    return CheckedRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=request.sampling,
        bias=bias_of(request.sampling, vocabulary, skip_unknown=request.skip_unknown),
        stop=stop,
        stops=Stops(patterns, request.include_stop, request.min_tokens) if patterns else None,
        top_logprobs=min(request.top_logprobs, vocabulary.size) if request.logprobs else None,
    )


def _within(field_name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise InvalidRequest(field_name, f"{value} is not allowed; from {lowest} to {highest}")


def _possible_stops(request: GenerationRequest, vocabulary: Vocabulary) -> list[str]:
    """The stop strings that the model can generate."""
    if len(request.stop) > MOST_STOPS:
        raise InvalidRequest("stop", f"{len(request.stop)} strings are too many; give up to {MOST_STOPS}")
    possible = []
    for number, text in enumerate(request.stop):
        name = f"stop[{number}]"
        if not text:
            raise InvalidRequest(name, "it is empty, and would stop everything; leave it out")
        if len(text) > LONGEST_STOP:
            raise InvalidRequest(name, f"it has {len(text)} characters; up to {LONGEST_STOP} are allowed")
        try:
            vocabulary.encode(text)
        except UnknownSymbolsError as problem:
            if not request.skip_unknown:
                raise InvalidRequest(
                    name, f"{shown(text)} can never be generated: {problem}; leave it out, or ask to skip such strings"
                ) from problem
        else:
            possible.append(text)
    return possible
