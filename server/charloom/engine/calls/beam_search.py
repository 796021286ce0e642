"""Finds the most probable texts that end at a boundary, by beam search; the caller runs the model.

A boundary is an automaton over the model's tokens: a text continues while the automaton allows it, and ends in an
accepting state before a token that is not allowed. So the probability of a text is that of its tokens, times that of
all tokens that end it; over all texts these sum to at most 1.

Axis letters: V vocabulary, N texts.
"""

from __future__ import annotations

import bisect
import enum
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from charloom.bundle import Unit, Vocabulary
from charloom.engine.decoding.automaton import Automaton
from charloom.engine.decoding.decoder import Floats
from charloom.engine.decoding.snapshot import Snapshot

IN_WORDS = "_'\N{RIGHT SINGLE QUOTATION MARK}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Characters inside of words, besides letters, marks and digits."""


class Boundary(enum.Enum):
    """Where a text ends. It may begin with the characters between two words, or two lines."""

    WORD = "word"
    """Before a character that is not inside of words: no letter, mark, digit, underscore or apostrophe."""
    LINE = "line"
    """Before a line break."""
    LENGTH = "length"
    """After its most tokens."""


_made: WeakKeyDictionary[Vocabulary, dict[Boundary, Automaton]] = WeakKeyDictionary()
"""Cached automata of boundaries, for as long as the vocabulary exists."""


def boundary_automaton(boundary: Boundary, vocabulary: Vocabulary) -> Automaton:
    """The automaton of a boundary: first any tokens outside of words (or lines), then tokens inside.

    It is made once for each vocabulary, which takes seconds for a large one: call it in a thread.
    """
    made = _made.setdefault(vocabulary, {})
    if boundary not in made:
        made[boundary] = _automaton_of(boundary, vocabulary)
    return made[boundary]


def _automaton_of(boundary: Boundary, vocabulary: Vocabulary) -> Automaton:
    size = vocabulary.size
    if boundary is Boundary.LENGTH:
        return Automaton(np.zeros((1, size), np.int32), np.zeros(1, np.int32))
    inside = np.array([_is_inside(boundary, vocabulary, token) for token in range(size)])
    return Automaton(
        np.stack([np.where(inside, 1, 0), np.where(inside, 1, -1)]).astype(np.int32), np.array([1, 0], np.int32)
    )


def _is_inside(boundary: Boundary, vocabulary: Vocabulary, token: int) -> bool:
    symbol = vocabulary.symbol(token)
    if boundary is Boundary.LINE:
        return symbol != b"\n"
    if vocabulary.unit is Unit.BYTE and symbol >= b"\x80":
        return True  # part of a character that is not ASCII: most of these are letters
    return all(unicodedata.category(one)[0] in "LMN" or one in IN_WORDS for one in symbol.decode())


class OpenText(NamedTuple):
    """A text that has not ended."""

    logprob: float
    """Natural logarithm of its probability."""
    tokens: tuple[int, ...]
    state: int
    """The automaton's state after it."""
    snapshot: Snapshot
    """The state after it. Its last token is pending; if the session learns, maybe the one before it too."""


class FoundText(NamedTuple):
    """One of the most probable texts."""

    logprob: float
    """Natural logarithm of its probability, its end included."""
    tokens: tuple[int, ...]
    ended: bool
    """Whether it reached the boundary, and not only `max_tokens`."""


@dataclass
class BeamSearch:
    """Finds the most probable texts. All open texts have the same length, and grow by one token at a time.

    Args:
        automaton: of the boundary
        start: the state before the texts
        count: how many texts to find
        beam: most open texts
        max_tokens: most tokens of a text; longer texts are cut there
        partial: whether cut texts that do not match the automaton count too
        unknown: a token that is in no text, but may end one
    """

    automaton: Automaton
    start: Snapshot
    count: int
    beam: int
    max_tokens: int
    partial: bool
    unknown: int | None = None
    found: list[FoundText] = field(init=False)
    """The up to `count` most probable texts so far, most probable first."""
    open: list[OpenText] = field(init=False)
    """The texts that may still grow into one of the most probable, most probable first."""
    given_up: float = field(init=False, default=-math.inf)
    """Log-probability of the most probable text that was dropped because the beam was full."""

    def __post_init__(self) -> None:
        self.found = []
        self.open = [OpenText(0.0, (), 0, self.start)]

    @property
    def exact(self) -> bool:
        """Whether no dropped text could have become one of the most probable."""
        return self.given_up < self._least or self.given_up == -math.inf

    @property
    def _least(self) -> float:
        """The log-probability that a text must exceed to be one of the most probable."""
        return self.found[-1].logprob if len(self.found) == self.count else -math.inf

    def grow(self, logprobs: Floats, snapshots: Sequence[Snapshot]) -> None:
        """Extend the open texts by one token.

        Args:
            logprobs: [N, V], the log-probabilities of the next token of each open text
            snapshots: [N], the state after each, with one arbitrary further token pending
        """
        known = logprobs.astype(np.float64)
        known += np.array([one.logprob for one in self.open])[:, None]
        after = self.automaton.next[[one.state for one in self.open]]
        ends = np.logaddexp.reduce(np.where(after < 0, known, -np.inf), axis=1).tolist()
        for one, total in zip(self.open, ends, strict=True):
            if one.tokens and self.automaton.distance[one.state] == 0:
                self._find(FoundText(total, one.tokens, ended=True))
        allowed = after >= 0
        if self.unknown is not None:
            allowed[:, self.unknown] = False
        if not self.partial:  # nor a token after which the text could not end within `max_tokens`
            allowed &= self.automaton.distance[after] < self.max_tokens - len(self.open[0].tokens)
        totals = np.where(allowed, known, -np.inf).reshape(-1)
        possible = np.flatnonzero(totals > self._least)
        if len(possible) > self.beam + 1:
            # Sort only the best, with all that are as probable as the last of them: of equals the first win.
            last = np.partition(totals[possible], -(self.beam + 1))[-(self.beam + 1)]
            possible = possible[totals[possible] >= last]
        best = possible[np.argsort(-totals[possible], kind="stable")]
        if len(best) > self.beam:
            self.given_up = max(self.given_up, float(totals[best[self.beam]]))
        parents, size = self.open, known.shape[1]
        self.open = []
        for place in best[: self.beam].tolist():
            number, token = divmod(place, size)
            tokens, state = (*parents[number].tokens, token), int(after[number, token])
            before = snapshots[number]
            behind = replace(before, pending=(*before.pending[:-1], token))
            child = OpenText(float(totals[place]), tokens, state, behind)
            over = bool((self.automaton.next[state] < 0).all())
            if not over and len(tokens) < self.max_tokens:
                self.open.append(child)
            else:
                self._find(FoundText(child.logprob, tokens, ended=over))
        self.open = [one for one in self.open if one.logprob > self._least]

    def _find(self, text: FoundText) -> None:
        if text.logprob > self._least:
            bisect.insort(self.found, text, key=lambda one: (-one.logprob, one.tokens))
            del self.found[self.count :]
