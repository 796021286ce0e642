"""A constraint on generated text, as a deterministic automaton over a model's symbols; and those of many rows together.

Axis letters: S states, V vocabulary, B rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from charloom.controls import ENDED, FREE
from charloom.engine.decoding.decoder import NEVER, Constraints, Int32s, Ints


@dataclass(frozen=True, eq=False)
class Automaton:
    """Which texts are allowed. State 0 is the start, and an end can be reached from every state."""

    next: Int32s
    """[S, V] the state after a token; -1: the token is forbidden"""
    distance: Int32s
    """[S] tokens from a state to the nearest end of a text; 0: the text may end here"""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.next.nbytes + self.distance.nbytes

    @property
    def least_tokens(self) -> int:
        """Of the shortest text."""
        return int(self.distance[0])

    def after(self, tokens: Sequence[int] | Ints, state: int = 0) -> int | None:
        """The state after these tokens, from the start or another state; None where no allowed text goes on so."""
        for token in tokens:
            state = int(self.next[state, token])
            if state < 0:
                return None
        return state


def distances(next_state: Int32s, accepting: npt.NDArray[np.bool_]) -> Int32s:
    """Tokens from each state to the nearest end of a text, [S]; `NEVER` where there is no way.

    Args:
        next_state: [S, V] the state after a token, or -1
        accepting: [S] whether a text may end there
    """
    begins, tokens = np.nonzero(next_state >= 0)
    ends = next_state[begins, tokens]
    order = np.argsort(ends, kind="stable")
    begins, first = begins[order], np.searchsorted(ends[order], np.arange(len(next_state) + 1))
    result = np.full(len(next_state), NEVER, np.int32)
    found, distance = np.flatnonzero(accepting), 0
    while len(found):
        result[found] = distance
        counts = first[found + 1] - first[found]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        before = begins[np.repeat(first[found], counts) + within]
        found, distance = np.unique(before[result[before] == NEVER]), distance + 1
    return result


FIRST = max(FREE, ENDED) + 1
"""Of the states that belong to automata."""


@dataclass(eq=False)
class AutomatonTable:
    """The automata of live rows, one below the other in one table, so that a row's state says which is its own.

    A place that nobody uses any more is used again. The table doubles where there is none, and is cut where what is
    used fills less than a quarter of it: each constrained call looks through all of it.

    Args:
        vocabulary: V
    """

    vocabulary: int
    next: Int32s = field(init=False)
    """[S, V] as `Constraints.next`"""
    distance: Int32s = field(init=False)
    """[S] as `Constraints.distance`"""

    def __post_init__(self) -> None:
        self.next = np.full((FIRST, self.vocabulary), ENDED, np.int32)
        self.next[FREE] = FREE
        self.distance = np.array([-1, NEVER], np.int32)
        self._at: dict[Automaton, tuple[int, int]] = {}
        """Where each begins, and how many use it."""
        self._free: list[tuple[int, int]] = []
        """Places that nobody uses: where each begins and ends, in order; no two touch."""

    def take(self, automaton: Automaton) -> int:
        """Where the states of an automaton begin, from now on until it is released as often as it was taken."""
        begin, users = self._at.get(automaton, (-1, 0))
        if not users:
            begin, end = self._place(len(automaton.distance))
            self.next[begin:end] = np.where(automaton.next < 0, ENDED, automaton.next + begin)
            self.distance[begin:end] = automaton.distance
        self._at[automaton] = (begin, users + 1)
        return begin

    def release(self, automaton: Automaton) -> None:
        """Say that one user needs it no longer."""
        begin, users = self._at[automaton]
        if users > 1:
            self._at[automaton] = (begin, users - 1)
            return
        del self._at[automaton]
        end = begin + len(automaton.distance)
        self.distance[begin:end] = NEVER
        self._give(begin, end)
        used, size = self._free[-1]
        if size == len(self.distance) and 4 * used < size:
            # Ticks in progress go on with the arrays that they were given.
            self.next, self.distance = self.next[: 2 * used].copy(), self.distance[: 2 * used].copy()
            self._free[-1] = (used, 2 * used)

    def is_over(self, state: int) -> bool:
        """Whether a text in this state has ended, or can only end."""
        return bool((self.next[state] == ENDED).all())

    def rows(self, state: Ints, left: Ints) -> Constraints:
        """The inputs of a call whose rows are in these states, [B], and may take so many tokens, [B]."""
        return Constraints(self.next, self.distance, state, left)

    def _place(self, size: int) -> tuple[int, int]:
        for number, (begin, end) in enumerate(self._free):
            if end - begin >= size:
                self._free[number : number + 1] = [(begin + size, end)] if end - begin > size else []
                return begin, begin + size
        old = len(self.distance)
        more = max(size, old)
        # Ticks in progress go on with the arrays that they were given.
        self.next = np.concatenate([self.next, np.full((more, self.vocabulary), ENDED, np.int32)])
        self.distance = np.concatenate([self.distance, np.full(more, NEVER, np.int32)])
        self._give(old, old + more)
        return self._place(size)

    def _give(self, begin: int, end: int) -> None:
        places = sorted([*self._free, (begin, end)])
        self._free = places[:1]
        for begin, end in places[1:]:
            if self._free[-1][1] == begin:
                self._free[-1] = (self._free[-1][0], end)
            else:
                self._free.append((begin, end))


def unconstrained(rows: int, vocabulary: int) -> Constraints:
    """For a call in which nobody asks; not to be written to."""
    return _without_automata(vocabulary).rows(np.full(rows, FREE, np.int64), np.ones(rows, np.int64))


@functools.lru_cache(maxsize=16)
def _without_automata(vocabulary: int) -> AutomatonTable:
    """A table, made once: it is large where the vocabulary is, however few the rows are."""
    return AutomatonTable(vocabulary)


def table_of(automata: Sequence[Automaton | None], left: npt.ArrayLike, vocabulary: int) -> Constraints:
    """The inputs of a call whose rows are at the start of these automata.

    Args:
        automata: of each row; None is free
        left: [B] tokens that each row may take
        vocabulary: V
    """
    table = AutomatonTable(vocabulary)
    states = [FREE if one is None else table.take(one) for one in automata]
    return table.rows(np.array(states, np.int64), np.asarray(left, np.int64))
