"""Finds stop strings in generated tokens, also across ticks.

Uses the automaton of Aho and Corasick (1975, "Efficient string matching"): about one lookup per token, whatever the
number of stop strings. The depth of its state is exactly the number of tokens that may still become a stop string.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

_NONE = -1
"""Stands for "no token" in `StopAutomaton._tokens`."""


class Match(NamedTuple):
    """A stop string that was found."""

    pattern: int
    """Its index among the patterns."""
    start: int
    """Number of generated tokens before it."""
    end: int
    """Number of generated tokens up to its end."""


class StopAutomaton:
    """The immutable automaton of some patterns, shared by all searches. Kept in a few arrays, as a pattern may be long.

    A node is a prefix of some pattern; the root, 0, is the empty prefix. From the token on where a pattern differs from
    all earlier patterns, its nodes are numbered consecutively, so only the edge to the first of them is stored.

    Args:
        patterns: the stop strings as tokens, each at least one
    """

    def __init__(self, patterns: Sequence[Sequence[int]]) -> None:
        self.lengths = [len(pattern) for pattern in patterns]
        self._tokens = array("i", [_NONE, _NONE])
        """By node, the last token of its prefix; `_NONE` for the root, and after the last node of each pattern."""
        self.first: dict[int, int] = {}
        """By token, the child of the root."""
        self._parted = {0: self.first}
        """By node and token, the children that are not numbered `node + 1`."""
        self.numbers: dict[int, int] = {}
        """By node, the index of the pattern that it completes; the first of equal patterns."""
        before, depth = array("i", [0, 0]), array("i", [0, 0])
        for number, pattern in enumerate(patterns):
            self.numbers.setdefault(self._add(pattern, before, depth), number)
        self.held = depth
        """By node, how many of its last tokens may still become a stop string."""
        self.shorter = array("i", bytes(depth.itemsize * len(depth)))
        """By node, the failure link: the node of its longest proper suffix that is a prefix of a pattern."""
        self.found = self.shorter[:]
        """By node, the node of its longest suffix that is a whole pattern; 0: there is none."""
        self._link(before)

    def _add(self, pattern: Sequence[int], before: array[int], depth: array[int]) -> int:
        """Add the missing nodes of a pattern; returns its last node.

        Args:
            pattern: the pattern
            before: by node, its parent
            depth: by node, the length of its prefix
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
        """Set the failure links, shortest prefixes first, because a link uses those of shorter prefixes."""
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
            # A whole pattern cannot grow into another, except where it is a prefix of a longer one.
            if tokens[node + 1] == _NONE and node not in self._parted:
                self.held[node] = self.held[shorter[node]]

    def after(self, node: int, token: int) -> int:
        """The node after one more token: the longest suffix of the text that is a prefix of a pattern."""
        while node:
            if self._tokens[node + 1] == token:
                return node + 1
            if node in self._parted and token in self._parted[node]:
                return self._parted[node][token]
            node = self.shorter[node]
        return self.first.get(token, 0)


class StopMatcher:
    """Finds the pattern that ends first; of several that end at the same token, the longest.

    Args:
        automaton: the automaton of the patterns
        include: whether the text includes the stop string
        min_tokens: a stop string that would make the text shorter than this is ignored
    """

    def __init__(self, automaton: StopAutomaton, *, include: bool, min_tokens: int) -> None:
        self._automaton = automaton
        self.include = include
        self._min_tokens = min_tokens
        self._node = 0
        self._count = 0

    def push(self, tokens: Sequence[int]) -> Match | None:
        """Search these further generated tokens; after a match, do not push any more."""
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
        """The longest pattern that ends here and leaves at least `min_tokens`; `node` is the longest that ends here."""
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
        """How many of the last tokens may still be cut off by a stop string; 0 if the text includes it."""
        return 0 if self.include else self.open
