"""Calls that read text and generate none: feeding, scoring, observing; and blending states."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from charloom.bundle import Vocabulary
from charloom.engine.calls.price import of_reading, of_summing
from charloom.engine.calls.requests import ReadingRequest, check_answer, check_text, check_together, check_top_logprobs
from charloom.engine.calls.starting import ReadingStart, Starting
from charloom.engine.calls.together import JobsTogether
from charloom.engine.calls_in_progress import CallsInProgress
from charloom.engine.decoding.decoder import Floats, Ints
from charloom.engine.decoding.sampling import Sampling
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import (
    EngineError,
    InvalidRequest,
    SessionOfAnotherModel,
    shown_number,
)
from charloom.engine.limits import MOST_BLENDED, Limits
from charloom.engine.loom.jobs import Job
from charloom.engine.loom.logprobs import NONE_TOLD, Logprobs
from charloom.engine.loom.model import Model
from charloom.engine.memory_budget import MemoryBudget
from charloom.engine.quotas import QuotaExceeded
from charloom.engine.rates import Rates
from charloom.engine.sessions.checks import require_position, require_seed
from charloom.engine.sessions.seeds import new_seed
from charloom.engine.sessions.session import Key, Session
from charloom.engine.sessions.sessions import Sessions
from charloom.engine.shares import current_share

PLAIN = Sampling()
"""The sampling of jobs that choose no token; shared, because making one checks all controls."""
IN_PARTS = "send it in parts, each read after the ones before, or ask for fewer alternatives"


@dataclass(frozen=True)
class ScoredText:
    """The log-probabilities of a text."""

    logprobs: Logprobs
    """Of each of its tokens."""
    position: int
    """Position after it."""

    @functools.cached_property
    def nats(self) -> float:
        """The sum of its tokens' negative log-probabilities, in nats."""
        return -math.fsum(self.logprobs.values)

    @property
    def nats_per_token(self) -> float:
        """The mean over its tokens; 0 for no text."""
        return self.nats / len(self.logprobs) if self.logprobs else 0.0

    @property
    def perplexity(self) -> float:
        """The exponential of the nats per token, at most e to the 700, which a float can hold."""
        return math.exp(min(self.nats_per_token, 700.0))

    def bits_per_character(self, vocabulary: Vocabulary) -> float:
        """The mean over its characters, in bits, whatever the tokens of the vocabulary are; 0 for no text."""
        characters = len(vocabulary.decode(self.logprobs.tokens))
        return self.nats / math.log(2) / characters if characters else 0.0


class Reading:
    """Reads text with an engine's models, from the states of its sessions."""

    def __init__(
        self,
        starting: Starting,
        sessions: Sessions,
        limits: Limits,
        budget: MemoryBudget,
        rates: Rates,
        calls: CallsInProgress,
    ) -> None:
        self._starting = starting
        self._rates = rates
        self._calls = calls
        self.budget = budget
        self._sessions = sessions
        self.limits = limits

    async def read(
        self, model: Model, text: Ints, start: Snapshot, top_logprobs: int | None = None
    ) -> tuple[Snapshot, Logprobs]:
        """Read a text; returns the state after it, and the log-probabilities of its tokens if asked for.

        Args:
            model: the model
            text: [T]; may be empty only if `start` has more than one pending token
            start: the state before it
            top_logprobs: number of alternatives to return for each token; None: no log-probabilities at all

        Raises:
            Overloaded, Draining, DecoderFailure: as their names say.
        """
        (found,) = await self.read_together(model, [(start, text)], top_logprobs)
        return found

    async def read_priced(self, model: Model, text: Ints, start: Snapshot) -> Snapshot:
        """Read a text, with its memory reserved meanwhile; returns the state after it; raises as `read`, and
        TooMuchMemory.
        """
        with self.budget.held_for(_needed(model, start, len(text))):
            return (await self.read(model, text, start))[0]

    async def read_together(
        self, model: Model, texts: Sequence[tuple[Snapshot, Ints]], top_logprobs: int | None = None
    ) -> list[tuple[Snapshot, Logprobs]]:
        """Read several texts at the same time, each from its own state; returns for each text what `read` returns.

        Args:
            model: the model
            texts: the state before each text, and its tokens, as for `read`; at least one text
            top_logprobs: as for `read`

        Raises:
            as `read`; all of them are stopped then.
        """
        share = current_share()
        model.loom.admit(share)
        await self._rates.pace(share)
        scored = top_logprobs is not None
        jobs = [Job(start, text, 0, PLAIN, top_logprobs=top_logprobs, scored=scored) for start, text in texts]
        together = JobsTogether(model, jobs)
        self._rates.spend(share, sum(start.behind + len(text) for start, text in texts))
        # A text that was read ends with a complete character.
        return [(replace(one.finish.snapshot, tail=b""), one.logprobs) for one in await together.ended()]

    async def feed(self, request: ReadingRequest, expected_position: int | None) -> Session:
        """Let a session read a text.

        Raises:
            InvalidRequest, SessionNotFound, SessionOfAnotherModel, SessionBusy, StalePosition, StoreUnavailable,
            Overloaded, Draining: as their names say; nothing has changed then.
        """
        await self._calls.begin()
        writer = await self._sessions.acquire(request.key)
        async with writer.given_back_on_error():
            require_position(writer.session, expected_position)
            model = self._sessions.model_of(writer.session, request.model)
            text = check_text("text", request.text, request.skip_unknown, self.limits, model.vocabulary)
            after = None
            if len(text):
                after = await self.read_priced(model, text, writer.present)
                writer.on_tokens(text.tolist(), after)
        return await writer.close(after)

    async def score(self, request: ReadingRequest) -> tuple[ScoredText, Vocabulary]:
        """Score a text from the state of a session, which does not change, or from zero; returns the vocabulary too.

        Raises:
            as `feed`, except SessionBusy.
        """
        check_top_logprobs(request.top_logprobs)
        start = await self._starting.reading(request)
        vocabulary = start.model.vocabulary
        text = check_text("text", request.text, request.skip_unknown, self.limits, vocabulary)
        check_answer("text", len(text), request.most_tokens, vocabulary, IN_PARTS)
        if not len(text):
            return ScoredText(NONE_TOLD, start.snapshot.position), vocabulary
        self.budget.hold(_needed(start.model, start.snapshot, len(text), request))
        after, logprobs = await self.read(start.model, text, start.snapshot, request.top_logprobs)
        return ScoredText(logprobs, after.position), vocabulary

    async def score_many(self, request: ReadingRequest) -> ManyScores:
        """Begin to score many texts, each from the state of a session, which does not change, or from zero.

        Raises:
            as `score`.
        """
        start = await self._starting.reading(request)
        return ManyScores(self, request, start.model, start.snapshot)

    async def state_after(self, request: ReadingRequest) -> tuple[Floats, int]:
        """The network's state, [A, L, H], after it has read all of a text, and the number of the text's tokens.

        Raises:
            as `score`.
        """
        start = await self._starting.reading(request)
        text = check_text("text", request.text, request.skip_unknown, self.limits, start.model.vocabulary)
        self.budget.hold(_needed(start.model, start.snapshot, len(text) + 1))
        # The last token of a text stays pending until another follows; which one makes no difference.
        after, _ = await self.read(start.model, np.append(text, start.model.vocabulary.start_token), start.snapshot)
        return after.state, len(text)

    async def observe(self, request: ReadingRequest) -> Observation:
        """Begin to read text as it comes, into the session if the request names one.

        Raises:
            as `feed`.
        """
        check_top_logprobs(request.top_logprobs)
        return Observation(self, request, await self._starting.reading(request, write=True))

    async def blend(
        self, sources: Sequence[tuple[Key, float]], key: Key, seed: int | None, time_to_live: timedelta | None
    ) -> Session:
        """Make a session whose state is the weighted mean of others' states.

        Position and pending token are the first source's; its history begins there.

        Raises:
            InvalidRequest: there are too few or too many sources, or a weight or the seed is out of range.
            SessionNotFound: one of them is not there.
            SessionOfAnotherModel: they are of different models.
            as `Reading.read`, and TooMuchMemory: the pending tokens of one of them could not be read.
        """
        await self._calls.begin()
        require_seed(seed)
        if not 2 <= len(sources) <= MOST_BLENDED:
            raise InvalidRequest("sources", f"there are {len(sources)}; give from 2 to {MOST_BLENDED}")
        for number, (_, weight) in enumerate(sources):
            if not 0 < weight < float("inf"):
                raise InvalidRequest(
                    f"sources[{number}].weight", f"{shown_number(weight)} is not allowed; give a finite number above 0"
                )
        sessions = [await self._sessions.get(source) for source, _ in sources]
        model = self._sessions.model_of(sessions[0])
        for other in sessions[1:]:
            if self._sessions.model_of(other) is not model:
                raise SessionOfAnotherModel(other.id, other.model, model.name)
        states = [await self.caught_up(model, session.snapshot) for session in sessions]
        weights = np.array([weight for _, weight in sources])
        weights /= weights.max()  # so that their sum is finite
        weights /= weights.sum()
        blended = replace(
            states[0],
            state=np.einsum("n,nalh->alh", weights, [state.state for state in states]).astype(np.float32),
            seed=new_seed() if seed is None else seed,
            tail=b"",
            learnt=None,  # a mean of what sessions have learnt has no meaning
        )
        return await self._sessions.create_from(key, model, blended, time_to_live)

    async def caught_up(self, model: Model, snapshot: Snapshot) -> Snapshot:
        """Read all pending tokens but the last, so that jobs that start from the state need not each read them.

        Raises:
            as `read`, and TooMuchMemory.
        """
        if not snapshot.behind:
            return snapshot
        return replace(await self.read_priced(model, np.zeros(0, np.int64), snapshot), tail=snapshot.tail)


@dataclass(frozen=True)
class ScoredTexts:
    """The scores of some of many texts."""

    scored: Sequence[ScoredText]
    """Of each text, or of those before the first refused one."""
    refused: EngineError | None
    """Why a text was refused; None: none was."""


class ManyScores:
    """Scores many texts, each from the same state; made by `Reading.score_many`.

    Args:
        reading: reads the texts
        request: the options
        model, start: the model, and the state before each text
    """

    def __init__(self, reading: Reading, request: ReadingRequest, model: Model, start: Snapshot) -> None:
        self.model = model
        self._reading = reading
        self._request = request
        self._start = start
        self._count = 0
        """Number of texts so far."""
        self._catching_up = asyncio.Lock()

    async def read(self, texts: Sequence[str], *, whole: bool = False) -> ScoredTexts:
        """Score the next texts together; with a batch-invariant decoder, each score equals, bit for bit, that of the
        text alone. The error of a refused text has its number since the first call.

        Args:
            texts: the texts
            whole: raise the error of a refused text, and read none of them

        Raises:
            InvalidRequest, QuotaExceeded: they are too many, or too long together; or with `whole`, one is refused.
            as `Reading.read`, and TooMuchMemory.
        """
        reading, model = self._reading, self.model
        check_together("texts", texts, reading.limits)
        first, self._count = self._count, self._count + len(texts)
        tokens: list[Ints] = []
        refused: EngineError | None = None
        for number, text in enumerate(texts, first):
            try:
                tokens.append(
                    check_text(f"texts[{number}]", text, self._request.skip_unknown, reading.limits, model.vocabulary)
                )
            except (InvalidRequest, QuotaExceeded) as problem:
                if whole:
                    raise
                refused = problem
                break
        scores = [ScoredText(NONE_TOLD, self._start.position)] * len(tokens)
        places = [place for place, one in enumerate(tokens) if len(one)]
        if places:
            async with self._catching_up:
                self._start = await reading.caught_up(model, self._start)
            needed = of_summing(
                model.decoder.shape, sum(map(len, tokens)), len(places), learnt=self._start.learnt_bytes
            )
            with reading.budget.held_for(needed):
                found = await reading.read_together(model, [(self._start, tokens[place]) for place in places], 0)
            for place, (after, logprobs) in zip(places, found, strict=True):
                scores[place] = ScoredText(logprobs, after.position)
        return ScoredTexts(scores, refused)


def _needed(model: Model, start: Snapshot, tokens: int, request: ReadingRequest | None = None) -> int:
    """Bytes that reading tokens from a state may need, with the log-probabilities that `request` asks for, if any."""
    shape, learnt, behind = model.decoder.shape, start.learnt_bytes, start.behind
    if request is None:
        return of_reading(shape, tokens, None, learnt=learnt, behind=behind)
    top, told, times = request.top_logprobs, request.told, request.times
    return of_reading(shape, tokens, top, told=told, times=times, learnt=learnt, behind=behind)


class Observation:
    """Reads text as it comes, and scores it. Made by `Reading.observe`; must be ended with `end`.

    Args:
        reading: reads each text
        request: the options
        start: where it starts
    """

    def __init__(self, reading: Reading, request: ReadingRequest, start: ReadingStart) -> None:
        self.model = start.model
        self._reading = reading
        self._request = request
        self._present = start.snapshot
        self._writer = start.writer
        self._changed = False

    async def read(self, text: str) -> ScoredText:
        """Read and score the next text.

        Raises:
            InvalidRequest: the text is too long, or the model lacks a character; nothing was read then.
            SessionTakenOver, SessionDeleted: the session has another writer, or was erased.
        """
        if self._writer is not None:
            self._writer.require_not_lost()
        request = self._request
        tokens = check_text("text", text, request.skip_unknown, self._reading.limits, self.model.vocabulary)
        check_answer("text", len(tokens), request.most_tokens, self.model.vocabulary, IN_PARTS)
        if not len(tokens):
            return ScoredText(NONE_TOLD, self._present.position)
        with self._reading.budget.held_for(_needed(self.model, self._present, len(tokens), request)):
            present, logprobs = await self._reading.read(self.model, tokens, self._present, request.top_logprobs)
        self._present, self._changed = present, True
        if self._writer is not None:
            self._writer.on_tokens(tokens.tolist(), present)
            self._writer.on_sent(present)
        return ScoredText(logprobs, present.position)

    async def end(self) -> Session | None:
        """Give the session back in its present state."""
        if self._writer is None:
            return None
        return await self._writer.close(self._present if self._changed else None)
