"""Finding stop strings in generated tokens, wherever the cuts between ticks fall.

It is the automaton of Aho and Corasick (1975, "Efficient string matching"): about one lookup per token, whatever the
number of stop strings, and its depth is exactly the number of tokens that may still become a stop string.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

_NONE = -1
"""Where no token is."""


class Match(NamedTuple):
    """A stop string that was found."""

    pattern: int
    """Which of the patterns."""
    start: int
    """Generated tokens before it."""
    end: int
    """Generated tokens up to its end."""


class StopAutomaton:
    """What all searches for the same patterns share; it never changes. A few arrays: a pattern may be long.

    A node stands for a beginning of some pattern, the root, 0, for the empty one. From where a pattern parts with those
    before it, its nodes have numbers that follow each other; only of the first of these is it kept what it comes after.

    Args:
        patterns: the stop strings as tokens, each at least one
    """

    def __init__(self, patterns: Sequence[Sequence[int]]) -> None:
        self.lengths = [len(pattern) for pattern in patterns]
        self._tokens = array("i", [_NONE, _NONE])
        """Of each node, the last token of its beginning; none at the root and behind the last node of each pattern."""
        self.first: dict[int, int] = {}
        """By token, the nodes after the root."""
        self._parted = {0: self.first}
        """By node and token, the nodes after it that have not the next number."""
        self.numbers: dict[int, int] = {}
        """By node, the pattern that it is; of equal ones the first."""
        before, depth = array("i", [0, 0]), array("i", [0, 0])
        for number, pattern in enumerate(patterns):
            self.numbers.setdefault(self._add(pattern, before, depth), number)
        self.held = depth
        """Of each node, how many of its tokens may still become a stop string."""
        self.shorter = array("i", bytes(depth.itemsize * len(depth)))
        """Of each node, that of the longest proper ending of its beginning that is a beginning too."""
        self.found = self.shorter[:]
        """Of each node, that of the longest ending of its beginning that is a pattern; 0: there is none."""
        self._link(before)

    def _add(self, pattern: Sequence[int], before: array[int], depth: array[int]) -> int:
        """Add the nodes of a pattern that are not there yet; returns its last node.

        Args:
            pattern: the pattern
            before: of each node, that of its beginning without the last token
            depth: of each node, the length of its beginning
        """
        node = 0
        for known, token in enumerate(pattern):
            if node and self._tokens[node + 1] == token:
                node += 1
            elif token in self._parted.get(node, ()):
                node = self._parted[node][token]
            else:
                start, end = len(depth), len(depth) + len(pattern) - known
                self._parted.setdefault(node, {})[token] = start
                self._tokens.extend([*pattern[known:], _NONE])
                before.extend([node, *range(start, end)])
                depth.extend([*range(known + 1, len(pattern) + 1), 0])
                return end - 1
        return node

    def _link(self, before: Sequence[int]) -> None:
        """The shortest beginnings first, so that those that others end with are linked already."""
        tokens, first, shorter, found, depth = self._tokens, self.first, self.shorter, self.found, self.held
        for node in self.numbers:
            found[node] = node
        for node in sorted(range(len(depth)), key=depth.__getitem__):
            if depth[node] > 1:
                ending = shorter[before[node]]
                if ending := self.after(ending, tokens[node]) if ending else first.get(tokens[node], 0):
                    shorter[node] = ending
                    found[node] = found[node] or found[ending]
        for node in sorted(self.numbers, key=depth.__getitem__):
            # A whole pattern is no beginning, but where it is that of a longer one.
            if tokens[node + 1] == _NONE and node not in self._parted:
                self.held[node] = self.held[shorter[node]]

    def after(self, node: int, token: int) -> int:
        """The node of the longest ending, after one more token, that is a beginning."""
        while node:
            if self._tokens[node + 1] == token:
                return node + 1
            if node in self._parted and token in self._parted[node]:
                return self._parted[node][token]
            node = self.shorter[node]
        return self.first.get(token, 0)


class StopMatcher:
    """Looks for the first end of any pattern.

    Where several patterns end at once, the longest counts.

    Args:
        automaton: of the patterns
        include: whether the text is to end with the stop string
        min_tokens: a stop string that would leave a shorter text than this does not count
    """

    def __init__(self, automaton: StopAutomaton, *, include: bool, min_tokens: int) -> None:
        self._automaton = automaton
        self.include = include
        self._min_tokens = min_tokens
        self._node = 0
        self._count = 0

    def push(self, tokens: Sequence[int]) -> Match | None:
        """Go on with these generated tokens; returns the match, after which there is nothing more to push."""
        automaton, node, count = self._automaton, self._node, self._count
        first, found = automaton.first, automaton.found
        match = None
        for token in tokens:
            node = automaton.after(node, token) if node else first.get(token, 0)
            count += 1
            if found[node] and (match := self._match(found[node], count)):
                break
        self._node, self._count = node, count
        return match

    def _match(self, node: int, end: int) -> Match | None:
        """The longest pattern that counts, of that of a node and those that it ends with."""
        automaton = self._automaton
        while node:
            pattern = automaton.numbers[node]
            start = end - automaton.lengths[pattern]
            if (end if self.include else start) >= self._min_tokens:
                return Match(pattern, start, end)
            node = automaton.found[automaton.shorter[node]]
        return None

    @property
    def open(self) -> int:
        """How many of the last tokens may still become a stop string."""
        return self._automaton.held[self._node]

    @property
    def held(self) -> int:
        """How many of them the text is to end before, if they do."""
        return 0 if self.include else self.open
