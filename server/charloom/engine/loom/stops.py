"""Finding stop strings in generated tokens, wherever the cuts between ticks fall.

It is the automaton of Aho and Corasick (1975, "Efficient string matching"): one table lookup per token, whatever the
number of stop strings, and its depth is exactly the number of tokens that may still become a stop string.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class Match(NamedTuple):
    """A stop string that was found."""

    pattern: int
    """Which of the patterns."""
    start: int
    """Generated tokens before it."""
    end: int
    """Generated tokens up to its end."""


class StopMatcher:
    """Looks for the first end of any pattern.

    Where several patterns end at once, the longest counts.

    Args:
        patterns: the stop strings as tokens, each at least one
        include: whether the text is to end with the stop string
        min_tokens: a stop string that would leave a shorter text than this does not count
    """

    def __init__(self, patterns: Sequence[Sequence[int]], *, include: bool, min_tokens: int) -> None:
        self._lengths = [len(pattern) for pattern in patterns]
        self.include = include
        self._min_tokens = min_tokens
        # Node 0 is the root; a node stands for a beginning of some pattern.
        self._next: list[dict[int, int]] = [{}]
        self._depth = [0]
        self._shorter = [0]
        """The node of the longest proper ending of this beginning that is a beginning too."""
        self._found: list[list[int]] = [[]]
        """Patterns that end at this node, the longest first."""
        for number, pattern in enumerate(patterns):
            self._add(number, pattern)
        self._link()
        self._node = 0
        self._count = 0

    def _add(self, number: int, pattern: Sequence[int]) -> None:
        node = 0
        for token in pattern:
            if token not in self._next[node]:
                self._next[node][token] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[node] + 1)
                self._shorter.append(0)
                self._found.append([])
            node = self._next[node][token]
        self._found[node].append(number)

    def _link(self) -> None:
        """Breadth first, so that shorter beginnings are linked already."""
        self._held = [0] * len(self._next)
        waiting = deque(self._next[0].values())
        while waiting:
            node = waiting.popleft()
            # A whole pattern is no beginning, but where it is that of a longer one.
            self._held[node] = self._depth[node] if self._next[node] else self._held[self._shorter[node]]
            for token, child in self._next[node].items():
                self._shorter[child] = self._step(self._shorter[node], token)
                self._found[child] += self._found[self._shorter[child]]
                waiting.append(child)

    def _step(self, node: int, token: int) -> int:
        while node and token not in self._next[node]:
            node = self._shorter[node]
        return self._next[node].get(token, 0)

    def push(self, tokens: Sequence[int]) -> Match | None:
        """Go on with these generated tokens; returns the match, after which there is nothing more to push."""
        for token in tokens:
            self._node = self._step(self._node, token)
            self._count += 1
            for pattern in self._found[self._node]:
                start = self._count - self._lengths[pattern]
                if (self._count if self.include else start) >= self._min_tokens:
                    return Match(pattern, start, self._count)
        return None

    @property
    def open(self) -> int:
        """How many of the last tokens may still become a stop string."""
        return self._held[self._node]

    @property
    def held(self) -> int:
        """How many of them the text is to end before, if they do."""
        return 0 if self.include else self.open
