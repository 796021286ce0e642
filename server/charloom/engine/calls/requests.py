"""Requests to the engine, and their conversion to tokens with all checks that need no session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from charloom.bundle import UnknownSymbolsError, Vocabulary
from charloom.engine.calls.price import BINARY, Told
from charloom.engine.constraints.constraint import Constraint
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.decoding.decoder import Floats, Ints
from charloom.engine.decoding.sampling import Sampling, bias_of
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import InvalidRequest, shown
from charloom.engine.limits import (
    LONGEST_STOP,
    MOST_ALTERNATIVES,
    MOST_CONTINUATIONS,
    MOST_STOPS,
    MOST_TOGETHER,
    Limits,
)
from charloom.engine.loom.jobs import Job, Stops
from charloom.engine.loom.stops import StopMatcher
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.sessions.checks import require_seed
from charloom.engine.sessions.session import Key, NewSession
from charloom.engine.shares import current_share
from charloom.engine.telemetry import current_call

Text = str | Sequence[int]
"""A text to read, or its tokens."""
MostTokens = Callable[[Vocabulary], int]
"""Most tokens, for a vocabulary, in an answer that is sent as a whole, so that it fits into one message."""


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate, and where to start."""

    model: str = ""
    """Empty: the session's model, or the first one."""
    digest: str = ""
    """For a text without session and state: the digest of the model version that the call uses already (`Model.used`),
    or began with if it is resumed; empty: the serving version."""
    session_id: str = ""
    """Empty: start from `state`, or from the zero state, and keep nothing."""
    new_session: NewSession | None = None
    """Make the session first, if there never was one of this id."""
    tenant: str = ""
    state: bytes = b""
    """A sealed state to start from."""
    return_state: bool = False
    """Whether to seal the state at the end."""
    call_id: str = ""
    """Identifies the call, for when it is resumed."""
    resume_position: int | None = None
    """Resume this call: the caller has its text up to this position."""
    prompt: Text = ""
    skip_unknown: bool = False
    """Leave out characters that the model lacks, instead of refusing the request."""
    max_tokens: int | None = None
    min_tokens: int = 0
    """A stop string that would make the text shorter than this is ignored."""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    """None: the session's own, or a new one."""
    expected_position: int | None = None
    """Refuse unless the session is at this position."""
    stop: Sequence[str] = ()
    """Strings that end the text."""
    template_stop: Sequence[str] = ()
    """Further stop strings, of a chat template and not of the caller; those that the model cannot write are ignored."""
    include_stop: bool = False
    """Whether the text includes the stop string."""
    constraint: Constraint | None = None
    """What the whole generated text has to match."""
    logprobs: bool = False
    """Whether to return the log-probability of each token."""
    top_logprobs: int = 0
    """With `logprobs`: number of most probable tokens to return as well."""
    n: int = 1
    """Number of continuations; with more than one, the session does not change."""
    resample: bool = False
    """Whether the continuations are resampled while they run; see `resampling`."""
    most_tokens: MostTokens | None = None
    """For an answer that is sent as a whole; None: no limit."""
    told: Told = BINARY
    """The encoding of log-probabilities in the answer, which decides how much memory the call may need."""


@dataclass(frozen=True)
class ReadingRequest:
    """What to read, and where to start."""

    key: Key
    """Of the session; with an empty id: start from `state`, or from the zero state."""
    model: str = ""
    """Empty: the session's model, or the first one."""
    digest: str = ""
    """For a text without session and state: the digest of the model version that the call uses already (`Model.used`);
    empty: the serving version."""
    state: bytes = b""
    """A sealed state to start from, without a session."""
    text: Text = ""
    expected_position: int | None = None
    """Refuse unless the session is at this position."""
    skip_unknown: bool = False
    """Leave out characters that the model lacks, instead of refusing the request."""
    top_logprobs: int = 0
    """Number of most probable tokens to return at each position."""
    most_tokens: MostTokens | None = None
    """For an answer that is sent as a whole; None: no limit."""
    told: Told = BINARY
    """The encoding of log-probabilities in the answer, which decides how much memory the call may need."""
    times: int = 1
    """How often the answer has the log-probabilities."""


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
    automaton: Automaton | None = None
    """Of the request's constraint; set by `constraining`."""
    earlier: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Tokens that this call has read and generated before; this and the fields below are as of `Job`."""
    earlier_generated: int = 0
    automaton_state: int = 0
    later: int = 0
    occurred: Floats | None = None

    def job(self, start: Snapshot, *, snapshots: bool) -> Job:
        """The job that does it from this state."""
        return Job(
            start,
            self.prompt,
            self.max_tokens,
            self.sampling,
            bias=self.bias,
            stops=self.stops,
            automaton=self.automaton,
            top_logprobs=self.top_logprobs,
            snapshots=snapshots,
            earlier=self.earlier,
            earlier_generated=self.earlier_generated,
            automaton_state=self.automaton_state,
            later=self.later,
            occurred=self.occurred,
        )

    def most_of(self, generated: Ints) -> int:
        """Most tokens of a text that begins with these: up to the end of a stop string in them, if it is included."""
        if self.stops is None or not self.stops.include:
            return self.max_tokens
        matcher = StopMatcher(self.stops.automaton, include=True, min_tokens=self.stops.min_tokens)
        match = matcher.push(generated.tolist())
        return self.max_tokens if match is None else match.end

    def first(self, tokens: int) -> CheckedRequest:
        """The request for at most the first `tokens` tokens of the text; later jobs do the rest."""
        now = min(tokens, self.max_tokens)
        return replace(self, max_tokens=now, later=self.later + self.max_tokens - now)

    def after(self, done: Ints) -> CheckedRequest:
        """The rest of the request, after these tokens of it were read and generated.

        Raises:
            InvalidRequest: this request could not have read and generated them.
        """
        read = min(len(done), len(self.prompt))
        generated = len(done) - read
        other = generated >= self.max_tokens or not np.array_equal(done[:read], self.prompt[:read])
        state: int | None = self.automaton_state
        if self.automaton is not None:
            state = self.automaton.after(done[read:], self.automaton_state)
        if other or state is None:
            raise InvalidRequest("call_id", "the call of this id had other options; give a new call a new id")
        return replace(
            self,
            prompt=self.prompt[read:],
            max_tokens=self.max_tokens - generated,
            earlier=np.concatenate([self.earlier, done]),
            earlier_generated=self.earlier_generated + generated,
            automaton_state=state,
        )


def check(
    request: GenerationRequest, limits: Limits, vocabulary: Vocabulary, lacks: frozenset[str] = frozenset()
) -> CheckedRequest:
    """Check everything about a request that needs no session.

    Args:
        request: what is asked for
        limits: of the engine
        vocabulary: of the model
        lacks: what its decoder was exported without; see `Decoder.lacks`

    Raises:
        InvalidRequest: a field cannot be accepted.
    """
    for control, _ in request.sampling.asked:
        if control.name in lacks:
            raise InvalidRequest(
                f"sampling.{control.option}",
                "the model's decoder was exported before there was such a control; export it again, or leave this out",
            )
    max_tokens = request.max_tokens
    if max_tokens is None:
        max_tokens = min(limits.default_max_tokens, limits.max_tokens)
    within("max_tokens", max_tokens, 1, limits.max_tokens)
    within("n", request.n, 1, MOST_CONTINUATIONS)
    require_seed(request.seed)
    check_answer(
        "max_tokens",
        max_tokens,
        request.most_tokens,
        vocabulary,
        "ask for no more or for fewer alternatives, or for a stream",
    )
    if request.min_tokens < 0:
        raise InvalidRequest("min_tokens", f"{request.min_tokens} is not allowed; 0 or more")
    if request.min_tokens > max_tokens:
        raise InvalidRequest(
            "min_tokens", f"{request.min_tokens} is more than the {max_tokens} of max_tokens; lower it, or raise that"
        )
    check_top_logprobs(request.top_logprobs)
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("top_logprobs", "it needs logprobs; set that too, or leave both out")
    prompt = check_text("prompt", request.prompt, request.skip_unknown, limits, vocabulary)
    stops = _possible_stops(request, vocabulary)
    return CheckedRequest(
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=request.sampling,
        bias=bias_of(request.sampling, vocabulary, skip_unknown=request.skip_unknown),
        stop=[text for text, _ in stops],
        stops=Stops([tokens for _, tokens in stops], request.include_stop, request.min_tokens) if stops else None,
        top_logprobs=min(request.top_logprobs, vocabulary.size) if request.logprobs else None,
    )


def refuse_fields(request: GenerationRequest, *names: str) -> None:
    """Refuse options that a kind of call does not take.

    Raises:
        InvalidRequest: one of the fields of these names is set.
    """
    for name in names:
        if getattr(request, name) != getattr(_NOTHING_ASKED, name):
            raise InvalidRequest(name, "it is not allowed here; leave it out")


def check_text(field_name: str, text: Text, skip_unknown: bool, limits: Limits, vocabulary: Vocabulary) -> Ints:
    """The tokens of a text to read.

    Raises:
        InvalidRequest: it is too long, or the vocabulary lacks a character, or has no such token.
        QuotaExceeded: it is longer than this caller's may be.
    """
    check_length(field_name, text, limits)
    texts = current_call().texts
    if not isinstance(text, str):
        tokens = np.array(text, np.int64)
        wrong = np.flatnonzero((tokens < 0) | (tokens >= vocabulary.size))
        if len(wrong):
            within(f"{field_name}[{wrong[0]}]", int(tokens[wrong[0]]), 0, vocabulary.size - 1)
        if texts is not None:
            texts.read.add(vocabulary.decode(text))
        return tokens
    if texts is not None:
        texts.read.add(text)
    try:
        return vocabulary.encode(text, skip_unknown=skip_unknown)
    except UnknownSymbolsError as problem:
        raise InvalidRequest(
            field_name,
            f'{problem}; change them, or skip them: unknown_characters="skip", or --skip-unknown of the command',
        ) from problem


def check_length(field_name: str, text: Text, limits: Limits) -> None:
    """Check that a text is not too long.

    Raises:
        InvalidRequest: it is.
        QuotaExceeded: it is longer than this caller's texts may be.
    """
    own, what = current_share().quota.prompt_characters, "characters" if isinstance(text, str) else "tokens"
    if own is not None and len(text) > own:
        problem = f"{field_name} has {len(text)} {what}"
        raise QuotaExceeded("prompt_characters", own, problem, "shorten it", asked=len(text))
    if len(text) > limits.max_prompt_characters:
        raise InvalidRequest(
            field_name,
            f"it has {len(text)} {what}, more than {limits.max_prompt_characters}; "
            "shorten it, or start the server with a higher --max-prompt-characters",
        )


def check_count(field_name: str, texts: Sequence[str]) -> None:
    """Check the number of texts to read at a time, at least one.

    Raises:
        InvalidRequest: too many, or none.
    """
    if not 1 <= len(texts) <= MOST_TOGETHER:
        raise InvalidRequest(field_name, f"there are {len(texts)}; give from 1 to {MOST_TOGETHER}")


def check_together(field_name: str, texts: Sequence[str], limits: Limits) -> None:
    """Check the number of texts to read at a time, at least one, and their total length.

    Raises:
        InvalidRequest: too many, or too long.
    """
    check_count(field_name, texts)
    if (length := sum(map(len, texts))) > limits.max_prompt_characters:
        raise InvalidRequest(
            field_name, f"they have {length} characters together, more than {limits.max_prompt_characters}; give fewer"
        )


def check_answer(
    field_name: str, tokens: int, most_tokens: MostTokens | None, vocabulary: Vocabulary, advice: str
) -> None:
    """Check that an answer about `tokens` tokens can be sent, before anything is computed for it.

    Raises:
        InvalidRequest: it could be too large.
    """
    if most_tokens is not None and tokens > (most := most_tokens(vocabulary)):
        raise InvalidRequest(
            field_name, f"the answer about {tokens} tokens could be too large to be sent; up to {most} fit: {advice}"
        )


def check_top_logprobs(count: int) -> None:
    """Check the number of alternatives that are asked for.

    Raises:
        InvalidRequest: too many.
    """
    within("top_logprobs", count, 0, MOST_ALTERNATIVES)


def within(field_name: str, value: int, lowest: int, highest: int) -> None:
    """Check a number from a request.

    Raises:
        InvalidRequest: it is out of range.
    """
    if not lowest <= value <= highest:
        raise InvalidRequest(field_name, f"{value} is not allowed; from {lowest} to {highest}")


def spelt(field_name: str, text: str, vocabulary: Vocabulary, *, skip_unknown: bool) -> Ints | None:
    """The tokens with which the model would write a text; None if it cannot write it and `skip_unknown` is set.

    Raises:
        InvalidRequest: it cannot write the text, and `skip_unknown` is not set.
    """
    try:
        return vocabulary.spell(text)
    except UnknownSymbolsError as problem:
        if skip_unknown:
            return None
        raise InvalidRequest(
            field_name, f"{shown(text)} can never be generated: {problem}; leave it out, or ask to skip such texts"
        ) from problem


def _possible_stops(request: GenerationRequest, vocabulary: Vocabulary) -> list[tuple[str, list[int]]]:
    """The stop strings that the model can generate, each with its tokens, those of the caller first."""
    if len(request.stop) > MOST_STOPS:
        raise InvalidRequest("stop", f"{len(request.stop)} strings are too many; give up to {MOST_STOPS}")
    possible = []
    for number, text in enumerate(request.stop):
        name = f"stop[{number}]"
        if not text:
            raise InvalidRequest(name, "it is empty, and would stop everything; leave it out")
        if len(text) > LONGEST_STOP:
            raise InvalidRequest(name, f"it has {len(text)} characters; up to {LONGEST_STOP} are allowed")
        possible.append((text, spelt(name, text, vocabulary, skip_unknown=request.skip_unknown)))
    possible += [(text, spelt("stop", text, vocabulary, skip_unknown=True)) for text in request.template_stop]
    return [(text, tokens.tolist()) for text, tokens in possible if tokens is not None]


_NOTHING_ASKED = GenerationRequest()
