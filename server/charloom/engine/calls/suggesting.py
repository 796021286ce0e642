"""Finds probable texts after a state: ranks given texts, and suggests texts. Sessions do not change."""

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
"""Up to this many log-probabilities of a search step are processed on the event loop: a thread would take longer."""


class RankedText(NamedTuple):
    """How probable a text is."""

    logprob: float
    """Natural logarithm of its probability: the sum over its tokens."""
    tokens: int
    """Number of its tokens."""
    probability: float
    """Its probability, given that the text is one of the candidates."""


@dataclass(frozen=True)
class Ranking:
    """The probabilities of some texts after the same state."""

    model: Model
    position: int
    """Position before them."""
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
    """What each text has to match, instead of a boundary."""
    max_tokens: int = DEFAULT_SUGGESTED
    beam: int | None = None
    """Most open texts of the search; None: `DEFAULT_BEAM`, or `count` if that is more."""

    @property
    def width(self) -> int:
        """Most open texts of the search."""
        return max(DEFAULT_BEAM, self.count) if self.beam is None else self.beam


class SuggestedText(NamedTuple):
    """One of the most probable texts."""

    text: str
    tokens: int
    logprob: float
    """Natural logarithm of its probability, its end included."""
    ended: bool
    """Whether it reached the boundary, and not only `max_tokens`."""


@dataclass(frozen=True)
class Suggestions:
    """The most probable texts after a state."""

    model: Model
    position: int
    """Position before them."""
    prompt_tokens: int
    texts: Sequence[SuggestedText]
    """Most probable first."""
    exact: bool
    """Whether no other texts can be more probable, because the beam was wide enough."""


class Suggesting:
    """Ranks and suggests texts with an engine's models, from the states of its sessions.

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
        """Compute how probable each of some texts is, after the request's text.

        The log-probabilities equal those of `Reading.score` for the text alone after the same state; bit for bit with a
        batch-invariant decoder.

        Args:
            request: where to start, and what to read first
            candidates: the texts

        Raises:
            InvalidRequest: there are too many, or one is empty, too long, or has characters that the model lacks.
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
        """Find the most probable texts after the request's text, up to a boundary.

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
        # Reading any one token gives the distribution before it, which does not depend on that token.
        any_token = np.array([vocabulary.start_token], np.int64)
        while search.open:
            starts = [one.snapshot for one in search.open]
            if snapshot.learnt is not None:
                starts = await self._learnt(model, starts)
            read = await self._reading.read_together(model, [(one, any_token) for one in starts], vocabulary.size)
            if snapshot.learnt is not None:
                # The state after the read has learnt from that arbitrary token, so continue from the state before it.
                read = [(_longer(one, any_token), told) for one, (_, told) in zip(starts, read, strict=True)]
            if len(read) * vocabulary.size <= FEW:
                _grow(search, read, vocabulary.size)
            else:  # in a thread: with a vocabulary of words it takes too long for the event loop
                await asyncio.to_thread(_grow, search, read, vocabulary.size)
        texts = [
            SuggestedText(vocabulary.decoder(snapshot.tail).feed(one.tokens), len(one.tokens), one.logprob, one.ended)
            for one in search.found
        ]
        return Suggestions(model, snapshot.position, len(prompt), texts, search.exact)

    async def _learnt(self, model: Model, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        """Read all pending tokens but the last of each, so that the states have learnt from them."""
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
    """The snapshot with some more tokens pending."""
    return replace(snapshot, pending=(*snapshot.pending, *tokens.tolist()), position=snapshot.position + len(tokens))


def _grow(search: BeamSearch, read: Sequence[tuple[Snapshot, Logprobs]], size: int) -> None:
    """Extend the open texts by one token, from the log-probabilities that were read after each."""
    following = np.stack([logprobs.distribution(0, size) for _, logprobs in read])
    search.grow(following, [after for after, _ in read])
