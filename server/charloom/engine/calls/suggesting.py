"""Which texts are probable after a state: given ones, ranked, and any, suggested. Sessions stay as they are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from charloom.engine.calls.beam_search import BeamSearch, Boundary, boundary_automaton
from charloom.engine.calls.constraining import automaton_of
from charloom.engine.calls.price import of_suggesting, of_summing
from charloom.engine.calls.reading import Reading
from charloom.engine.calls.requests import ReadingRequest, check_text, check_together, within
from charloom.engine.calls.starting import Starting
from charloom.engine.constraints.compiler import Compiler
from charloom.engine.constraints.constraint import Constraint
from charloom.engine.decoding.decoder import Ints
from charloom.engine.decoding.snapshot import Snapshot
from charloom.engine.errors import InvalidRequest
from charloom.engine.limits import (
    DEFAULT_BEAM,
    DEFAULT_SUGGESTED,
    DEFAULT_SUGGESTIONS,
    MOST_PEEKED,
    MOST_SUGGESTIONS,
    WIDEST_BEAM,
    Limits,
)
from charloom.engine.loom.logprobs import Logprobs
from charloom.engine.loom.model import Model
from charloom.engine.memory_budget import MemoryBudget

FEW = 2**14
"""Log-probabilities of a step of a search that are sorted at once, which takes less than a turn of a thread does."""


class RankedText(NamedTuple):
    """How probable a text is."""

    logprob: float
    """Natural logarithm of its probability: the sum over its tokens."""
    tokens: int
    """How many it has."""
    probability: float
    """Its own, if one of the candidates comes."""


@dataclass(frozen=True)
class Ranking:
    """How probable some texts are after the same state."""

    model: Model
    position: int
    """Before them."""
    prompt_tokens: int
    candidates: Sequence[RankedText]
    """In the order in which they were given."""


@dataclass(frozen=True)
class SuggestionRequest:
    """What to suggest."""

    start: ReadingRequest
    """Where to start, and what to read first."""
    count: int = DEFAULT_SUGGESTIONS
    """How many texts."""
    boundary: Boundary = Boundary.WORD
    """Where each ends."""
    constraint: Constraint | None = None
    """What each is to match, in place of a boundary."""
    max_tokens: int = DEFAULT_SUGGESTED
    beam: int | None = None
    """How many texts are open at a time; None: `DEFAULT_BEAM`, or `count` where that is more."""

    @property
    def width(self) -> int:
        """How many texts are open at a time."""
        return max(DEFAULT_BEAM, self.count) if self.beam is None else self.beam


class SuggestedText(NamedTuple):
    """One of the most probable texts."""

    text: str
    tokens: int
    logprob: float
    """Natural logarithm of its probability, its end included."""
    ended: bool
    """Whether it has reached the boundary, and not only as many tokens as it may have."""


@dataclass(frozen=True)
class Suggestions:
    """The most probable texts after a state."""

    model: Model
    position: int
    """Before them."""
    prompt_tokens: int
    texts: Sequence[SuggestedText]
    """The most probable one first."""
    exact: bool
    """Whether no others can be more probable: the beam was wide enough."""


class Suggesting:
    """Tells which texts are probable, with an engine's models, from the states of its sessions.

    Args:
        starting: decides where each call starts
        reading: reads texts
        compiler: makes automata
        budget: the memory that calls may use
        limits: of the engine
    """

    def __init__(
        self, starting: Starting, reading: Reading, compiler: Compiler, budget: MemoryBudget, limits: Limits
    ) -> None:
        self._starting = starting
        self._reading = reading
        self._compiler = compiler
        self._budget = budget
        self._limits = limits

    async def rank(self, request: ReadingRequest, candidates: Sequence[str]) -> Ranking:
        """How probable each of some texts is, after what a request reads.

        The log-probabilities are those of `Reading.score` for the text alone after the same state, bit for bit where
        the decoder is batch-invariant.

        Args:
            request: where to start, and what to read first
            candidates: the texts

        Raises:
            InvalidRequest: there are too many, or one is empty, too long, or nothing that the model could write.
            as `Reading.score`.
        """
        check_together("candidates", candidates, self._limits)
        start = await self._starting.reading(request)
        model, vocabulary = start.model, start.model.vocabulary
        prompt = check_text("prompt", request.text, request.skip_unknown, self._limits, vocabulary)
        texts = []
        for number, candidate in enumerate(candidates):
            name = f"candidates[{number}]"
            texts.append(check_text(name, candidate, request.skip_unknown, self._limits, vocabulary))
            if not len(texts[-1]):
                raise InvalidRequest(name, "nothing of it is left to read; leave it out")
        present = await self._reading.caught_up(model, start.snapshot)
        tokens, learnt = len(prompt) + sum(map(len, texts)), present.learnt_bytes
        self._budget.hold(of_summing(model.decoder.shape, tokens, len(texts), learnt=learnt))
        snapshot = await self._after(model, prompt, present)
        read = await self._reading.read_together(model, [(snapshot, text) for text in texts], 0)
        sums = [math.fsum(logprobs.values) for _, logprobs in read]
        shares = np.exp(np.array(sums) - max(sums))
        parts = (shares / shares.sum()).tolist()
        ranked = [RankedText(total, len(text), part) for total, text, part in zip(sums, texts, parts, strict=True)]
        return Ranking(model, snapshot.position, len(prompt), ranked)

    async def suggest(self, request: SuggestionRequest) -> Suggestions:
        """The most probable texts that go on from what a request reads, up to a boundary.

        Raises:
            InvalidRequest: a number is out of range, or the constraint cannot be kept.
            as `Reading.score`.
        """
        within("count", request.count, 1, MOST_SUGGESTIONS)
        within("beam", request.width, request.count, WIDEST_BEAM)
        within("max_tokens", request.max_tokens, 1, MOST_PEEKED)
        start = await self._starting.reading(request.start)
        model, vocabulary = start.model, start.model.vocabulary
        prompt = check_text("prompt", request.start.text, request.start.skip_unknown, self._limits, vocabulary)
        if request.constraint is None:
            automaton = await asyncio.to_thread(boundary_automaton, request.boundary, vocabulary)
        else:
            if request.constraint.content == ("",):
                raise InvalidRequest(request.constraint.field, "it is empty; leave it out")
            automaton = await automaton_of(
                request.constraint,
                self._compiler,
                vocabulary,
                never=() if vocabulary.unknown is None else (vocabulary.unknown,),
                max_tokens=request.max_tokens,
                skip_unknown=request.start.skip_unknown,
            )
        present = await self._reading.caught_up(model, start.snapshot)
        learnt = present.learnt_bytes
        self._budget.hold(
            of_suggesting(model.decoder.shape, len(prompt), request.width, learnt=learnt) + automaton.nbytes
        )
        snapshot = await self._after(model, prompt, present)
        search = BeamSearch(
            automaton,
            snapshot,
            request.count,
            request.width,
            request.max_tokens,
            partial=request.constraint is None,
            unknown=vocabulary.unknown,
        )
        # What a token is forced to be makes no difference to what is known of the place before it.
        any_token = np.array([vocabulary.start_token], np.int64)
        while search.open:
            starts = [one.snapshot for one in search.open]
            if snapshot.learnt is not None:
                starts = await self._learnt(model, starts)
            read = await self._reading.read_together(model, [(one, any_token) for one in starts], vocabulary.size)
            if snapshot.learnt is not None:
                # What was learnt from that token is not of the texts: they go on from before it.
                read = [(_longer(one, any_token), told) for one, (_, told) in zip(starts, read, strict=True)]
            if len(read) * vocabulary.size <= FEW:
                _grow(search, read, vocabulary.size)
            else:  # in a thread: with a vocabulary of words it takes longer than other calls are to wait
                await asyncio.to_thread(_grow, search, read, vocabulary.size)
        texts = [
            SuggestedText(vocabulary.decoder(snapshot.tail).feed(one.tokens), len(one.tokens), one.logprob, one.ended)
            for one in search.found
        ]
        return Suggestions(model, snapshot.position, len(prompt), texts, search.exact)

    async def _learnt(self, model: Model, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """The same, of which one token alone is pending, and what has been learnt from the others is known."""
        unread = [np.array(one.pending[1:], np.int64) for one in snapshots]
        if not len(unread[0]):
            return list(snapshots)
        starts = [
            replace(one, pending=one.pending[:1], position=one.position - len(tokens))
            for one, tokens in zip(snapshots, unread, strict=True)
        ]
        read = await self._reading.read_together(model, list(zip(starts, unread, strict=True)))
        return [after for after, _ in read]

    async def _after(self, model: Model, prompt: Ints, snapshot: Snapshot) -> Snapshot:
        """The state after a prompt, which may be empty."""
        if not len(prompt):
            return snapshot
        after, _ = await self._reading.read(model, prompt, snapshot)
        return after


def _longer(snapshot: Snapshot, tokens: Ints) -> Snapshot:
    """With some more tokens pending."""
    return replace(snapshot, pending=(*snapshot.pending, *tokens.tolist()), position=snapshot.position + len(tokens))


def _grow(search: BeamSearch, read: Sequence[tuple[Snapshot, Logprobs]], size: int) -> None:
    """Let texts grow by a token, once the model has said what it knows of each."""
    following = np.stack([logprobs.distribution(0, size) for _, logprobs in read])
    search.grow(following, [after for after, _ in read])
